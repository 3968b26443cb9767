"""CA-MKD: teachers by what they make of the label, against the formulas row by row."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from laws import NAMES, random_batch, rows_of, topk_of
from torch import Tensor, nn

from raykd.batch import Batch
from raykd.methods.camkd import CAMKD, CAMKDFeatures
from raykd.methods.kl import KL
from raykd.models import CNN, Custom
from raykd.objective import STUDENT, Context
from raykd.runtime import Display, Local
from raykd.signals import LOGITS, Signal
from raykd.stage import Pretrained
from raykd.storage import Storage
from raykd.terms import Constant, CrossEntropy, Distill

POOLED = Signal("pooled")
VECTORS = {STUDENT: (4,), "a": (7,), "b": (3,), "c": (4,)}
MAPS = {STUDENT: (4, 4, 4), "a": (7, 4, 4), "b": (3, 2, 2), "c": (4, 8, 8)}
SHAPES = pytest.mark.parametrize("shapes", [VECTORS, MAPS], ids=["vectors", "maps"])


def weights(costs: list[float]) -> list[float]:
    """The published formula for one row."""
    total = sum(math.exp(cost) for cost in costs)
    return [(1 - math.exp(cost) / total) / (len(costs) - 1) for cost in costs]


def with_features(shapes: dict[str, tuple[int, ...]], rows: int = 6, scale: float = 1.0) -> Batch:
    generator = torch.Generator().manual_seed(5)
    values = {name: scale * torch.randn(rows, *shape, generator=generator) for name, shape in shapes.items()}
    return replace(
        random_batch(rows=rows),
        student={POOLED: values[STUDENT].requires_grad_()},
        teachers={name: {POOLED: values[name]} for name in NAMES},
    )


def context(shapes: dict[str, tuple[int, ...]], heads: dict[str, nn.Module] | None = None) -> Context:
    torch.manual_seed(0)
    lent = heads or {name: nn.Linear(shapes[name][0], 5).requires_grad_(False) for name in NAMES}
    return Context({n: {POOLED: shape} for n, shape in shapes.items()}, NAMES, 5, 100, heads=lambda name: lent[name])


def built(shapes: dict[str, tuple[int, ...]]) -> nn.Module:
    module = context(shapes).build(CAMKDFeatures(), NAMES)
    assert isinstance(module, nn.Module)
    return module


def adapted(module: nn.Module, batch: Batch, t: int) -> Tensor:
    """The student's feature as teacher t's, by its weights alone. [B, D, ...]"""
    weight, bias = (value.double() for value in module.adapters[t].parameters())  # type: ignore[index]
    student = batch.student[POOLED].double()
    if student.ndim == 2:
        return student @ weight.T + bias
    return torch.einsum("bchw,dc->bdhw", student, weight[:, :, 0, 0]) + bias[:, None, None]


def halved(maps: Tensor) -> Tensor:
    return sum(maps[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)) / 4  # type: ignore[return-value]


def direct(module: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """Weights and distances by loops over rows, in float64. [T, B] each"""
    rows = len(batch.labels_B)
    costs, distances = torch.empty(3, rows).double(), torch.empty(3, rows).double()
    for t, name in enumerate(NAMES):
        ours, theirs = adapted(module, batch, t), batch.teachers[name][POOLED].double()  # type: ignore[union-attr]
        while ours.ndim == 4 and ours.shape[2] > theirs.shape[2]:
            ours = halved(ours)
        while ours.ndim == 4 and theirs.shape[2] > ours.shape[2]:
            theirs = halved(theirs)
        head = module.heads[t]  # type: ignore[index]
        for b in range(rows):
            vector = ours[b].reshape(ours.shape[1], -1).mean(1)
            logits = head.weight.double() @ vector + head.bias.double()
            costs[t, b] = -logits.log_softmax(0)[batch.labels_B[b]]
            distances[t, b] = (ours[b] - theirs[b]).square().sum() / theirs[b].numel()
    weight_TB = torch.tensor([weights(costs[:, b].tolist()) for b in range(rows)], dtype=torch.float64).T
    return weight_TB, distances


@pytest.mark.parametrize("names", [NAMES, NAMES[:2], ("c", "a")], ids=str)
def test_predictions_weigh_as_the_formula_says_and_a_row_adds_up_to_one(names: tuple[str, ...]) -> None:
    batch = random_batch()
    weight_TB = CAMKD()(batch, names)
    for b, label in enumerate(batch.labels_B.tolist()):
        costs = [-float(batch.teachers[name][LOGITS][b].double().log_softmax(0)[label]) for name in names]  # type: ignore[index]
        torch.testing.assert_close(
            weight_TB[:, b].double(), torch.tensor(weights(costs)).double(), rtol=1e-5, atol=1e-6
        )
    torch.testing.assert_close(weight_TB.sum(0), torch.ones(6))


def test_one_teacher_counts_one() -> None:
    assert (CAMKD()(random_batch(), ("b",)) == 1).all()


def test_equal_teachers_count_the_same() -> None:
    batch = random_batch()
    batch = replace(batch, teachers=dict.fromkeys(NAMES, batch.teachers["a"]))
    torch.testing.assert_close(CAMKD()(batch, NAMES), torch.full((3, 6), 1 / 3))


@pytest.mark.parametrize("scale", [0.0, 300.0, 1e4])
def test_flat_and_certain_teachers_have_finite_weights_that_add_up_to_one(scale: float) -> None:
    weight_TB = CAMKD()(random_batch(scale=scale), NAMES)
    assert torch.isfinite(weight_TB).all()
    torch.testing.assert_close(weight_TB.sum(0), torch.ones(6))


def test_of_two_teachers_each_has_its_share_of_the_probability_of_the_label() -> None:
    # exp(CE) = 1 / p, so what the other has of the sum is p / (p + p')
    batch = random_batch()
    p_TB = batch.true_class_probability_TB(("a", "b"))
    torch.testing.assert_close(CAMKD()(batch, ("a", "b")), p_TB / p_TB.sum(0))


def test_stored_classes_weigh_as_all_of_them_do() -> None:
    batch = random_batch()
    whole = {name: {LOGITS: topk_of(batch.teachers[name][LOGITS], k=5)} for name in NAMES}  # type: ignore[arg-type]
    torch.testing.assert_close(CAMKD()(replace(batch, teachers=whole), NAMES), CAMKD()(batch, NAMES))


def test_a_mixed_row_has_its_own_label() -> None:
    batch = random_batch(mix=True)
    torch.testing.assert_close(CAMKD()(batch, NAMES), CAMKD()(replace(batch, mix=None), NAMES))


@SHAPES
def test_features_agree_with_a_direct_computation(shapes: dict[str, tuple[int, ...]]) -> None:
    batch, module = with_features(shapes), built(shapes)
    weight_TB, distance_TB = direct(module, batch)
    value_B = module(batch)
    assert value_B.shape == (6,)
    assert value_B.dtype == torch.float32
    torch.testing.assert_close(value_B.double(), (weight_TB * distance_TB).sum(0), rtol=1e-4, atol=1e-5)


@SHAPES
def test_no_gradient_flows_through_the_weights(shapes: dict[str, tuple[int, ...]]) -> None:
    batch, module = with_features(shapes), built(shapes)
    weight_TB, distance_TB = direct(module, batch)
    learned = [batch.student[POOLED], *(p for p in module.parameters() if p.requires_grad)]
    found = torch.autograd.grad(module(batch).sum(), learned)
    expected = torch.autograd.grad((weight_TB.detach() * distance_TB).sum(), learned)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@SHAPES
def test_adapters_are_learned_and_classifiers_are_not(shapes: dict[str, tuple[int, ...]]) -> None:
    module = built(shapes)
    module(with_features(shapes)).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in module.adapters.parameters())  # type: ignore[union-attr]
    assert all(p.grad is None for p in module.heads.parameters())  # type: ignore[union-attr]


@SHAPES
@pytest.mark.parametrize("scale", [0.0, 300.0])
def test_features_are_finite_when_flat_and_when_huge(shapes: dict[str, tuple[int, ...]], scale: float) -> None:
    batch = with_features(shapes, scale=scale)
    value_B = built(shapes)(batch)
    (gradient,) = torch.autograd.grad(value_B.sum(), batch.student[POOLED])
    assert torch.isfinite(value_B).all()
    assert torch.isfinite(gradient).all()


def test_a_row_of_features_does_not_depend_on_the_others() -> None:
    batch, module = with_features(VECTORS), built(VECTORS)
    alone = torch.cat([module(rows_of(batch, torch.tensor([b]))) for b in range(6)])
    torch.testing.assert_close(alone, module(batch))


def test_one_teacher_is_compared_with_the_weight_one() -> None:
    batch, spec = with_features(VECTORS), CAMKDFeatures(teachers=("b",))
    module = context(VECTORS).build(spec, NAMES)
    expected = (adapted(module, batch, 0) - batch.teachers["b"][POOLED]).square().mean(1)  # type: ignore[arg-type, operator]
    torch.testing.assert_close(module(batch).double(), expected, rtol=1e-5, atol=1e-6)


def test_half_precision_features_are_compared_in_float32() -> None:
    batch, module = with_features(VECTORS), built(VECTORS)
    rounded = replace(
        batch,
        student={POOLED: batch.student[POOLED].half()},
        teachers={name: {POOLED: batch.teachers[name][POOLED].half()} for name in NAMES},  # type: ignore[union-attr]
    )
    again = replace(
        rounded,
        student={POOLED: rounded.student[POOLED].float()},
        teachers={name: {POOLED: rounded.teachers[name][POOLED].float()} for name in NAMES},  # type: ignore[union-attr]
    )
    torch.testing.assert_close(module(rounded), module(again))


def test_it_reads_the_student_and_the_teachers_named_at_their_taps() -> None:
    spec = CAMKDFeatures("stage3", "layer4", teachers=("a",))
    assert spec.needs(NAMES) == {STUDENT: {Signal("stage3")}, "a": {Signal("layer4")}}
    assert CAMKDFeatures().needs(("x", "y")) == {STUDENT: {POOLED}, "x": {POOLED}, "y": {POOLED}}


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda: CAMKDFeatures(teachers="teacher"), "a tuple of names"),  # type: ignore[arg-type]
        (lambda: (1.0 * CAMKDFeatures()).needs(()), "this stage has none"),
        (lambda: context({**VECTORS, "a": (7, 2, 2)}).build(CAMKDFeatures(), NAMES), "maps .* or vectors"),
        (lambda: context(VECTORS, dict.fromkeys(NAMES, nn.Linear(7, 5))).build(CAMKDFeatures(), NAMES), "of width 3"),
        (lambda: replace(context(VECTORS), heads=None).build(CAMKDFeatures(), NAMES), "no weights here"),
    ],
)
def test_a_mistake_is_refused(write: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        write()  # type: ignore[operator]


def test_a_teacher_without_a_linear_classifier_is_refused_when_the_stage_is_written() -> None:
    flat = Pretrained(Custom("torch.nn:Flatten", classes=64, shape=tiny.SHAPE))
    with pytest.raises(ValueError, match="'pooled' of Flatten"):
        replace(tiny.student(), teachers={"flat": flat}, objective=1.0 * CAMKDFeatures("input"))


def test_a_map_that_is_not_the_classifiers_is_refused_when_the_stage_is_written() -> None:
    stage = replace(tiny.teacher(), student=CNN(shape=tiny.SHAPE))
    teachers = {"one": stage, "other": stage}
    replace(stage, teachers=teachers, objective=1.0 * CAMKDFeatures("stage3"))
    with pytest.raises(ValueError, match="the classifier of one does not read features of width"):
        replace(stage, teachers=teachers, objective=1.0 * CAMKDFeatures("stage1"))


def test_the_whole_method_trains_and_leaves_the_teachers_classifiers_as_they_are(tmp_path: Path) -> None:
    teachers = {"one": tiny.teacher(), "other": tiny.teacher(width=24)}
    objective = CrossEntropy() + Distill(KL(), CAMKD(), Constant(4.0)) + 2 * CAMKDFeatures()
    stage = replace(tiny.student(epochs=4, replicas=1), teachers=teachers, objective=objective)
    runner = Local(Storage(tmp_path), Display(quiet=True))
    *made, trained = runner.run(*teachers.values(), stage)
    assert trained.metrics["test_top1"] > 0.4
    state = torch.load(runner.storage.folder(stage) / "checkpoint.pt", weights_only=True)["learner"]
    lent = {name: value for name, value in state.items() if "heads" in name and "weight" in name}
    assert len(lent) == 2
    for weight_CD, teacher in zip(lent.values(), made, strict=True):
        classifier = teacher.network.body.get_submodule(teacher.stage.student.classifier or "")
        torch.testing.assert_close(weight_CD, classifier.weight.detach(), rtol=0, atol=0)
