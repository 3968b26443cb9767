"""Parameters against published counts, operations against closed forms."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from raykd.models import (
    MLP,
    VGG,
    Architecture,
    Custom,
    MobileNetV2,
    ResNet,
    ShuffleNetV2,
    Size,
    TorchVision,
    WideResNet,
    size,
)

# millions, for CIFAR-100: Tian, Krishnan, Isola (2020) and the tables of public CIFAR models
PUBLISHED = [
    (ResNet(20), 0.28),
    (ResNet(32), 0.47),
    (ResNet(56), 0.86),
    (ResNet(110), 1.74),
    (ResNet(8, 4), 1.23),
    (ResNet(32, 4), 7.43),
    (WideResNet(16, 2), 0.70),
    (WideResNet(40, 1), 0.57),
    (WideResNet(40, 2), 2.26),
    (VGG(8), 3.97),
    (VGG(13), 9.46),
    (MobileNetV2(0.5), 0.82),
    (MobileNetV2(1.0), 2.35),
    (MobileNetV2(1.4), 4.50),
    (ShuffleNetV2(0.5), 0.44),
    (ShuffleNetV2(1.0), 1.36),
    (ShuffleNetV2(1.5), 2.58),
    (ShuffleNetV2(2.0), 5.55),
]


@pytest.mark.parametrize(("spec", "millions"), PUBLISHED, ids=lambda value: str(value))
def test_a_network_has_as_many_parameters_as_published(spec: Architecture, millions: float) -> None:
    assert round(size(replace(spec, classes=100)).parameters / 1e6, 2) == millions


def test_resnet18_of_imagenet_has_its_published_size() -> None:
    assert size(TorchVision("resnet18")).parameters == 11_689_512
    assert round(size(TorchVision("resnet18")).flops / 2e9, 1) == 1.8  # published as multiply-adds


def test_a_pass_that_goes_no_further_than_a_tap_costs_what_lies_before_it() -> None:
    mlp = MLP((32, 16), shape=(1, 8, 8))
    assert [size(mlp, (tap,)).flops for tap in ("input", "layer1", "layer2", "pooled", "logits")] == [
        0, 2 * 64 * 32, 2 * (64 * 32 + 32 * 16), 2 * (64 * 32 + 32 * 16), size(mlp).flops,
    ]  # fmt: skip
    assert size(mlp, ("layer1", "logits")) == size(mlp)
    stages = [size(ResNet(20), (f"stage{i}",)).flops for i in (1, 2, 3)]
    assert 0 < stages[0] < stages[1] < stages[2] < size(ResNet(20)).flops


def test_a_perceptron_costs_two_operations_per_weight() -> None:
    weights = 64 * 32 + 32 * 16 + 16 * 10
    assert size(MLP((32, 16), shape=(1, 8, 8))) == Size(parameters=weights + 32 + 16 + 10, flops=2 * weights)


def convolution() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 5, 3, stride=2, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def test_a_convolution_costs_two_operations_per_weight_and_output_pixel() -> None:
    architecture = Custom(f"{__name__}:convolution", classes=5, shape=(3, 8, 8))
    assert size(architecture) == Size(parameters=3 * 5 * 9 + 5, flops=2 * 3 * 5 * 9 * 4 * 4)


def test_the_parameters_are_those_of_the_network_that_is_built() -> None:
    architecture = WideResNet(10, 2)
    assert size(architecture).parameters == sum(weight.numel() for weight in architecture.build().parameters())


def test_asking_again_computes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    size(ResNet(14))
    monkeypatch.setattr(torch, "no_grad", None)
    assert size(ResNet(14)).parameters > 0
