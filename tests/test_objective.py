"""The one formula: sums of terms, what they need, what is learned; and that papers not written yet only need to be added."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
import torch
from laws import NAMES, random_batch
from torch import Tensor, nn
from torch.nn import functional as F

from raykd.batch import Batch
from raykd.cache.codecs import Codec, DenseU8, Sampled, TopKF16, TopKU8
from raykd.methods.kl import KL, ReverseKL
from raykd.objective import (
    STUDENT,
    Compute,
    Context,
    Divergence,
    Needs,
    Objective,
    SampleWeight,
    Temperature,
    Term,
    Weighted,
    Weighting,
)
from raykd.signals import INPUT, LOGITS, Signal
from raykd.terms import Constant, CrossEntropy, Distill, DistillEnsemble, Uniform

POOLED = Signal("pooled")


def context(names: tuple[str, ...] = NAMES, **extra: tuple[int, ...]) -> Context:
    shapes = {
        name: {LOGITS: (5,), **{Signal(tap): shape for tap, shape in extra.items()}} for name in (STUDENT, *names)
    }
    return Context(shapes, names, classes=5, rows=100)


def test_a_sum_of_terms_gives_each_weighted_term_of_each_row() -> None:
    batch = random_batch()
    objective = 0.1 * CrossEntropy() + 0.9 * Distill(KL(), temperature=Constant(4.0))
    terms_KB = objective.build(context())(batch)
    assert terms_KB.shape == (2, 6)
    logits = batch.student[LOGITS]
    torch.testing.assert_close(terms_KB[0], 0.1 * F.cross_entropy(logits, batch.labels_B, reduction="none"))
    tau_B = torch.full((6,), 4.0)
    values = [KL()(logits, batch.teachers[name][LOGITS], batch.labels_B, tau_B) for name in NAMES]
    torch.testing.assert_close(terms_KB[1], 0.9 * torch.stack(values).mean(0))


def test_an_objective_reads_like_its_formula() -> None:
    objective = 0.1 * CrossEntropy() + 0.9 * Distill(KL(), temperature=Constant(4.0))
    assert str(objective) == "0.1 * CrossEntropy + 0.9 * Distill(KL, tau 4)"
    assert objective == (0.1 * CrossEntropy()) + (0.9 * Distill(KL(), temperature=Constant(4.0)))
    assert CrossEntropy() + CrossEntropy() == 1.0 * CrossEntropy() + 1.0 * CrossEntropy()
    assert 2 * (0.5 * CrossEntropy() + 1.0 * Distill(KL())) == 1.0 * CrossEntropy() + 2.0 * Distill(KL())


def test_equal_terms_keep_apart_in_the_metrics() -> None:
    criterion = (1.0 * CrossEntropy() + 2.0 * CrossEntropy()).build(context())
    assert len(set(criterion.names)) == 2


def test_a_term_of_weight_zero_is_not_there_and_needs_nothing() -> None:
    objective = 1.0 * CrossEntropy() + 0.0 * Distill(KL())
    assert objective == 1.0 * CrossEntropy()
    assert objective.needs(("teacher",)) == {STUDENT: {LOGITS}}


def test_one_teacher_in_an_ensemble_is_that_teacher() -> None:
    batch = random_batch()
    plain = (1.0 * Distill(KL(), temperature=Constant(2.0), teachers=("b",))).build(context())(batch)
    mixed = (1.0 * DistillEnsemble(KL(), temperature=Constant(2.0), teachers=("b",))).build(context())(batch)
    torch.testing.assert_close(plain, mixed)


def test_an_ensemble_mixes_before_it_compares() -> None:
    batch = random_batch()
    mixture = torch.stack([batch.teachers[name][LOGITS] for name in NAMES]).mean(0)
    expected = KL()(batch.student[LOGITS], mixture, batch.labels_B, torch.full((6,), 2.0))
    found = (1.0 * DistillEnsemble(KL(), temperature=Constant(2.0))).build(context())(batch)[0]
    torch.testing.assert_close(found, expected)


def test_an_ensemble_has_one_temperature() -> None:
    @dataclass(frozen=True)
    class Each(Temperature):
        def __call__(self, batch: Batch, names: Sequence[str]) -> Tensor:
            return torch.arange(1.0, 1.0 + len(names))[:, None]

    assert (1.0 * Distill(KL(), temperature=Each())).build(context())(random_batch()).isfinite().all()
    with pytest.raises(ValueError, match="a mixture has one"):
        (1.0 * DistillEnsemble(KL(), temperature=Each())).build(context())(random_batch())


def test_mixed_rows_share_the_labels_term() -> None:
    batch = random_batch(mix=True)
    assert batch.mix is not None
    log_p = batch.student[LOGITS].log_softmax(-1)
    target = F.one_hot(batch.labels_B, 5) * batch.mix.share_B[:, None]
    target = target + F.one_hot(batch.mix.labels_B, 5) * (1 - batch.mix.share_B)[:, None]
    torch.testing.assert_close((1.0 * CrossEntropy()).build(context())(batch)[0], -(target * log_p).sum(-1))


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda: Objective(()), "without terms"),
        (lambda: float("nan") * CrossEntropy(), "weight nan"),
        (lambda: -1.0 * CrossEntropy(), "weight -1"),
        (lambda: Objective((Weighted(1.0, KL()),)), "sum of terms"),  # type: ignore[arg-type]
        (lambda: Distill(CrossEntropy()), "a Divergence would be right"),  # type: ignore[arg-type]
        (lambda: Distill(KL(), temperature=4.0), "a Temperature would be right"),  # type: ignore[arg-type]
        (lambda: Distill(KL(), teachers="teacher"), "a tuple of names"),  # type: ignore[arg-type]
        (lambda: Constant(0.0), "above 0"),
        (lambda: (1.0 * Distill(KL(), teachers=("tutor",))).needs(("teacher",)), "'tutor'"),
        (lambda: (1.0 * Distill(KL())).needs(()), "this stage has none"),
    ],
)
def test_a_mistake_is_refused_where_it_is_written(write: object, words: str) -> None:
    with pytest.raises(ValueError, match=words) as error:
        write()  # type: ignore[operator]
    assert "\n" not in str(error.value)


# What later methods bring, in a few lines each: nothing in the core changes for them.


@dataclass(frozen=True)
class KnowledgeFilter(Weighting):
    """ClassroomKD's shape: each teacher's share of certainty, nothing from one less certain than the student."""

    def needs(self, teachers: Sequence[str]) -> Needs:
        return {STUDENT: frozenset({LOGITS}), **{name: frozenset({LOGITS}) for name in teachers}}

    def __call__(self, batch: Batch, names: Sequence[str]) -> Tensor:
        theirs_TB, ours_B = batch.true_class_probability_TB(names), batch.student_true_class_probability_B()
        return torch.where(theirs_TB >= ours_B, theirs_TB, 0.0)


@dataclass(frozen=True)
class StudentCertainty(SampleWeight):
    def __call__(self, batch: Batch) -> Tensor:
        return batch.student_true_class_probability_B()


def test_weights_may_depend_on_the_row_and_on_the_student() -> None:
    batch = random_batch()
    objective = StudentCertainty() * CrossEntropy() + Distill(KL(), KnowledgeFilter())
    terms_KB = objective.build(context())(batch)
    certain_B = batch.student[LOGITS].softmax(-1).gather(1, batch.labels_B[:, None])[:, 0].detach()
    torch.testing.assert_close(terms_KB[0], -certain_B * certain_B.log(), rtol=1e-4, atol=1e-5)
    expected = torch.zeros(6)
    for name in NAMES:
        p_B = batch.teachers[name][LOGITS].softmax(-1).gather(1, batch.labels_B[:, None])[:, 0]
        value_B = KL()(batch.student[LOGITS], batch.teachers[name][LOGITS], batch.labels_B, torch.ones(6))
        expected = expected + (p_B >= certain_B) * p_B * value_B
    torch.testing.assert_close(terms_KB[1], expected)


@dataclass(frozen=True)
class Gate(Weighting):
    """HPM-KD's shape: learned attention over teachers that sees the input."""

    def needs(self, teachers: Sequence[str]) -> Needs:
        return {STUDENT: frozenset({INPUT})}

    def build(self, context: Context) -> Compute:
        return _Gate(context.shapes[STUDENT][INPUT][0], len(context.teachers))


