"""Observing a network: by which names, without harm to it, and what is refused."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raykd.models import CNN, Custom, ResNet, TorchVision


class Overwriting(nn.Module):
    """Its second operation overwrites what its first gave, once as a module and once as a function."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.relu, self.second = nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 4)
        self.unused, self.pair, self.head = nn.Linear(4, 4), Pair(), nn.Linear(4, 2)

    def forward(self, x_BD: Tensor) -> Tensor:
        y_BD = self.second(self.relu(self.first(x_BD)))
        F.relu(y_BD, inplace=True)
        return self.head(self.pair(y_BD)[0])


class Pair(nn.Module):
    def forward(self, x_BD: Tensor) -> tuple[Tensor, Tensor]:
        return x_BD, x_BD


class Failing(nn.Module):
    """Runs once, on the blueprint; then never again."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 2)

    def forward(self, x_BD: Tensor) -> Tensor:
        if not x_BD.is_meta:
            self.fc(x_BD)
            raise ArithmeticError("on purpose")
        return self.fc(x_BD)


class Counting(nn.Module):
    """Needs numbers: it cannot run on the meta device."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 2)

    def forward(self, x_BD: Tensor) -> Tensor:
        return self.fc(x_BD) if x_BD.sum().item() >= 0 else x_BD[:, :2]


class Repeating(nn.Module):
    """Its first layer runs three times, and a layer that never runs is there too."""

    def __init__(self) -> None:
        super().__init__()
        self.again, self.then, self.fc, self.unused = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2), nn.Linear(4, 4)

    def forward(self, x_BD: Tensor) -> Tensor:
        for _ in range(3):
            x_BD = self.again(x_BD)
        return self.fc(self.then(x_BD))


REPEATING = Custom(f"{__name__}:Repeating", classes=2, shape=(4,))
OVERWRITING = Custom(f"{__name__}:Overwriting", classes=2, shape=(4,))
FAILING = Custom(f"{__name__}:Failing", classes=2, shape=(4,))


def hooks(network: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in network.modules())


def test_a_tap_is_a_name_of_the_architecture_or_a_module_path() -> None:
    network, images = ResNet(8, shape=(3, 8, 8)).build().eval(), torch.rand(2, 3, 8, 8)
    observed = network(images, ("stage1", "layer1", "layer1.0.conv1", "fc", "logits"))
    torch.testing.assert_close(observed["stage1"], observed["layer1"])
    torch.testing.assert_close(observed["fc"], observed["logits"])
    assert observed["layer1.0.conv1"].shape == (2, 16, 8, 8)


def test_the_input_tap_is_the_raw_input_before_preprocessing() -> None:
    architecture = TorchVision("resnet18", classes=10, shape=(1, 8, 8))
    images = torch.randint(0, 256, (2, 1, 8, 8), dtype=torch.uint8)
    with torch.no_grad():
        observed = architecture.build().eval()(images, ("input",))
    assert list(observed) == ["input"]
    torch.testing.assert_close(observed["input"], images.float() / 255)
    assert architecture.tap_shape("input") == (1, 8, 8)


def test_taps_show_what_a_layer_gave_even_where_it_is_overwritten_later() -> None:
    network, inputs = OVERWRITING.build(), torch.randn(8, 4)
    observed = network(inputs, ("first", "second"))
    first = F.linear(inputs, network.body.first.weight, network.body.first.bias)
    second = F.linear(first.relu(), network.body.second.weight, network.body.second.bias)
    assert (first < 0).any()
    assert (second < 0).any()
    torch.testing.assert_close(observed["first"], first)
    torch.testing.assert_close(observed["second"], second)


def test_gradients_flow_through_taps() -> None:
    network = CNN(4, shape=(1, 8, 8)).build()
    network(torch.rand(2, 1, 8, 8), ("stage2",))["stage2"].sum().backward()
    assert network.body.stage1[0].weight.grad.abs().sum() > 0
    assert network.body.fc.weight.grad is None


def test_hooks_are_gone_after_the_call_and_after_an_exception() -> None:
    network = CNN(4, shape=(1, 8, 8)).build()
    network(torch.rand(2, 1, 8, 8), ("stage1", "pooled", "logits"))
    assert hooks(network) == 0
    failing = FAILING.build()
    with pytest.raises(ArithmeticError, match="on purpose"):
        failing(torch.rand(2, 4), ("fc", "pooled", "logits"))
    assert hooks(failing) == 0


def ran(network: nn.Module, inputs: Tensor, taps: tuple[str, ...]) -> list[str]:
    """The parts of the body that a pass runs, in their order."""
    seen: list[str] = []
    body = network.body
    handles = [
        module.register_forward_hook(lambda *_, name=name: seen.append(name)) for name, module in body.named_children()
    ]
    network(inputs, taps)
    for handle in handles:
        handle.remove()
    return seen


def test_a_pass_goes_no_further_than_its_deepest_tap_and_to_the_end_for_logits() -> None:
    network, images = CNN(4, shape=(1, 8, 8)).build(), torch.rand(2, 1, 8, 8)
    parts = [name for name, _ in network.body.named_children()]
    for tap in ("stage1", "stage2", "stage3", "fc"):
        assert ran(network, images, (tap,)) == parts[: parts.index(tap) + 1]
    assert ran(network, images, ("stage2", "input", "stage1")) == parts[: parts.index("stage2") + 1]
    assert ran(network, images, ("pooled",)) == parts[:-1]
    assert ran(network, images, ("stage1", "logits")) == parts
    assert ran(network, images, ("input",)) == []
    assert ran(network, images, ("stage1.0",)) == []  # within the first


