"""Laws of every architecture, and what is published about some of them."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision import models as published

from raykd.identity import fingerprint
from raykd.models import (
    CNN,
    IMAGENET,
    MLP,
    VGG,
    Architecture,
    Cohort,
    Custom,
    MobileNetV2,
    Preprocess,
    ResNet,
    Reusing,
    ShuffleNetV2,
    TorchVision,
    WideResNet,
)

GREY = Preprocess(mean=(0.5,), std=(0.25,))


def linear(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, outputs))


ZOO: list[Architecture] = [
    MLP((64, 32), shape=(1, 8, 8)),
    MLP((), shape=(20,), classes=2),
    MLP((16,), shape=(4,), preprocess=Preprocess(mean=(0.0, 1.0, 2.0, 3.0), std=(1.0,) * 4)),
    CNN(4, shape=(1, 8, 8)),
    CNN(8, shape=(1, 28, 28), preprocess=GREY),
    ResNet(8, shape=(1, 8, 8)),
    ResNet(14, shape=(1, 28, 28), classes=7),
    ResNet(8, 4, shape=(1, 8, 8), preprocess=Preprocess(resize=12, crop=10, mean=(0.5,) * 3, std=(0.25,) * 3)),
    WideResNet(10, 2, shape=(3, 8, 8)),
    WideResNet(16, 1, shape=(1, 12, 12)),
    VGG(8, shape=(1, 8, 8)),
    VGG(13, shape=(3, 28, 28)),
    MobileNetV2(0.5, shape=(1, 8, 8)),
    MobileNetV2(shape=(3, 32, 32)),
    ShuffleNetV2(0.5, shape=(1, 8, 8)),
    ShuffleNetV2(shape=(3, 32, 32)),
    TorchVision("resnet18", classes=10, shape=(1, 28, 28), preprocess=Preprocess(resize=32)),
    TorchVision("squeezenet1_1", classes=5, shape=(3, 64, 64)),
    TorchVision("resnet18", preprocess=IMAGENET),
    Custom(f"{__name__}:linear", {"inputs": 64, "outputs": 3}, classes=3, shape=(1, 8, 8)),
    Reusing(CNN(4, shape=(1, 8, 8), preprocess=GREY), CNN(8, shape=(1, 8, 8))),
    Reusing(VGG(8, shape=(1, 8, 8)), ResNet(8, shape=(1, 8, 8)), tap="stage5", reduction=4),
    Cohort((CNN(4, shape=(1, 8, 8)), MLP((16,), shape=(1, 8, 8), preprocess=GREY))),
]
every = pytest.mark.parametrize("architecture", ZOO, ids=lambda a: f"{a}-{'x'.join(map(str, a.shape))}")


def inputs(architecture: Architecture, batch: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(batch)
    return torch.randint(0, 256, (batch, *architecture.shape), generator=generator, dtype=torch.uint8)


@every
def test_every_tap_has_the_shape_that_was_announced_without_weights(architecture: Architecture) -> None:
    taps = ("input", *architecture.taps())
    with torch.no_grad():
        observed = architecture.build().eval()(inputs(architecture), taps)
    assert tuple(observed) == taps
    assert taps[-1] == "logits"
    assert observed["logits"].shape == (3, architecture.classes)
    assert {tap: tuple(value.shape[1:]) for tap, value in observed.items()} == {
        tap: architecture.tap_shape(tap) for tap in taps
    }


@every
def test_a_row_does_not_depend_on_the_rest_of_its_batch(architecture: Architecture) -> None:
    torch.manual_seed(0)
    network, rows = architecture.build().eval(), inputs(architecture)
    with torch.no_grad():
        together, alone = network(rows)["logits"][:1], network(rows[:1])["logits"]
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


@every
def test_the_pooled_feature_is_what_the_classifier_turns_into_logits(architecture: Architecture) -> None:
    if architecture.classifier is None:
        assert "pooled" not in architecture.taps()
        return
    network = architecture.build().eval()
    with torch.no_grad():
        observed = network(inputs(architecture), ("pooled", "logits"))
        logits_BC = network.body.get_submodule(architecture.classifier)(observed["pooled"])
    assert observed["pooled"].dim() == 2
    torch.testing.assert_close(logits_BC, observed["logits"])


@every
def test_nothing_in_a_body_overwrites_its_input(architecture: Architecture) -> None:
    assert not [path for path, module in architecture.build().body.named_modules() if getattr(module, "inplace", False)]


@every
def test_equal_seeds_build_equal_networks(architecture: Architecture) -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(architecture.build().body.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@every
def test_asking_without_weights_leaves_the_generator_alone(architecture: Architecture) -> None:
    fresh = replace(architecture, classes=architecture.classes, preprocess=replace(architecture.preprocess))
    before = torch.get_rng_state()
    fresh.taps()
    fresh.tap_shape("logits")
    assert torch.equal(before, torch.get_rng_state())


@every
def test_equal_specs_are_one_and_survive_a_journey(architecture: Architecture) -> None:
    for other in (copy.deepcopy(architecture), pickle.loads(pickle.dumps(architecture))):
        assert other == architecture
        assert hash(other) == hash(architecture)
        assert fingerprint(other) == fingerprint(architecture)


def test_different_specs_have_different_fingerprints() -> None:
    assert len({fingerprint(architecture) for architecture in ZOO}) == len(ZOO)
    base = ResNet(20, classes=10)
    changed = [
        replace(base, classes=11),
        replace(base, shape=(1, 32, 32)),
        replace(base, preprocess=Preprocess(resize=32)),
    ]
    assert len({fingerprint(spec) for spec in [base, *changed]}) == 4


def test_lists_are_taken_as_tuples() -> None:
    written = MLP([64, 64], shape=[1, 8, 8], preprocess=Preprocess(mean=[0.5], std=[0.5]))  # type: ignore[arg-type]
    assert written == MLP((64, 64), shape=(1, 8, 8), preprocess=Preprocess(mean=(0.5,), std=(0.5,)))


def test_names_are_those_of_the_literature() -> None:
    specs = [ResNet(20), ResNet(8, 4), WideResNet(40, 2), MLP((64, 64)), VGG(8), MobileNetV2(0.5), ShuffleNetV2(1.0)]
    expected = ["resnet20", "resnet8x4", "wrn40-2", "mlp64-64", "vgg8", "mobilenetv2-0.5", "shufflenetv2-1"]
    assert [str(spec) for spec in specs] == expected


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda: ResNet(21), "ResNet depth=21: it is 6n \\+ 2, such as 8, 14, 20"),
        (lambda: ResNet(2), "6n \\+ 2"),
        (lambda: ResNet(20, 0), "width=0: at least 1"),
        (lambda: ResNet(shape=(64,)), "reads images \\(C, H, W\\)"),
        (lambda: WideResNet(20), "WideResNet depth=20: it is 6n \\+ 4"),
        (lambda: VGG(12), "VGG depth=12: one of 8, 11, 13, 16, 19"),
        (lambda: MobileNetV2(0.0), "width=0.0: positive"),
        (lambda: ShuffleNetV2(0.75), "width=0.75: one of 0.5, 1.0, 1.5, 2.0"),
        (lambda: CNN(0), "width=0: at least 1"),
        (lambda: CNN(shape=(1, 2, 2)), "at least \\(4, 4\\)"),
        (lambda: MLP((64, 0)), "hidden=\\(64, 0\\): every width is at least 1"),
        (lambda: MLP(classes=0), "MLP classes=0: at least 1"),
        (lambda: MLP(shape=()), "shape=\\(\\)"),
        (lambda: MLP(shape=(8,), preprocess=Preprocess(resize=4)), "no image"),
        (lambda: MLP(shape=(8,), preprocess=GREY), "has 8 channels, the network reads 1"),
        (lambda: ResNet(shape=(1, 8, 8), preprocess=Preprocess(crop=9)), "preprocess.crop=9 is larger than the image"),
        (lambda: TorchVision("resnet19"), "no classifier 'resnet19': it has resnet1"),
        (lambda: TorchVision("resnet18", shape=(4, 32, 32)), "4 channels, the network reads 3: give 3 or 1"),
        (lambda: TorchVision("resnet18", preprocess=GREY), "preprocess.mean=\\(0.5,\\) has 1 values"),
    ],
)
def test_a_spec_that_cannot_be_is_refused_when_it_is_written(write: object, message: str) -> None:
    with pytest.raises(ValueError, match=message) as refusal:
        write()  # type: ignore[operator]
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("size", [8, 13, 32])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("family", [MLP, CNN, ResNet, WideResNet, VGG, MobileNetV2, ShuffleNetV2])
def test_every_family_reads_small_images(family: type[Architecture], channels: int, size: int) -> None:
    assert family(shape=(channels, size, size)).tap_shape("logits") == (10,)


def test_mobilenet_computes_what_torchvision_computes_at_these_strides() -> None:
    network = MobileNetV2(0.5, classes=10).build()
    reference = published.mobilenet_v2(width_mult=0.5, num_classes=10)
    reference.features[0][0].stride = reference.features[2].conv[1][0].stride = (1, 1)
    same_logits(network.body, reference)


def test_shufflenet_computes_what_torchvision_computes_without_its_early_halving() -> None:
    reference = published.shufflenet_v2_x0_5(num_classes=10)
    reference.conv1[0].stride, reference.maxpool = (1, 1), nn.Identity()
    same_logits(ShuffleNetV2(0.5, classes=10).build().body, reference)


@pytest.mark.parametrize("block", ["layer1.0", "layer2.0"])
def test_a_residual_block_computes_what_torchvision_computes(block: str) -> None:
    ours = ResNet(8).build().body.get_submodule(block)
    inputs, outputs, stride = (16, 16, 1) if block == "layer1.0" else (16, 32, 2)
    shortcut = nn.Sequential(nn.Conv2d(16, 32, 1, 2, bias=False), nn.BatchNorm2d(32)) if stride == 2 else None
    reference = published.resnet.BasicBlock(inputs, outputs, stride, shortcut)
    same_logits(ours, reference, channels=16)


def test_vgg_computes_what_torchvision_computes_up_to_its_last_pool() -> None:
    ours, reference = (
        VGG(11).build().body.eval(),
        published.vgg.make_layers(published.vgg.cfgs["A"], batch_norm=True)[:-1].eval(),
    )
    for mine, theirs in zip(ours.parameters(), reference.parameters(), strict=False):  # ours ends with the classifier
        theirs.data.copy_(mine)
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        expected = reference(images).mean((2, 3)) @ ours.classifier.weight.T + ours.classifier.bias
        torch.testing.assert_close(ours(images), expected)


def test_a_wide_residual_network_activates_before_it_convolves() -> None:
    architecture = WideResNet(10, 2, shape=(3, 8, 8))
    network, images = architecture.build().eval(), torch.rand(2, 3, 8, 8)
    body = network.body
    with torch.no_grad():
        state = body.conv1(images)
        for name, stride in (("block1", 1), ("block2", 2), ("block3", 2)):
            block = body.get_submodule(f"{name}.layer.0")
            active = F.relu(block.bn1(state))
            inside = F.relu(block.bn2(F.conv2d(active, block.conv1.weight, None, stride, 1)))
            change = F.conv2d(inside, block.conv2.weight, None, 1, 1)
            state = change + F.conv2d(active, block.convShortcut.weight, None, stride)
        last = F.relu(body.bn1(state))
        observed = network(images, ("stage3", "logits"))
    torch.testing.assert_close(observed["stage3"], last)
    torch.testing.assert_close(observed["logits"], body.fc(last.mean((2, 3))))


def same_logits(ours: nn.Module, reference: nn.Module, channels: int = 3) -> None:
    reference.load_state_dict(ours.state_dict())
    images = torch.rand(2, channels, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(images), reference.eval()(images))
