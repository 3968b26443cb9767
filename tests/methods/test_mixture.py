"""Mixtures of teachers: two means of distributions, and what they have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
import tiny
import torch
from laws import NAMES, random_batch
from torch import Tensor, nn

from raykd.batch import Batch
from raykd.identity import fingerprint
from raykd.methods.kl import KL
from raykd.methods.mixture import Probabilities
from raykd.objective import STUDENT, Compute, Context, Divergence, Term, Weighting
from raykd.signals import LOGITS, Observable, Signal
from raykd.terms import Constant, Distill, DistillEnsemble, Logits, Mixture, Uniform

MIXTURES = pytest.mark.parametrize("mixture", [Logits(), Probabilities()], ids=str)


@dataclass(frozen=True)
class Fixed(Weighting):
    """These weights for every row."""

    shares: tuple[float, ...]

    def __call__(self, batch: Batch, names: Sequence[str]) -> Tensor:
        return torch.tensor(self.shares)[:, None]


def value(term: Term, batch: Batch) -> tuple[Tensor, Tensor]:
    """The term of each row, and the student's gradient."""
    context = Context({}, NAMES, classes=5, rows=100)
    value_B = (1.0 * term).build(context)(batch)[0]
    return value_B.detach(), torch.autograd.grad(value_B.sum(), batch.student[LOGITS])[0]


def mean(batch: Batch, shares: Sequence[float], tau: float, kind: str) -> Tensor:
    """Class by class in float64: the arithmetic or geometric mean of the teachers' distributions. [B, C]"""
    p_TBC = [(batch.teachers[name][LOGITS].double() / tau).softmax(-1) for name in NAMES]  # type: ignore[union-attr]
    mean_BC = torch.empty_like(p_TBC[0])
    for b in range(mean_BC.shape[0]):
        for c in range(mean_BC.shape[1]):
            terms = [(share, p_BC[b, c]) for share, p_BC in zip(shares, p_TBC, strict=True)]
            mean_BC[b, c] = (
                sum(s * p for s, p in terms) if kind == "arithmetic" else torch.stack([p**s for s, p in terms]).prod()
            )
    return mean_BC / mean_BC.sum(1, keepdim=True)


def mixed(mixture: Mixture, batch: Batch, weight_TB: Tensor, tau: float) -> Tensor:
    signals = torch.stack([batch.teachers[name][LOGITS] for name in NAMES])  # type: ignore[misc]
    rows = signals.shape[1]
    compute = Context({}, NAMES, classes=5, rows=100).build(mixture, NAMES)
    return compute(signals, weight_TB.expand(len(NAMES), rows), torch.full((rows,), tau))


@MIXTURES
@pytest.mark.parametrize("tau", [1.0, 4.0])
def test_one_teacher_is_distilled_as_it_is(mixture: Mixture, tau: float) -> None:
    batch = random_batch()
    plain = value(Distill(KL(), temperature=Constant(tau), teachers=("b",)), batch)
    ensemble = value(DistillEnsemble(KL(), temperature=Constant(tau), teachers=("b",), mixture=mixture), batch)
    torch.testing.assert_close(ensemble, plain, rtol=1e-4, atol=1e-5)


