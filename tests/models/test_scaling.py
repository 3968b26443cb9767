"""Members of a family by size: against trying every member, and the laws of a geometric series."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raykd.models import (
    CNN,
    MLP,
    VGG,
    Architecture,
    MobileNetV2,
    Preprocess,
    ResNet,
    ShuffleNetV2,
    TorchVision,
    WideResNet,
    size,
)
from raykd.models.scaling import NEAR, geometric, scaled

GREY = {"shape": (1, 8, 8), "classes": 7, "preprocess": Preprocess(mean=(0.5,), std=(0.25,))}
FAMILIES: list[Architecture] = [
    CNN(8, **GREY),
    MLP((12, 6), **GREY),
    MLP((5,), **GREY),
    ResNet(14, **GREY),
    WideResNet(16, 1, **GREY),
    VGG(11, **GREY),
    MobileNetV2(0.5, **GREY),
    ShuffleNetV2(1.0, **GREY),
]
by_name = pytest.mark.parametrize("architecture", FAMILIES, ids=str)


@cache
def parameters(architecture: Architecture) -> int:
    """Counted from a network that is built."""
    with torch.device("meta"):
        return sum(weight.numel() for weight in architecture.build().parameters())


def off(architecture: Architecture, target: float) -> float:
    return abs(math.log(parameters(architecture) / target))


def members(architecture: Architecture) -> Iterator[Architecture]:
    """Many of a family, by turning its knobs through more than the targets of these tests need."""
    if isinstance(architecture, CNN):
        yield from (replace(architecture, width=width) for width in range(1, 40))
    elif isinstance(architecture, MobileNetV2):
        yield from (replace(architecture, width=step / 20) for step in range(1, 40))
    elif isinstance(architecture, ShuffleNetV2):
        yield from (replace(architecture, width=width) for width in (0.5, 1.0, 1.5, 2.0))
    elif isinstance(architecture, VGG):
        yield from (replace(architecture, depth=depth) for depth in (8, 11, 13, 16, 19))
    elif isinstance(architecture, MLP):
        for depth in range(1, len(architecture.hidden) + 1):
            hidden = architecture.hidden[:depth]
            for widest in range(1, 120):
                widths = tuple(max(1, round(width * widest / max(hidden))) for width in hidden)
                yield replace(architecture, hidden=widths)
    elif isinstance(architecture, ResNet | WideResNet):
        first = architecture.depth % 6
        yield from (
            replace(architecture, depth=6 * n + first, width=width) for n in range(1, 8) for width in range(1, 6)
        )


@by_name
@pytest.mark.parametrize("factor", [0.3, 0.8, 1.7, 4.0])
def test_no_member_is_nearer_beyond_what_counts_as_the_same(architecture: Architecture, factor: float) -> None:
    target = factor * parameters(architecture)
    found = scaled(architecture, target)
    nearest = min(off(member, target) for member in members(architecture))
    assert off(found, target) <= max(nearest, NEAR) + 1e-9


@by_name
def test_a_scaled_network_is_of_the_same_family_classes_shape_and_preprocessing(architecture: Architecture) -> None:
    found = scaled(architecture, 0.4 * parameters(architecture))
    assert type(found) is type(architecture)
    for name in ("classes", "shape", "preprocess"):
        assert getattr(found, name) == getattr(architecture, name)


@by_name
def test_every_member_is_what_its_own_size_asks_for_to_within_what_counts_as_the_same(
    architecture: Architecture,
) -> None:
    assert scaled(architecture, size(architecture).parameters) == architecture
    for member in list(members(architecture))[::7]:
        assert off(scaled(architecture, parameters(member)), parameters(member)) <= NEAR


@by_name
def test_more_parameters_are_never_a_smaller_network(architecture: Architecture) -> None:
    targets = [parameters(architecture) * 1.3**step for step in range(-8, 9)]
    found = [parameters(scaled(architecture, target)) for target in targets]
    # within what counts as the same the depth decides, so sizes may fall by that much
    assert all(after >= before * math.exp(-2 * NEAR) for before, after in pairwise(found))


def test_of_members_as_near_the_one_of_the_given_depth_is_taken() -> None:
    # a residual network of 8 layers and twice the width has the parameters of one of 26 layers, to a few hundredths
    assert scaled(ResNet(56), size(ResNet(20)).parameters) == ResNet(20)
    assert scaled(WideResNet(16, 4), size(WideResNet(16, 2)).parameters) == WideResNet(16, 2)
    assert scaled(MLP((64, 64), shape=(20,)), size(MLP((16, 16), shape=(20,))).parameters).hidden == (16, 16)


def test_a_perceptron_keeps_the_proportions_of_its_layers_and_loses_layers_only_where_it_must() -> None:
    wide = MLP((80, 40, 20), shape=(16,))
    small = scaled(wide, size(wide).parameters / 4)
    assert isinstance(small, MLP)
    first, second, third = small.hidden
    assert abs(second - first / 2) <= 0.5
    assert abs(third - first / 4) <= 0.5
    tiny = scaled(wide, 20)
    assert isinstance(tiny, MLP)
    assert set(tiny.hidden) == {1}


def test_the_published_networks_come_out_of_their_published_sizes() -> None:
    for member in (ResNet(8), ResNet(32), ResNet(110)):
        assert scaled(ResNet(56), size(member).parameters) == member
    assert scaled(WideResNet(40, 2), size(WideResNet(16, 2)).parameters) == WideResNet(16, 2)
    assert scaled(MobileNetV2(1.0), size(MobileNetV2(0.5)).parameters) == MobileNetV2(0.5)


CHAINS = [
    (CNN(32, shape=(1, 8, 8)), CNN(4, shape=(1, 8, 8)), "student", 0.15),
    (CNN(32, shape=(1, 8, 8)), MLP((8,), shape=(1, 8, 8)), "student", 0.1),
    (CNN(32, shape=(1, 8, 8)), MLP((8,), shape=(1, 8, 8)), "teacher", 0.25),
    (ResNet(110), ResNet(8), "student", 0.3),
    (MobileNetV2(2.0), MobileNetV2(0.25), "student", 0.15),
    (TorchVision("resnet18", classes=10), ResNet(8), "student", 0.3),
]


@pytest.mark.parametrize(("teacher", "student", "family", "granularity"), CHAINS, ids=lambda each: str(each))
@pytest.mark.parametrize("links", [0, 1, 2, 3])
def test_sizes_are_a_geometric_series_up_to_the_granularity_of_the_family_that_ends_at_the_students(
    teacher: Architecture, student: Architecture, family: Literal["student", "teacher"], granularity: float, links: int
) -> None:
    found = geometric(teacher, student, links, family=family)
    assert len(found) == links
    sizes = [size(each).parameters for each in (teacher, *found, student)]
    ratio = sizes[-1] / sizes[0]
    for i, each in enumerate(sizes):
        assert abs(math.log(each / (sizes[0] * ratio ** (i / (links + 1))))) <= granularity
    kind = type(student if family == "student" else teacher)
    assert all(type(each) is kind for each in found)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 60), st.data(), st.integers(0, 9))
def test_sizes_fall_without_repetition_whatever_the_ends_and_the_links(
    width: int, data: st.DataObject, links: int
) -> None:
    small = data.draw(st.integers(1, width - 1))
    teacher, student = CNN(width, shape=(1, 8, 8)), CNN(small, shape=(1, 8, 8))
    widths = [each.width for each in (teacher, *geometric(teacher, student, links), student)]  # type: ignore[attr-defined]
    assert widths == sorted(set(widths), reverse=True)
    assert len(widths) <= links + 2


@pytest.mark.parametrize(
    ("teacher", "student"),
    [(ResNet(32, 4), ResNet(8, 4)), (WideResNet(40, 2), WideResNet(16, 2)), (ResNet(56), ResNet(8)), (VGG(19), VGG(8))],
    ids=str,
)
def test_between_two_of_a_family_every_knob_stands_between_theirs(teacher: Architecture, student: Architecture) -> None:
    for each in geometric(teacher, student, 4):
        for knob in ("depth", "width"):
            if hasattr(teacher, knob):
                assert getattr(student, knob) <= getattr(each, knob) <= getattr(teacher, knob)


def test_links_that_a_family_cannot_tell_apart_are_left_out() -> None:
    assert [str(each) for each in geometric(VGG(13), VGG(8), 3)] == ["vgg11"]
    assert geometric(ResNet(14), ResNet(8), 3) == ()
    assert geometric(CNN(3, shape=(1, 8, 8)), CNN(2, shape=(1, 8, 8)), 1) == ()


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda: scaled(TorchVision("resnet18"), 1e6), "TorchVision, which has one size only: CNN, MLP"),
        (lambda: scaled(CNN(8), 0), "a CNN of 0 parameters: 1 or more"),
        (lambda: scaled(CNN(8), math.nan), "a CNN of nan parameters"),
        (lambda: geometric(CNN(8), CNN(8), 1), "cnn8 has [0-9,]+ parameters and its teacher cnn8 [0-9,]+: it must be"),
        (lambda: geometric(CNN(8), CNN(4), -1), "links=-1 between cnn8 and cnn4: 0 or more"),
        (lambda: geometric(TorchVision("resnet18"), CNN(8), 1, family="teacher"), "which has one size only"),
    ],
)
def test_a_mistake_is_one_line(write: object, words: str) -> None:
    with pytest.raises(ValueError, match=words) as refusal:
        write()  # type: ignore[operator]
    assert "\n" not in str(refusal.value)