class _Gate(nn.Module):
    def __init__(self, width: int, teachers: int):
        super().__init__()
        self.score = nn.Linear(width, teachers)

    def forward(self, batch: Batch, names: Sequence[str]) -> Tensor:
        return self.score(batch.student[INPUT]).softmax(-1).T


@dataclass(frozen=True)
class GateEntropy(Term):
    weights: Weighting

    def needs(self, teachers: Sequence[str]) -> Needs:
        return self.weights.needs(teachers)

    def build(self, context: Context) -> Compute:
        gate, names = context.build(self.weights, context.teachers), context.teachers
        return lambda batch: -torch.special.entr(gate(batch, names)).sum(0)


def test_equal_learned_pieces_are_one_module_that_trains_with_the_student() -> None:
    batch = random_batch()
    batch = replace(batch, student={**batch.student, INPUT: torch.randn(6, 4)})
    objective = 1.0 * DistillEnsemble(KL(), Gate()) + 0.01 * GateEntropy(Gate())
    criterion = objective.build(context(input=(4,)))
    assert len(list(criterion.parameters())) == 2  # one linear layer, though two terms read it
    criterion(batch).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in criterion.parameters())


@dataclass(frozen=True)
class Hint(Divergence):
    """FitNet's shape: an adapter between two widths, one for each teacher."""

    @property
    def student(self) -> Signal:
        return POOLED

    @property
    def teacher(self) -> Signal:
        return POOLED

    def build(self, context: Context) -> Compute:
        (name,) = context.teachers
        return _Hint(context.shapes[STUDENT][POOLED][0], context.shapes[name][POOLED][0])