def test_what_a_short_pass_shows_is_what_a_whole_one_does_and_deeper_batch_norms_stay() -> None:
    network, images = CNN(4, shape=(1, 8, 8)).build(), torch.rand(4, 1, 8, 8)
    torch.testing.assert_close(
        network.eval()(images, ("stage2",))["stage2"], network(images, ("stage2", "logits"))["stage2"]
    )
    before = copy.deepcopy(network.body.state_dict())
    network.train()(images, ("stage2",))
    after = network.body.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {
        f"stage{i}.1.{name}" for i in (1, 2) for name in ("running_mean", "running_var", "num_batches_tracked")
    }
    assert hooks(network) == 0


def test_what_runs_more_than_once_is_seen_at_its_last_run_whether_more_follows_or_not() -> None:
    network, inputs = REPEATING.build(), torch.randn(3, 4)
    assert (REPEATING.runs("again"), REPEATING.runs("then"), REPEATING.runs("unused")) == (3, 1, 0)
    expected = inputs
    for _ in range(3):
        expected = network.body.again(expected)
    for taps in (("again",), ("again", "then"), ("again", "logits")):
        torch.testing.assert_close(network(inputs, taps)["again"], expected)
    assert ran(network, inputs, ("again",)) == ["again"] * 3
    with pytest.raises(ValueError, match="tap 'unused' of Repeating never ran"):
        network(inputs, ("unused", "again"))


def test_what_lies_beyond_a_tap_is_what_it_does_not_depend_on() -> None:
    cnn = CNN(4, shape=(1, 8, 8))
    assert cnn.beyond("stage1") == ("stage2", "stage3", "fc")
    assert cnn.beyond("stage2.0") == ("stage2.1", "stage3", "fc")
    assert cnn.beyond("logits") == ()
    assert cnn.beyond("pooled") == ("fc",)
    assert ResNet(8, shape=(3, 8, 8)).beyond("layer2.0.conv1") == (
        "layer2.0.bn1", "layer2.0.conv2", "layer2.0.bn2", "layer2.0.downsample", "layer3", "fc",
    )  # fmt: skip
    assert REPEATING.beyond("again") == ("then", "fc", "unused")
    assert REPEATING.unread("then") == ("fc.weight", "fc.bias", "unused.weight", "unused.bias")


def test_an_unknown_tap_is_refused_before_any_compute() -> None:
    with pytest.raises(
        ValueError, match="unknown tap 'fd' of Failing: it has input, pooled, logits and 1 module paths such as"
    ):
        FAILING.build()(torch.rand(2, 4), ("fd",))
    architecture = ResNet(20, classes=100)
    for tap in ("stage4", "layer1.0.conv3", "", "module.fc"):
        with pytest.raises(ValueError, match=f"unknown tap '{tap}' of resnet20: it has input, stem, stage1, stage2"):
            architecture.check_tap(tap)
    for tap in ("input", "logits", "pooled", "stage3", "layer2.0.downsample.0"):
        architecture.check_tap(tap)


def test_a_tap_that_never_runs_or_is_no_tensor_is_refused_without_weights() -> None:
    with pytest.raises(ValueError, match="tap 'unused' of Overwriting never ran"):
        OVERWRITING.check_tap("unused")
    with pytest.raises(ValueError, match="tap 'pair' of Overwriting is a tuple"):
        OVERWRITING.check_tap("pair")


def test_inputs_of_another_shape_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"cnn4 was given inputs of shape \(3, 8, 8\) per sample: its spec says \(1, 8, 8\)"
    ):
        CNN(4, shape=(1, 8, 8)).build()(torch.rand(2, 3, 8, 8))


def test_a_body_that_needs_numbers_is_asked_with_numbers_and_the_generator_stays() -> None:
    architecture = Custom(f"{__name__}:Counting", classes=2, shape=(4,))
    before = torch.get_rng_state()
    assert architecture.tap_shape("fc") == (2,)
    assert architecture.classifier == "fc"
    assert torch.equal(before, torch.get_rng_state())


def test_threads_may_ask_at_the_same_moment() -> None:
    specs = [CNN(width, shape=(1, 8, 8)) for width in range(20, 24)] * 8
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(lambda spec: (spec.classifier, spec.tap_shape("pooled"), spec.tap_shape("stage1")), specs)
        )
    assert answers == [("fc", (4 * spec.width,), (spec.width, 8, 8)) for spec in specs]


def test_a_network_can_be_copied_and_sent() -> None:
    network, images = CNN(4, shape=(1, 8, 8)).build().eval(), torch.rand(2, 1, 8, 8)
    for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        torch.testing.assert_close(other(images, ("pooled",)), network(images, ("pooled",)))


def test_only_the_layer_that_gives_the_logits_is_the_classifier() -> None:
    assert ResNet(8).classifier == "fc"
    assert OVERWRITING.classifier == "head"
    assert Custom(f"{__name__}:scaled", classes=4, shape=(4,)).classifier is None
    assert Custom("torch.nn:Linear", {"in_features": 4, "out_features": 2}, classes=2, shape=(4,)).classifier == ""


def scaled() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.LogSoftmax(dim=1))
