"""A student that ends with its teacher's classifier: what it computes, what is learned in it, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from raykd.models import (
    CNN,
    MLP,
    VGG,
    Architecture,
    Custom,
    MobileNetV2,
    Preprocess,
    ResNet,
    Reusing,
    TorchVision,
    size,
)

STUDENT, TEACHER = CNN(4, shape=(1, 8, 8)), CNN(6, shape=(1, 8, 8))


class WithoutClassifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 10, 3)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        return self.conv(images_BCHW).mean((2, 3))


WITHOUT = Custom(f"{__name__}:WithoutClassifier", shape=(1, 8, 8))


def images(rows: int = 3, side: int = 8) -> Tensor:
    return torch.rand(rows, 1, side, side)


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        (STUDENT, TEACHER),
        (STUDENT, VGG(8, shape=(1, 8, 8))),
        (VGG(8, shape=(1, 8, 8)), STUDENT),
        (ResNet(8, shape=(1, 8, 8)), TorchVision("resnet18", classes=10, shape=(1, 8, 8))),
        (TorchVision("resnet18", classes=10, shape=(1, 28, 28)), CNN(4, shape=(1, 28, 28))),
    ],
    ids=str,
)
def test_it_is_the_students_last_map_projected_averaged_and_classified(
    student: Architecture, teacher: Architecture
) -> None:
    taps = [next(tap for tap in reversed(each.taps()) if len(each.tap_shape(tap)) == 3) for each in (student, teacher)]
    architecture = Reusing(student, teacher, *taps)
    network, inputs = architecture.build().eval(), torch.rand(2, *student.shape)
    alone = student.build().eval()
    kept = {
        name: value for name, value in alone.body.state_dict().items() if name.rpartition(".")[0] != student.classifier
    }
    network.body.student.body.load_state_dict(kept)
    with torch.no_grad():
        found = network(inputs, (taps[0], "projected", "pooled", "logits"))
        own_BCHW = alone(inputs, (taps[0],))[taps[0]]
        x_BCHW = own_BCHW
        for module in network.body.projector:
            x_BCHW = module(x_BCHW)
        classifier = network.body.classifier
        logits_BC = x_BCHW.mean((2, 3)) @ classifier.weight.T + classifier.bias
    torch.testing.assert_close(found[taps[0]], own_BCHW)
    torch.testing.assert_close(found["projected"], x_BCHW)
    torch.testing.assert_close(found["pooled"], x_BCHW.mean((2, 3)))
    torch.testing.assert_close(found["logits"], logits_BC)
    theirs, ours = teacher.tap_shape(taps[1]), architecture.tap_shape("projected")
    assert ours == (theirs[0], *(min(s, t) for s, t in zip(own_BCHW.shape[2:], theirs[1:], strict=True)))


def test_the_projector_is_three_convolutions_each_with_batch_norm_and_relu() -> None:
    for reduction, between in ((1, 24), (2, 12), (24, 1)):
        body = Reusing(STUDENT, TEACHER, reduction=reduction).build().body
        convolutions = [module for module in body.projector.modules() if isinstance(module, nn.Conv2d)]
        assert [(each.in_channels, each.out_channels, each.kernel_size[0]) for each in convolutions] == [
            (16, between, 1),
            (between, between, 3),
            (between, 24, 1),
        ]
        assert [type(each).__name__ for each in body.projector.modules()].count("BatchNorm2d") == 3
    assert (Reusing(STUDENT, TEACHER).build()(images(), ("projected",))["projected"] >= 0).all()


def test_its_parameters_are_the_students_without_its_classifier_the_projectors_and_the_teachers_classifier() -> None:
    projector = 16 * 12 + 12 * 12 * 9 + 12 * 24 + 2 * (12 + 12 + 24)
    own_classifier, theirs = 16 * 10 + 10, 24 * 10 + 10
    expected = size(STUDENT).parameters - own_classifier + projector + theirs
    assert size(Reusing(STUDENT, TEACHER)).parameters == expected
    convolutions = 2 * 2 * 2 * (16 * 12 + 12 * 12 * 9 + 12 * 24)  # at 2x2 places
    assert size(Reusing(STUDENT, TEACHER)).flops == size(STUDENT).flops - 2 * 160 + convolutions + 2 * 240


def test_the_student_inside_starts_as_it_would_alone() -> None:
    torch.manual_seed(3)
    inside = Reusing(STUDENT, TEACHER).build().body.student.body.state_dict()
    torch.manual_seed(3)
    alone = STUDENT.build().body.state_dict()
    assert inside.keys() == alone.keys() - {"fc.weight", "fc.bias"}
    assert all(torch.equal(alone[name], value) for name, value in inside.items())


def test_the_classifier_has_the_shape_of_the_teachers() -> None:
    architecture = Reusing(STUDENT, TEACHER)
    assert architecture.classifier == "classifier"
    assert TEACHER.classifier is not None
    theirs = TEACHER.build().body.get_submodule(TEACHER.classifier)
    architecture.build().body.classifier.load_state_dict(theirs.state_dict())


def test_it_reads_what_the_student_reads() -> None:
    grey = Preprocess(mean=(0.5,), std=(0.25,))
    architecture = Reusing(replace(STUDENT, preprocess=grey), TEACHER)
    assert (architecture.classes, architecture.shape, architecture.preprocess) == (10, (1, 8, 8), grey)
    assert Reusing(TorchVision("resnet18", classes=10, shape=(1, 32, 32)), TEACHER, "stage4").channels == 3
    said = Reusing(STUDENT, TEACHER, classes=10, shape=[1, 8, 8], preprocess=STUDENT.preprocess)  # type: ignore[arg-type]
    assert said == Reusing(STUDENT, TEACHER)


def test_what_follows_the_students_last_map_overwrites_nothing() -> None:
    student = Custom(f"{__name__}:Overwriting", shape=(1, 8, 8))
    network = Reusing(student, TEACHER, "conv").build().eval()
    inputs = images()
    with torch.no_grad():
        found, expected = network.body.student(inputs), network.body.student.body.conv(inputs)
    assert torch.equal(found, expected)
    assert (found < 0).any()


class Overwriting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 5, 3), nn.Linear(5, 10)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        return self.head(nn.functional.relu(self.conv(images_BCHW), inplace=True).mean((2, 3)))


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda: Reusing(MLP((8,), shape=(1, 8, 8)), TEACHER, "layer1"), r"layer1 of mlp8 has the shape \(8,\)"),
        (lambda: Reusing(STUDENT, MLP((8,), shape=(1, 8, 8)), teacher_tap="layer1"), r"layer1 of mlp8 has the shape"),
        (lambda: Reusing(STUDENT, TEACHER, "pooled"), r"pooled of cnn4 has the shape \(16,\)"),
        (lambda: Reusing(STUDENT, TEACHER, "stage4"), "unknown tap 'stage4' of cnn4"),
        (lambda: Reusing(STUDENT, TEACHER, "stage2"), "stage3.0.weight of cnn4 is learned after stage2: name its last"),
        (lambda: Reusing(STUDENT, TEACHER, "input"), "stage1.0.weight of cnn4 is learned after input"),
        (lambda: Reusing(MobileNetV2(0.5), CNN(4), "stage4"), r"features.18.0.weight .* is learned after stage4"),
        (lambda: Reusing(STUDENT, TEACHER, teacher_tap="stage2"), "reads 24 numbers, and stage2 has 12 channels"),
        (lambda: Reusing(STUDENT, WITHOUT, teacher_tap="conv"), "are not those of a linear layer"),
        (lambda: Reusing(STUDENT, replace(TEACHER, classes=9)), "10 classes, and the teacher's classifier 9"),
        (lambda: Reusing(STUDENT, TEACHER, reduction=0), "reduction=0: 1 to the teacher's 24 channels"),
        (lambda: Reusing(STUDENT, TEACHER, reduction=25), "reduction=25"),
        (lambda: Reusing(STUDENT, TEACHER, classes=3), "Reusing classes=3: it is the student's, 10"),
        (lambda: Reusing(STUDENT, TEACHER, shape=(3, 8, 8)), "it is the student's"),
    ],
)
def test_what_cannot_be_is_refused_when_it_is_written(write: object, words: str) -> None:
    with pytest.raises(ValueError, match=words) as refusal:
        write()  # type: ignore[operator]
    assert "\n" not in str(refusal.value)


def test_a_student_whose_logits_are_its_average_needs_no_classifier() -> None:
    assert Reusing(WITHOUT, TEACHER, "conv").tap_shape("projected") == (24, 2, 2)
