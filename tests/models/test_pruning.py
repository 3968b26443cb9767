"""Shallower copies: which there are, that every part fits, and which layers stay."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from raykd.models import CNN, MLP, VGG, Architecture, MobileNetV2, ResNet, ShuffleNetV2, TorchVision, WideResNet, size
from raykd.models.pruning import parts, shallower, spread
from raykd.models.scaling import geometric

FAMILIES: list[Architecture] = [
    ResNet(26, shape=(1, 8, 8)),
    ResNet(20, 2, shape=(1, 8, 8)),
    WideResNet(28, 1, shape=(1, 8, 8)),
    VGG(19, shape=(1, 8, 8)),
    MLP((16, 16, 16), shape=(1, 8, 8)),
    MLP((24, 16, 8), shape=(1, 8, 8)),
]
by_name = pytest.mark.parametrize("large", FAMILIES, ids=str)


@by_name
def test_shallower_ones_are_as_wide_and_smaller_from_the_smallest(large: Architecture) -> None:
    found = shallower(large)
    sizes = [size(each).parameters for each in (*found, large)]
    assert sizes == sorted(set(sizes))
    for each in found:
        assert type(each) is type(large)
        assert (each.classes, each.shape, each.preprocess) == (large.classes, large.shape, large.preprocess)
        assert getattr(each, "width", None) == getattr(large, "width", None)


@by_name
def test_every_part_fits_and_together_they_are_all_of_the_copy_but_a_head_of_another_width(large: Architecture) -> None:
    theirs = large.build().body
    for small in shallower(large):
        ours, left = small.build().body, set(small.build().body.state_dict())
        for path, source in parts(small, large).items():
            state = theirs.get_submodule(source).state_dict()
            ours.get_submodule(path).load_state_dict(state)
            inside = {f"{path}.{name}" for name in ours.get_submodule(path).state_dict()}
            assert inside <= left  # no part is in another
            left -= inside
        assert left == (set() if large != MLP((24, 16, 8), shape=(1, 8, 8)) else {"fc.weight", "fc.bias"})


@by_name
def test_no_layer_is_taken_twice_and_their_order_stays(large: Architecture) -> None:
    order = {name: place for place, (name, _) in enumerate(large.build().body.named_modules())}
    for small in shallower(large):
        mine = {name: place for place, (name, _) in enumerate(small.build().body.named_modules())}
        found = sorted(parts(small, large).items(), key=lambda each: mine[each[0]])
        places = [order[theirs] for _, theirs in found]
        assert places == sorted(set(places))


@given(st.integers(1, 40), st.data())
def test_blocks_that_stay_are_spread_evenly_from_the_first_to_the_last(n: int, data: st.DataObject) -> None:
    m = data.draw(st.integers(1, n))
    found = spread(n, m)
    assert len(set(found)) == m
    assert found[0] == 0
    assert m == 1 or found[-1] == n - 1
    steps = [after - before for before, after in pairwise(found)]
    assert all(abs(step - (n - 1) / (m - 1)) <= 1 for step in steps)


def test_the_documented_example() -> None:
    found = parts(ResNet(20), ResNet(56))
    assert [found[f"layer1.{i}"] for i in range(3)] == ["layer1.0", "layer1.4", "layer1.8"]
    assert [str(each) for each in shallower(ResNet(26))] == ["resnet8", "resnet14", "resnet20"]


def test_a_residual_network_whose_left_out_blocks_add_nothing_is_its_copy() -> None:
    large, small = ResNet(26, shape=(1, 8, 8)), ResNet(14, shape=(1, 8, 8))
    whole, copy = large.build().eval(), small.build().eval()
    taken = parts(small, large)
    for path, source in taken.items():
        copy.body.get_submodule(path).load_state_dict(whole.body.get_submodule(source).state_dict())
    for stage in ("layer1", "layer2", "layer3"):
        for place in range(4):
            if f"{stage}.{place}" not in taken.values():
                change = whole.body.get_submodule(f"{stage}.{place}.bn2")
                torch.nn.init.zeros_(change.weight)  # type: ignore[arg-type]
    inputs = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(copy(inputs)["logits"], whole(inputs)["logits"])


@pytest.mark.parametrize("links", [1, 2, 3])
def test_pruned_sizes_are_as_near_to_a_geometric_series_as_depth_allows(links: int) -> None:
    teacher, student = ResNet(110), ResNet(8)
    found = geometric(teacher, student, links, family="pruned")
    members = shallower(teacher)
    ratio = size(student).parameters / size(teacher).parameters
    for i, each in enumerate(found, 1):
        target = size(teacher).parameters * ratio ** (i / (links + 1))
        off = {member: abs(math.log(size(member).parameters / target)) for member in members}
        assert off[each] <= max(min(off.values()), 0.02)


def test_pruned_links_stand_between_teacher_and_student_whatever_its_family() -> None:
    teacher, student = ResNet(56), CNN(16)
    found = geometric(teacher, student, 2, family="pruned")
    sizes = [size(each).parameters for each in (teacher, *found, student)]
    assert sizes == sorted(set(sizes), reverse=True)
    assert all(each in shallower(teacher) for each in found)
    assert geometric(ResNet(8), CNN(4), 3, family="pruned") == ()  # it has the fewest layers already


@pytest.mark.parametrize(
    ("architecture", "kind"),
    [
        (CNN(8), "cnn8 is a CNN"),
        (MobileNetV2(0.5), "is a MobileNetV2"),
        (ShuffleNetV2(1.0), "is a ShuffleNetV2"),
        (TorchVision("resnet18"), "is a TorchVision"),
    ],
)
def test_a_family_of_one_depth_is_refused(architecture: Architecture, kind: str) -> None:
    with pytest.raises(ValueError, match=f"{kind}.*, which has one depth only: MLP, ResNet, VGG and WideResNet"):
        shallower(architecture)


@pytest.mark.parametrize(
    ("small", "large"),
    [
        (ResNet(56), ResNet(20)),
        (ResNet(20), ResNet(20)),
        (ResNet(20), ResNet(56, 2)),
        (ResNet(20, classes=5), ResNet(56)),
        (WideResNet(16, 1), ResNet(56)),
        (MLP((8,)), MLP((16, 8))),
    ],
    ids=str,
)
def test_what_is_no_shallower_copy_has_no_parts(small: Architecture, large: Architecture) -> None:
    with pytest.raises(ValueError, match="is no shallower copy of"):
        parts(small, large)
