"""CTKD: a temperature that climbs the loss, and a student that does not notice how."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from laws import NAMES, random_batch
from torch import Tensor, nn

from raykd.batch import Batch, Progress
from raykd.cache.codecs import DenseU8, TopKU8
from raykd.methods.ctkd import CTKD
from raykd.methods.kl import KL
from raykd.objective import Context, Criterion, Objective
from raykd.signals import LOGITS
from raykd.terms import Constant, Distill, DistillEnsemble

CONTEXT = Context({}, NAMES, classes=5, rows=100)
PERS = pytest.mark.parametrize("per", ["all", "row"])


def at(batch: Batch, epochs_done: float) -> Batch:
    """The batch, so far into a training of 40 epochs."""
    return replace(batch, progress=Progress(int(epochs_done), 40, round(epochs_done % 1 * 100), 100))


def built(spec: CTKD, names: tuple[str, ...] = NAMES) -> nn.Module:
    """The temperature with parameters that are not those of the start."""
    torch.manual_seed(0)
    module = replace(CONTEXT, modules={}).build(spec, names)
    assert isinstance(module, nn.Module)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return module


def criterion(objective: Objective) -> Criterion:
    torch.manual_seed(0)
    return objective.build(replace(CONTEXT, modules={}))


def lam(epochs_done: float, ramp: float = 10.0) -> float:
    """The published curriculum from 0 to 1, as it is printed there."""
    return 0 + 0.5 * (1 - 0) * (1 + math.cos((1 + min(epochs_done, ramp) / ramp) * math.pi))


def theta(module: nn.Module, batch: Batch) -> Tensor:
    """What the module gives before the sigmoid, computed from its parameters alone. [1, 1] or [T, B]"""
    parameters = list(module.parameters())
    if len(parameters) == 1:
        return parameters[0]
    w1, b1, w2, b2 = parameters
    rows = []
    for name in NAMES:
        inputs = torch.cat([batch.student[LOGITS].detach(), batch.teachers[name][LOGITS]], 1)  # type: ignore[list-item]
        rows.append(((inputs @ w1.T + b1).clamp(min=0) @ w2.T + b2)[:, 0])
    return torch.stack(rows)


def loss(tau: Tensor, batch: Batch) -> Tensor:
    """KD by all teachers at these temperatures."""
    tau_TB = tau.expand(3, 6)
    values = [
        KL()(batch.student[LOGITS], batch.teachers[name][LOGITS], batch.labels_B, tau_TB[t])
        for t, name in enumerate(NAMES)
    ]
    return torch.stack(values).mean()


@pytest.mark.parametrize("epochs_done", [0.0, 0.25, 3.0, 5.0, 9.99, 10.0, 11.0, 39.0])
def test_the_strength_is_the_published_cosine_from_nothing_to_one(epochs_done: float) -> None:
    assert CTKD().strength(epochs_done) == pytest.approx(lam(epochs_done), abs=1e-12)
    assert CTKD(ramp=2.5).strength(epochs_done) == pytest.approx(lam(epochs_done, 2.5), abs=1e-12)


def test_the_strength_begins_at_zero_and_ends_at_one() -> None:
    assert (CTKD().strength(0), CTKD().strength(10), CTKD().strength(1000)) == (0, 1, 1)


@PERS
@pytest.mark.parametrize("epochs_done", [0.0, 2.5, 10.0, 30.0])
def test_the_gradient_is_minus_the_strength_times_the_plain_one(per: str, epochs_done: float) -> None:
    spec, batch = CTKD(per=per), at(random_batch(), epochs_done)  # type: ignore[arg-type]
    module = built(spec)
    parameters = list(module.parameters())
    found = torch.autograd.grad(loss(module(batch, NAMES), batch), parameters)
    plain = torch.autograd.grad(loss(1 + 20 * theta(module, batch).sigmoid(), batch), parameters)
    assert all(gradient.abs().sum() > 0 for gradient in plain)
    for ours, theirs in zip(found, plain, strict=True):
        torch.testing.assert_close(ours, -lam(epochs_done) * theirs, rtol=1e-4, atol=1e-5)


@PERS
def test_the_values_are_those_of_the_formula(per: str) -> None:
    spec, batch = CTKD(per=per, base=0.5, stretch=7.0), random_batch()  # type: ignore[arg-type]
    module = built(spec)
    torch.testing.assert_close(module(batch, NAMES), 0.5 + 7 * theta(module, batch).sigmoid())
    assert module(batch, NAMES).shape == ((1, 1) if per == "all" else (3, 6))


@PERS
def test_the_student_has_the_gradient_of_kd_at_that_temperature(per: str) -> None:
    batch = at(random_batch(), 20.0)
    module = built(CTKD(per=per))  # type: ignore[arg-type]
    tau = module(batch, NAMES)
    (found,) = torch.autograd.grad(loss(tau, batch), batch.student[LOGITS])
    (expected,) = torch.autograd.grad(loss(tau.detach(), batch), batch.student[LOGITS])
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@PERS
def test_it_starts_in_the_middle_and_does_not_move_at_first(per: str) -> None:
    learned = criterion(1.0 * Distill(KL(), temperature=CTKD(per=per)))  # type: ignore[arg-type]
    fixed = criterion(1.0 * Distill(KL(), temperature=Constant(11.0)))
    batch = at(random_batch(), 0.0)
    optimiser = torch.optim.SGD(learned.parameters(), lr=1.0, momentum=0.9)
    before = [parameter.clone() for parameter in learned.parameters()]
    torch.testing.assert_close(learned(batch), fixed(batch))
    learned(batch).sum().backward()
    optimiser.step()
    assert all(torch.equal(old, new) for old, new in zip(before, learned.parameters(), strict=True))


@PERS
def test_with_full_strength_a_step_makes_the_task_harder(per: str) -> None:
    learned = criterion(1.0 * Distill(KL(), temperature=CTKD(per=per)))  # type: ignore[arg-type]
    batch = at(random_batch(), 15.0)
    optimiser = torch.optim.SGD(learned.parameters(), lr=1e-3)
    before = learned(batch).sum()
    before.backward()
    optimiser.step()
    assert learned(batch).sum() > before


@PERS
@pytest.mark.parametrize("scale", [0.0, 300.0])
def test_temperature_and_gradients_are_finite_on_flat_and_on_extreme_logits(per: str, scale: float) -> None:
    batch = at(random_batch(scale=scale), 15.0)
    module = built(CTKD(per=per))  # type: ignore[arg-type]
    tau = module(batch, NAMES)
    value = loss(tau, batch)
    assert torch.isfinite(value)
    assert (tau >= 1).all()
    assert (tau <= 21).all()
    for gradient in torch.autograd.grad(value, [*module.parameters(), batch.student[LOGITS]]):
        assert torch.isfinite(gradient).all()


def test_per_row_a_temperature_belongs_to_the_row_and_the_teacher() -> None:
    batch, module = random_batch(), built(CTKD(per="row"))
    tau_TB = module(batch, NAMES)
    assert len(set(tau_TB.flatten().tolist())) == 18
    torch.testing.assert_close(module(batch, ("b",)), tau_TB[1:2])
    torch.testing.assert_close(module(batch, NAMES[::-1]), tau_TB.flip(0))


@PERS
def test_equal_temperatures_of_several_terms_are_learned_as_one_and_kept_with_the_training(per: str) -> None:
    one = criterion(1.0 * Distill(KL(), temperature=CTKD(per=per)))  # type: ignore[arg-type]
    two = criterion(Distill(KL(), temperature=CTKD(per=per)) + Distill(KL(), temperature=CTKD(per=per)))  # type: ignore[arg-type]
    assert set(two.state_dict()) == set(one.state_dict()) != set()


def test_a_mixture_has_a_temperature_per_row_if_it_is_of_one_teacher() -> None:
    batch = random_batch()
    for spec, names in ((CTKD(), NAMES), (CTKD(per="row"), ("b",))):
        value = criterion(1.0 * DistillEnsemble(KL(), temperature=spec, teachers=names))(batch)
        assert torch.isfinite(value).all()
    with pytest.raises(ValueError, match="a mixture has one"):
        criterion(1.0 * DistillEnsemble(KL(), temperature=CTKD(per="row")))(batch)


@PERS
def test_it_needs_logits_that_can_be_read_at_any_temperature(per: str) -> None:
    objective = 1.0 * Distill(KL(), temperature=CTKD(per=per))  # type: ignore[arg-type]
    objective.check_stored(NAMES, DenseU8())
    with pytest.raises(ValueError, match="tau learned per"):
        objective.check_stored(NAMES, TopKU8())


def test_per_row_sparse_logits_are_refused_even_where_the_divergence_reads_none() -> None:
    with pytest.raises(ValueError, match="tau learned per row reads dense logits"):
        CTKD(per="row").check_stored(NAMES, TopKU8())
    CTKD().check_stored(NAMES, TopKU8())


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda: CTKD(per="class"), "all or row"),  # type: ignore[arg-type]
        (lambda: CTKD(base=0.0), "base=0"),
        (lambda: CTKD(stretch=-1.0), "stretch=-1"),
        (lambda: CTKD(ramp=0.0), "ramp=0"),
        (lambda: CTKD(per="row", hidden=0), "hidden=0"),
    ],
)
def test_a_mistake_is_refused_where_it_is_written(write: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        write()  # type: ignore[operator]