@MIXTURES
def test_equal_teachers_are_that_teacher_whatever_they_weigh(mixture: Mixture) -> None:
    batch = random_batch()
    batch = replace(batch, teachers=dict.fromkeys(NAMES, batch.teachers["a"]))
    plain = value(Distill(KL(), temperature=Constant(3.0), teachers=("a",)), batch)
    ensemble = value(DistillEnsemble(KL(), Fixed((0.2, 0.5, 0.3)), Constant(3.0), mixture=mixture), batch)
    torch.testing.assert_close(ensemble, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("tau", [1.0, 4.0])
@pytest.mark.parametrize(("mixture", "kind"), [(Logits(), "geometric"), (Probabilities(), "arithmetic")])
def test_at_its_temperature_a_mixture_is_a_mean_of_distributions(mixture: Mixture, kind: str, tau: float) -> None:
    batch, shares = random_batch(), (0.2, 0.5, 0.3)
    z_BC = mixed(mixture, batch, torch.tensor(shares)[:, None], tau)
    torch.testing.assert_close((z_BC.double() / tau).softmax(-1), mean(batch, shares, tau, kind), rtol=1e-5, atol=1e-7)


def test_each_row_is_mixed_with_its_own_weights() -> None:
    batch = random_batch()
    weight_TB = torch.rand(3, 6, generator=torch.Generator().manual_seed(1))
    together = mixed(Probabilities(), batch, weight_TB, 2.0)
    for b in range(6):
        alone = mixed(Probabilities(), batch, weight_TB[:, b : b + 1], 2.0)
        torch.testing.assert_close(together[b], alone[b])


def test_only_the_ratios_of_weights_count_for_probabilities() -> None:
    batch, weight_T1 = random_batch(), torch.tensor([[0.2], [0.5], [0.3]])
    torch.testing.assert_close(
        mixed(Probabilities(), batch, 7 * weight_T1, 2.0), mixed(Probabilities(), batch, weight_T1, 2.0)
    )


@pytest.mark.parametrize("scale", [2.0, 300.0])
def test_a_teacher_of_weight_zero_is_not_there_however_sure_it_is(scale: float) -> None:
    batch = random_batch(scale=scale)
    z_BC = mixed(Probabilities(), batch, torch.tensor([[0.0], [1.0], [0.0]]), 1.0)
    expected = batch.teachers["b"][LOGITS].double().log_softmax(-1)  # type: ignore[union-attr]
    torch.testing.assert_close(z_BC.double(), expected, rtol=1e-5, atol=1e-4)


@MIXTURES
@pytest.mark.parametrize("scale", [0.0, 2.0, 300.0])
@pytest.mark.parametrize("shares", [(0.2, 0.5, 0.3), (0.0, 1.0, 0.0), (1e-40, 1.0, 1e-30), (0.0, 0.0, 0.0)], ids=str)
def test_value_and_gradients_are_finite_for_any_weights(
    mixture: Mixture, scale: float, shares: tuple[float, ...]
) -> None:
    batch = random_batch(scale=scale)
    weight_TB = torch.tensor(shares)[:, None].repeat(1, 6).requires_grad_()
    z_BC = mixed(mixture, batch, weight_TB, 1.0)
    value_B = KL()(batch.student[LOGITS], z_BC, batch.labels_B, torch.ones(6))
    assert torch.isfinite(value_B).all()
    for gradient in torch.autograd.grad(value_B.sum(), (batch.student[LOGITS], weight_TB)):
        assert torch.isfinite(gradient).all()


@MIXTURES
def test_where_all_weights_are_zero_the_mixture_is_flat(mixture: Mixture) -> None:
    z_BC = mixed(mixture, random_batch(scale=300.0), torch.zeros(3, 1), 2.0)
    torch.testing.assert_close((z_BC / 2.0).softmax(-1), torch.full((6, 5), 0.2))


def test_the_gradient_of_the_weights_is_that_of_the_formula() -> None:
    batch, tau = random_batch(), 2.0
    weight_TB = torch.rand(3, 6, generator=torch.Generator().manual_seed(2)).requires_grad_()
    z_BC = mixed(Probabilities(), batch, weight_TB, tau)
    value_B = KL()(batch.student[LOGITS], z_BC, batch.labels_B, torch.full((6,), tau))
    exact_TB = weight_TB.detach().double().requires_grad_()
    p_TBC = torch.stack([(batch.teachers[name][LOGITS].double() / tau).softmax(-1) for name in NAMES])  # type: ignore[union-attr]
    p_BC = (exact_TB[:, :, None] * p_TBC).sum(0) / exact_TB.sum(0)[:, None]
    log_q_BC = (batch.student[LOGITS].detach().double() / tau).log_softmax(-1)
    exact_B = tau**2 * (p_BC * (p_BC.log() - log_q_BC)).sum(-1)
    (found,), (expected,) = (torch.autograd.grad(v.sum(), w) for v, w in ((value_B, weight_TB), (exact_B, exact_TB)))
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)


