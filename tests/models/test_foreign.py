"""Networks that others wrote, and every way in which they can disappoint."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision import models as published

from raykd.identity import fingerprint
from raykd.models import Custom, TorchVision


def twice(width: int = 4) -> nn.Module:
    return nn.Sequential(nn.Linear(4, width), nn.ReLU(inplace=True), nn.Linear(width, 2))


def nothing() -> None:
    return None


def custom(function: str, options: dict[str, object] | None = None, revision: int = 1) -> Custom:
    return Custom(function, options or {}, revision, classes=2, shape=(4,))


def test_a_callable_is_built_with_its_options() -> None:
    network = custom(f"{__name__}:twice", {"width": 6}).build()
    assert network.body[0].out_features == 6
    assert network(torch.rand(3, 4))["logits"].shape == (3, 2)


def test_a_callable_is_its_name_options_and_revision() -> None:
    base = custom(f"{__name__}:twice")
    others = [
        custom(f"{__name__}:nothing"),
        custom(f"{__name__}:twice", {"width": 5}),
        custom(f"{__name__}:twice", revision=2),
    ]
    assert len({fingerprint(spec) for spec in [base, *others]}) == 4
    assert fingerprint(base) == fingerprint(custom(f"{__name__}:twice", {}))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("no.such.module:net", "module 'no.such.module' cannot be imported: No module named 'no'"),
        (f"{__name__}:twise", "has no function 'twise', it has twice"),
        (f"{__name__}:nothing", "returns a NoneType: it has to return an nn.Module"),
    ],
)
def test_a_callable_that_gives_no_module_is_refused_in_one_line(function: str, message: str) -> None:
    for ask in (custom(function).build, lambda: custom(function).check_tap("logits")):
        with pytest.raises(ValueError, match=message) as refusal:
            ask()
        assert "\n" not in str(refusal.value)


def test_a_name_without_a_function_and_options_without_identity_are_refused_when_written() -> None:
    for function in ("mine.models", "mine.models:", ":net", "mine:net()"):
        with pytest.raises(ValueError, match=r'it is written "package\.module:function"'):
            custom(function)
    with pytest.raises(ValueError, match=r"Custom.options\['width'\] is a lambda"):
        custom(f"{__name__}:twice", {"width": lambda: 1})


def test_logits_of_another_shape_are_refused() -> None:
    architecture = Custom(f"{__name__}:twice", classes=3, shape=(4,))
    for ask in (lambda: architecture.check_tap("logits"), lambda: architecture.build()(torch.rand(2, 4))):
        with pytest.raises(
            ValueError, match=r"the output of twice is \(2, 2\): logits are \[batch, classes\] = \(2, 3\)"
        ):
            ask()
    with pytest.raises(ValueError, match="the output of LSTM is tuple"):
        Custom("torch.nn:LSTM", {"input_size": 4, "hidden_size": 2}, classes=2, shape=(5, 4)).check_tap("logits")


def test_torchvision_computes_what_it_computes_alone_and_repeats_grey() -> None:
    network = TorchVision("resnet18", classes=10, shape=(1, 32, 32)).build().eval()
    reference = published.resnet18(num_classes=10).eval()
    reference.load_state_dict(network.body.state_dict())
    images = torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(network(images)["logits"], reference(images.repeat(1, 3, 1, 1)))


def test_torchvision_networks_with_side_heads_give_logits_in_training_too() -> None:
    network = TorchVision("googlenet", classes=10, shape=(3, 64, 64)).build().train()
    assert network(torch.rand(2, 3, 64, 64))["logits"].shape == (2, 10)


@pytest.mark.parametrize(
    ("name", "classifier"),
    [("vit_b_16", "heads.head"), ("densenet121", "classifier"), ("mobilenet_v2", "classifier.1")],
)
def test_the_classifier_of_a_foreign_network_is_found(name: str, classifier: str) -> None:
    assert TorchVision(name).classifier == classifier
