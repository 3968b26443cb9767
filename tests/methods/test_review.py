"""ReviewKD against its formula computed one level and one map after the other, and its oracles."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from torch import Tensor
from torch.nn import functional as F

from raykd.batch import Batch, Progress
from raykd.budget import Budget
from raykd.data import View
from raykd.methods.review import ReviewKD, _Review, context_loss
from raykd.models import CNN
from raykd.objective import STUDENT, Context
from raykd.runtime import Display, Local
from raykd.signals import Signal
from raykd.stage import Stage
from raykd.storage import Storage
from raykd.terms import CrossEntropy

OURS = {"stage1": (4, 8, 8), "stage2": (6, 4, 4), "stage3": (10, 2, 2), "pooled": (10,)}
SAME_SIZE = {"stage1": (5, 8, 8), "stage2": (9, 4, 4), "stage3": (7, 2, 2), "pooled": (7,)}
LARGER = {"stage1": (5, 16, 16), "stage2": (9, 8, 8), "stage3": (7, 4, 4), "pooled": (7,)}
Shapes = dict[str, tuple[int, ...]]


def context(theirs: Shapes = SAME_SIZE, names: tuple[str, ...] = ("a",)) -> Context:
    networks = {STUDENT: OURS, **dict.fromkeys(names, theirs)}
    shapes = {name: {Signal(tap): shape for tap, shape in taps.items()} for name, taps in networks.items()}
    return Context(shapes, names, classes=3, rows=40)


def batch(theirs: Shapes = SAME_SIZE, scale: float = 1.0, names: tuple[str, ...] = ("a",), rows: int = 5) -> Batch:
    generator = torch.Generator().manual_seed(1)

    def maps(shapes: Shapes) -> dict[Signal, Tensor]:
        return {Signal(tap): scale * torch.randn(rows, *shape, generator=generator) for tap, shape in shapes.items()}

    return Batch(
        ids_B=torch.arange(rows),
        positions_B=torch.arange(rows),
        labels_B=torch.arange(rows) % 3,
        student={signal: values.requires_grad_() for signal, values in maps(OURS).items()},
        teachers={name: maps(theirs) for name in names},
        progress=Progress(epoch=0, epochs=2),
    )


def review(term: ReviewKD, theirs: Shapes = SAME_SIZE) -> _Review:
    torch.manual_seed(0)
    built = term.build(context(theirs))
    assert isinstance(built, _Review)
    return built


def levels(module: _Review, told: Batch) -> list[Tensor]:
    """What each level gives to compare, from shallow to deep, with torch's functions on the module's numbers."""
    fused: list[Tensor] = []
    carried: Tensor | None = None
    for (our, their), fusion in reversed(list(zip(module.levels, module.fusions, strict=True))):
        x = told.student[our]
        x = x.reshape(*x.shape[:2], *(x.shape[2:] or (1, 1)))
        x = normalised(torch.einsum("bchw,dc->bdhw", x, fusion.reduce[0].weight[:, :, 0, 0]))  # type: ignore[index, union-attr]
        if carried is not None:
            y = enlarged(carried, x.shape[2:])
            weight, bias = fusion.attend.weight, fusion.attend.bias  # type: ignore[union-attr]
            scores = torch.einsum("bchw,dc->bdhw", torch.cat([x, y], 1), weight[:, :, 0, 0]) + bias[:, None, None]  # type: ignore[index]
            a, b = (1 / (1 + torch.exp(-scores))).unbind(1)
            x = a[:, None] * x + b[:, None] * y
        theirs = told.teachers["a"][their].shape[2:] or (1, 1)  # type: ignore[union-attr]
        carried = enlarged(x, theirs)
        fused.append(normalised(F.conv2d(carried, fusion.expand[0].weight, padding=1)))  # type: ignore[index, union-attr]
    return fused[::-1]


def normalised(x: Tensor) -> Tensor:
    mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), keepdim=True, unbiased=False)
    return (x - mean) / (variance + 1e-5).sqrt()


def enlarged(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """The nearest value, for sizes that divide each other."""
    rows, columns = (torch.arange(new) * old // new for new, old in zip(size, x.shape[2:], strict=True))
    return x[:, :, rows][:, :, :, columns]


def context_loss_of(one: Tensor, other: Tensor) -> float:
    """HCL of two maps [C, H, H], in loops."""
    channels, side, _ = one.shape
    total, weights, weight = float((one - other).double().square().mean()), 1.0, 1.0
    for cells in (4, 2, 1):
        if cells >= side:
            continue
        assert side % cells == 0
        step, weight = side // cells, weight / 2
        squares = 0.0
        for c in range(channels):
            for i in range(cells):
                for j in range(cells):
                    where = (c, slice(i * step, (i + 1) * step), slice(j * step, (j + 1) * step))
                    squares += float(one[where].double().mean() - other[where].double().mean()) ** 2
        total, weights = total + weight * squares / (channels * cells**2), weights + weight
    return total / weights


@pytest.mark.parametrize("side", [1, 2, 4, 8, 16])
def test_the_context_loss_is_the_weighed_error_of_the_map_and_of_its_averages(side: int) -> None:
    one, other = torch.randn(3, 2, side, side), torch.randn(3, 2, side, side)
    expected = [context_loss_of(a, b) for a, b in zip(one, other, strict=True)]
    torch.testing.assert_close(context_loss(one, other).tolist(), expected, rtol=1e-5, atol=1e-6)


def test_an_error_that_is_the_same_everywhere_counts_once_whatever_the_size() -> None:
    for side in (1, 2, 3, 4, 7, 8, 16):
        one = torch.randn(2, 5, side, side)
        torch.testing.assert_close(context_loss(one + 3.0, one), torch.full((2,), 9.0))
        assert (context_loss(one, one) == 0).all()


def test_an_error_that_averages_out_counts_at_the_whole_size_only() -> None:
    board = (torch.arange(8)[:, None] + torch.arange(8)) % 2 * 2.0 - 1
    torch.testing.assert_close(context_loss(board[None, None], torch.zeros(1, 1, 8, 8)), torch.tensor([1 / 1.875]))


@pytest.mark.parametrize("theirs", [SAME_SIZE, LARGER], ids=["same size", "larger teacher"])
@pytest.mark.parametrize("taps", [("stage1", "stage2", "stage3", "pooled"), ("stage1", "stage3"), ("stage2",)])
def test_it_is_the_published_loss(theirs: Shapes, taps: tuple[str, ...]) -> None:
    module, told = review(ReviewKD(taps), theirs), batch(theirs)
    found_B, expected = module(told), [0.0] * 5
    for (_, signal), fused in zip(module.levels, levels(module, told), strict=True):
        target = told.teachers["a"][signal]
        assert isinstance(target, Tensor)
        for row, (one, other) in enumerate(zip(fused.detach(), target, strict=True)):
            expected[row] += context_loss_of(one, other.reshape(one.shape))
    torch.testing.assert_close(found_B.tolist(), expected, rtol=1e-3, atol=1e-4)


def test_inside_it_is_as_wide_as_the_students_deepest_level_and_no_wider_than_told() -> None:
    for term, width in ((ReviewKD(), 10), (ReviewKD(width=3), 3), (ReviewKD(("stage1", "stage2")), 6)):
        for fusion in review(term).fusions:
            assert fusion.reduce[0].out_channels == width  # type: ignore[index, union-attr]


def test_only_the_deepest_level_has_nothing_to_fuse_with() -> None:
    assert [fusion.attend is None for fusion in review(ReviewKD()).fusions] == [False, False, False, True]


def test_a_level_of_the_teacher_teaches_that_level_of_the_student_and_all_deeper_ones() -> None:
    module, told = review(ReviewKD()), batch()
    for depth, (_, signal) in enumerate(module.levels):
        (level,) = [fused for i, fused in enumerate(levels(module, told)) if i == depth]
        gradients = torch.autograd.grad(level.square().sum(), list(told.student.values()), allow_unused=True)
        assert [gradient is not None for gradient in gradients] == [our >= depth for our in range(4)], signal


def test_every_part_of_the_fusion_is_taught() -> None:
    module, told = review(ReviewKD()), batch()
    module(told).sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert all(values.grad is not None for values in told.student.values())


def test_in_evaluation_a_row_does_not_depend_on_the_others() -> None:
    module, told = review(ReviewKD()).eval(), batch()
    one = replace(
        told,
        labels_B=told.labels_B[2:3],
        student={signal: values[2:3] for signal, values in told.student.items()},
        teachers={"a": {signal: values[2:3] for signal, values in told.teachers["a"].items()}},
    )
    torch.testing.assert_close(module(one), module(told)[2:3])


@pytest.mark.parametrize("scale", [0.0, 1e-3, 300.0])
def test_value_and_gradient_are_finite_for_flat_and_for_huge_activations(scale: float) -> None:
    module, told = review(ReviewKD()), batch(scale=scale)
    value_B = module(told)
    assert value_B.dtype == torch.float32
    assert value_B.isfinite().all()
    gradients = torch.autograd.grad(value_B.sum(), list(told.student.values()))
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_errors_are_taken_in_float32_in_mixed_precision() -> None:
    module, told = review(ReviewKD()), batch()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found_B = module(told)
    assert found_B.dtype == torch.float32
    torch.testing.assert_close(found_B, module(told), rtol=0.05, atol=0.05)


def test_several_teachers_have_fusions_of_their_own_and_count_evenly() -> None:
    told = batch(names=("a", "b"))
    criterion = (1.0 * ReviewKD()).build(context(names=("a", "b")))
    expected_B = torch.zeros(5)
    for module, name in zip(criterion.learned.values(), ("a", "b"), strict=True):
        assert isinstance(module, _Review)
        assert module.teacher == name
        expected_B += module(told).detach() / 2
    torch.testing.assert_close(criterion(told)[0].detach(), expected_B)
    assert len(criterion.learned) == 2


def test_it_reads_the_named_taps_of_the_named_teachers() -> None:
    term = ReviewKD(("stage1", "stage2"), ("stage3", "stage4"), teachers=("b",))
    assert term.needs(("a", "b")) == {
        STUDENT: {Signal("stage1"), Signal("stage2")},
        "b": {Signal("stage3"), Signal("stage4")},
    }
    assert ReviewKD(["stage1"]) == ReviewKD(("stage1",))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda: ReviewKD(()), "one or more taps"),
        (lambda: ReviewKD(("stage1", "stage2"), ("stage1",)), "as many teacher_taps or none"),
        (lambda: ReviewKD(("stage1",), ("stage1", "stage2")), "as many teacher_taps or none"),
        (lambda: ReviewKD(width=0), "width of 1 or more"),
        (lambda: ReviewKD().needs(()), "this stage has none"),
        (lambda: review(ReviewKD(), {**SAME_SIZE, "stage2": (3, 4)}), r"fuses maps .* has the shape \(3, 4\)"),
    ],
)
def test_what_cannot_be_is_refused(write: object, words: str) -> None:
    with pytest.raises(ValueError, match=words) as refusal:
        write()  # type: ignore[operator]
    assert "\n" not in str(refusal.value)


def test_its_batch_norms_and_convolutions_train_with_the_student(tmp_path: Path) -> None:
    view, budget = View(replace(tiny.DATASET, limit=200)), Budget(1, batch_size=50)
    teacher = Stage(CNN(3, shape=tiny.SHAPE), 1.0 * CrossEntropy(), view, budget=budget)
    stage = Stage(
        CNN(2, shape=tiny.SHAPE), CrossEntropy() + 0.6 * ReviewKD(), view, {"teacher": teacher}, budget=budget
    )
    done = Local(Storage(tmp_path), Display(quiet=True), any_teacher=True).run(stage)[0]
    assert 0 <= done.metrics["test_top1"] <= 1
    found = torch.load(tmp_path / "stages" / Path(done.weights).parent.name / "checkpoint.pt", weights_only=True)
    counted = [value for name, value in found["learner"].items() if "fusions" in name and name.endswith("_tracked")]
    assert len(counted) == 8
    assert all(value == 4 for value in counted)