@dataclass(frozen=True)
class Gate(Weighting):
    """A learned gate that is shut: all its weight is on the first teacher."""

    def build(self, context: Context) -> Compute:
        return _Gate(len(context.teachers))


class _Gate(nn.Module):
    def __init__(self, teachers: int):
        super().__init__()
        self.scores = nn.Parameter(torch.tensor([0.0, *[-500.0] * (teachers - 1)]))

    def forward(self, batch: Batch, names: Sequence[str]) -> Tensor:
        return self.scores.softmax(0)[:, None]


@MIXTURES
def test_a_gate_that_is_shut_learns_finite_numbers(mixture: Mixture) -> None:
    batch = random_batch(scale=300.0)
    criterion = (1.0 * DistillEnsemble(KL(), Gate(), mixture=mixture)).build(Context({}, NAMES, classes=5, rows=100))
    criterion(batch).sum().backward()
    (scores,) = criterion.parameters()
    assert scores.grad is not None
    assert torch.isfinite(scores.grad).all()


@dataclass(frozen=True)
class Hint(Divergence):
    """Compares what stands at "pooled"."""

    @property
    def student(self) -> Observable:
        return Signal("pooled")

    @property
    def teacher(self) -> Observable:
        return Signal("pooled")

    def __call__(self, student: Tensor, teacher: Tensor, labels_B: Tensor, tau_B: Tensor) -> Tensor:
        return (student - teacher).square().flatten(1).mean(1)


def test_other_signals_are_mixed_as_they_are() -> None:
    pooled, generator = Signal("pooled"), torch.Generator().manual_seed(3)
    maps = {name: torch.randn(6, 4, 3, 3, generator=generator) for name in NAMES}
    student = torch.randn(6, 4, 3, 3, generator=generator)
    batch = random_batch()
    batch = replace(batch, student={pooled: student}, teachers={name: {pooled: maps[name]} for name in NAMES})
    compute = Context({}, NAMES, classes=5, rows=100).build(DistillEnsemble(Hint(), Fixed((0.2, 0.5, 0.3))), NAMES)
    mixture = 0.2 * maps["a"] + 0.5 * maps["b"] + 0.3 * maps["c"]
    torch.testing.assert_close(compute(batch), (student - mixture).square().mean((1, 2, 3)))


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda: DistillEnsemble(Hint(), mixture=Probabilities()), "only logits have probabilities"),
        (lambda: DistillEnsemble(KL(), mixture=Uniform()), "a Mixture would be right"),  # type: ignore[arg-type]
    ],
)
def test_a_mistake_is_refused_where_it_is_written(write: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        write()  # type: ignore[operator]


def test_an_ensemble_says_how_it_mixes_when_it_is_not_the_usual_way() -> None:
    assert str(DistillEnsemble(KL())) == "DistillEnsemble(KL, tau 1)"
    assert str(DistillEnsemble(KL(), mixture=Probabilities())) == "DistillEnsemble(KL, tau 1, probabilities)"
    some = DistillEnsemble(KL(), teachers=("a", "b"), mixture=Probabilities())
    assert str(some) == "DistillEnsemble(KL, tau 1, uniform, probabilities of a, b)"


def test_what_is_asked_of_teachers_does_not_depend_on_how_they_are_mixed() -> None:
    stage = tiny.student()
    teachers = {"one": tiny.teacher(), "other": tiny.teacher(width=24)}
    stages = [
        replace(
            stage, teachers=teachers, objective=1.0 * DistillEnsemble(KL(), weights, Constant(tau), mixture=mixture)
        )
        for weights, tau, mixture in [
            (Uniform(), 1.0, Logits()),
            (Uniform(), 1.0, Probabilities()),
            (Fixed((0.1, 0.9)), 4.0, Probabilities()),
        ]
    ]
    assert len({fingerprint(each) for each in stages}) == 3
    assert stages[0].kept == stages[1].kept == stages[2].kept
    assert all(each.needs == {STUDENT: {LOGITS}, "one": {LOGITS}, "other": {LOGITS}} for each in stages)