class _Hint(nn.Module):
    def __init__(self, ours: int, theirs: int):
        super().__init__()
        self.adapter = nn.Linear(ours, theirs)

    def forward(self, student: Tensor, teacher: Tensor, labels_B: Tensor, tau_B: Tensor) -> Tensor:
        return (self.adapter(student) - teacher).square().mean(-1)


def test_an_adapter_is_built_for_each_teacher() -> None:
    shapes = {STUDENT: {POOLED: (3,)}, "a": {POOLED: (7,)}, "b": {POOLED: (9,)}}
    objective = 1.0 * Distill(Hint(), Uniform())
    assert objective.needs(("a", "b")) == {STUDENT: {POOLED}, "a": {POOLED}, "b": {POOLED}}
    criterion = objective.build(Context(shapes, ("a", "b"), classes=5, rows=10))
    assert sorted(p.shape[0] for p in criterion.parameters() if p.ndim == 2) == [7, 9]


@dataclass(frozen=True)
class Rising(Temperature):
    def __call__(self, batch: Batch, names: Sequence[str]) -> Tensor:
        return torch.tensor(1.0 + batch.progress.fraction)


def test_a_temperature_may_follow_the_progress() -> None:
    batch = random_batch()
    assert batch.progress.fraction == (1 + 2 / 4) / 10
    found = (1.0 * Distill(KL(), temperature=Rising(), teachers=("a",))).build(context())(batch)[0]
    tau_B = torch.full((6,), 1.15)
    torch.testing.assert_close(found, KL()(batch.student[LOGITS], batch.teachers["a"][LOGITS], batch.labels_B, tau_B))


@pytest.mark.parametrize(
    ("term", "codec", "message"),
    [
        (
            Distill(ReverseKL()),
            Sampled(),
            "ReverseKL reads dense or topk logits, and sampled yields sampled ones: use dense_f16",
        ),
        (
            DistillEnsemble(KL()),
            TopKU8(),
            r"DistillEnsemble\(KL, .*\) reads dense logits, and topk_u8 yields topk ones",
        ),
        (
            Distill(KL(), temperature=Constant(3.0)),
            TopKF16(temperatures=(2.0,)),
            r"Distill\(KL, tau 3\) reads logits at tau 3, and topk_f16\(.*\) can be read at 1, 2 only: declare the temp",
        ),
        (
            Distill(KL(), temperature=Rising()),
            TopKU8(),
            r"reads logits at Rising\(\), and topk_u8 can be read at 1, 2, 4",
        ),
        (
            Distill(KL(), KnowledgeFilter()),
            TopKU8(),
            r"KnowledgeFilter\(\) reads dense logits, and topk_u8 yields topk",
        ),
        (
            Distill(KL(), temperature=Constant(2.0)),
            Sampled(),
            "reads logits at tau 2, and sampled can be read at 1 only",
        ),
    ],
)
def test_what_cannot_be_computed_from_what_is_stored_is_found_when_it_is_written(
    term: Term, codec: Codec, message: str
) -> None:
    objective = 0.1 * CrossEntropy() + 0.9 * term
    with pytest.raises(ValueError, match=message):
        objective.check_stored(NAMES, codec)
    objective.check_stored(NAMES, DenseU8())
    objective.check_stored((), codec)
    with pytest.raises(ValueError, match=message):
        (StudentCertainty() * term).check_stored(NAMES, codec)


def test_only_the_teachers_that_a_term_compares_with_are_asked_about() -> None:
    objective = 1.0 * Distill(KL(), teachers=("a",)) + 1.0 * Distill(ReverseKL(), teachers=("b", "c"))
    objective.check_stored(("a",), Sampled())
    with pytest.raises(ValueError, match="ReverseKL"):
        objective.check_stored(("a", "c"), Sampled())


def test_what_is_not_read_as_logits_may_be_stored_in_any_way() -> None:
    objective = CrossEntropy() + Distill(Hint(), temperature=Rising())
    objective.check_stored(NAMES, Sampled())


def test_logits_are_read_at_the_declared_temperatures() -> None:
    (1.0 * Distill(KL(), temperature=Constant(3.0))).check_stored(NAMES, TopKU8(temperatures=(3.0,)))
    (1.0 * Distill(KL())).check_stored(NAMES, Sampled())
