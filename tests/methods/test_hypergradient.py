"""The meta-learned temperature against finite differences of what it descends: the validation loss after one step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pytest
import torch
from laws import NAMES, random_batch
from torch import Tensor
from torch.nn import functional as F

from raykd.cache.codecs import DenseU8, TopKU8
from raykd.methods.hypergradient import Hypergradient, _Learned
from raykd.methods.kl import KL
from raykd.objective import Context, Criterion, Objective
from raykd.terms import Constant, Distill, DistillEnsemble

CONTEXT = Context({}, NAMES, classes=5, rows=100)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def logits(parameters: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
    """Of a student with one hidden layer."""
    return (inputs @ parameters["first"]).tanh() @ parameters["second"]


def kd(student: Tensor, teacher: Tensor, labels: Tensor, tau: Tensor) -> Tensor:
    """The labels' term and tau^2 KL, as they are printed."""
    p = torch.exp(teacher / tau) / torch.exp(teacher / tau).sum(1, keepdim=True)
    log_q = student / tau - torch.exp(student / tau).sum(1, keepdim=True).log()
    return 0.1 * F.cross_entropy(student, labels) + 0.9 * tau.squeeze() ** 2 * (p * (p.log() - log_q)).sum(1).mean()


@dataclass
class Toy:
    """A step in double precision; what it trains on is as far from what it is validated on as two draws are."""

    temperature: _Learned
    rate: float
    seed: int = 0

    def __post_init__(self) -> None:
        self.parameters = {
            "first": normal(4, 6, seed=self.seed).requires_grad_(),
            "second": normal(6, 3, seed=self.seed + 1).requires_grad_(),
        }
        self.inputs, self.teacher = normal(12, 4, seed=self.seed + 2), 4 * normal(12, 3, seed=self.seed + 3)
        self.labels = self.teacher.argmax(1)
        self.others, self.their_labels = normal(9, 4, seed=self.seed + 4), torch.arange(9) % 3

    def training_loss(self, parameters: Mapping[str, Tensor]) -> Tensor:
        tau = self.temperature(random_batch(), NAMES)
        return kd(logits(parameters, self.inputs), self.teacher, self.labels, tau)

    def validation_loss(self, parameters: Mapping[str, Tensor]) -> Tensor:
        return F.cross_entropy(logits(parameters, self.others), self.their_labels)

    def mean(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return [tensor.detach() for tensor in tensors]

    def unrolled(self, u: float) -> float:
        """The validation loss after the step that is taken at this u."""
        spec = self.temperature.spec
        tau = torch.tensor(spec.lowest + (spec.highest - spec.lowest) / (1 + math.exp(-u)), dtype=torch.float64)
        loss = kd(logits(self.parameters, self.inputs), self.teacher, self.labels, tau)
        gradients = torch.autograd.grad(loss, list(self.parameters.values()))
        moved = {
            name: each.detach() - self.rate * gradient
            for (name, each), gradient in zip(self.parameters.items(), gradients, strict=True)
        }
        return float(self.validation_loss(moved))


def built(spec: Hypergradient) -> _Learned:
    module = replace(CONTEXT, modules={}).build(spec, NAMES)
    assert isinstance(module, _Learned)
    return module


def toy(rate: float = 0.1, seed: int = 0, **changes: float) -> Toy:
    return Toy(built(Hypergradient(**changes)).double(), rate, seed)  # type: ignore[arg-type]


def criterion(objective: Objective) -> Criterion:
    return objective.build(replace(CONTEXT, modules={}))


@pytest.mark.parametrize("seed", [0, 10, 20])
@pytest.mark.parametrize("rate", [1e-3, 0.1, 3.0])
@pytest.mark.parametrize("start", [1.5, 4.0, 9.0])
def test_it_is_the_slope_of_the_validation_loss_after_the_step(seed: int, rate: float, start: float) -> None:
    step = toy(rate, seed, start=start)
    u, eps = float(step.temperature.u), 1e-4
    expected = (step.unrolled(u + eps) - step.unrolled(u - eps)) / (2 * eps)
    found = step.temperature.hypergradient(step)
    assert found.shape == (1, 1)
    assert expected != 0
    assert float(found) == pytest.approx(expected, rel=1e-5, abs=1e-11)


def test_without_a_step_there_is_no_slope() -> None:
    assert float(toy(rate=0.0).temperature.hypergradient(toy(rate=0.0))) == 0


@pytest.mark.parametrize("seed", [0, 10, 20, 30])
def test_a_look_lowers_the_validation_loss_that_follows(seed: int) -> None:
    step = toy(seed=seed, rate=0.1)
    before = float(step.temperature.u)
    step.temperature.look(step)
    after = float(step.temperature.u)
    assert after != before
    assert step.unrolled(after) < step.unrolled(before)


@pytest.mark.parametrize("seed", [0, 10])
def test_many_looks_at_one_step_come_near_its_best_temperature(seed: int) -> None:
    step = toy(rate=0.5, seed=seed)
    before = step.unrolled(float(step.temperature.u))
    for _ in range(80):
        step.temperature.look(step)
    best = min(step.unrolled(u / 20) for u in range(-100, 101))
    assert step.unrolled(float(step.temperature.u)) - best < 0.3 * (before - best)


def test_it_starts_where_it_says_and_stays_in_its_range_wherever_it_is_pushed() -> None:
    spec = Hypergradient(2.0, 6.0, 3.5, rate=0.5)
    module = built(spec)
    torch.testing.assert_close(module(random_batch(), NAMES), torch.full((1, 1), 3.5))
    for slope in [1e9] * 100 + [-1e9] * 200 + [1e-9] * 50:
        module.move(torch.full((1, 1), slope))
        assert 2 < float(module(random_batch(), NAMES)) < 6


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_temperature_at_an_end_of_its_range_is_near_it_and_comes_back(sign: float) -> None:
    module = built(Hypergradient(rate=0.2))
    for _ in range(1000):
        module.move(torch.full((1, 1), sign))
    end = 1.0 if sign > 0 else 10.0
    assert float(module.tau) == pytest.approx(end, abs=0.01 * 9)
    for _ in range(1000):
        module.move(torch.full((1, 1), -sign))
    assert float(module.tau) == pytest.approx(11.0 - end, abs=0.01 * 9)


def test_it_moves_as_adam_moves() -> None:
    module, ours = built(Hypergradient(rate=0.05)), torch.nn.Parameter(built(Hypergradient()).u.clone())
    theirs = torch.optim.Adam([ours], lr=0.05)
    for step in range(20):
        slope = torch.full((1, 1), math.sin(step) - 0.3)
        ours.grad = slope.clone()
        theirs.step()
        module.move(slope)
        torch.testing.assert_close(module.u, ours.detach())


def test_the_objective_is_that_of_the_temperature_and_gives_it_no_gradient() -> None:
    learned = criterion(1.0 * Distill(KL(), temperature=Hypergradient(start=4.0)))
    fixed = criterion(1.0 * Distill(KL(), temperature=Constant(4.0)))
    torch.testing.assert_close(learned(random_batch()), fixed(random_batch()))
    assert list(learned.parameters()) == []
    learned(random_batch()).sum().backward()
    assert all(buffer.grad is None and not buffer.requires_grad for buffer in learned.buffers())


def test_a_look_leaves_the_number_out_of_reach_of_the_training_also_when_it_fails() -> None:
    step = toy()
    step.temperature.look(step)
    assert not step.temperature.u.requires_grad
    step.validation_loss = None  # type: ignore[assignment, method-assign]
    with pytest.raises(TypeError):
        step.temperature.look(step)
    assert not step.temperature.u.requires_grad


def test_equal_temperatures_of_several_terms_and_teachers_are_one_that_is_kept_with_the_training() -> None:
    one = criterion(1.0 * Distill(KL(), temperature=Hypergradient()))
    two = criterion(Distill(KL(), temperature=Hypergradient()) + Distill(KL(), temperature=Hypergradient()))
    assert set(two.state_dict()) == set(one.state_dict()) != set()
    assert torch.isfinite(criterion(1.0 * DistillEnsemble(KL(), temperature=Hypergradient()))(random_batch())).all()


def test_its_value_is_shown_of_every_epoch() -> None:
    shown = criterion(1.0 * Distill(KL(), temperature=Hypergradient(2.0, 8.0, 5.0))).shown(lambda total: total)
    assert shown == {"tau 2 to 8 by validation": {"tau": 5.0}}


def test_it_needs_logits_that_can_be_read_at_any_temperature() -> None:
    objective = 1.0 * Distill(KL(), temperature=Hypergradient())
    objective.check_stored(NAMES, DenseU8())
    with pytest.raises(ValueError, match="by validation"):
        objective.check_stored(NAMES, TopKU8())


@pytest.mark.parametrize(
    "changes",
    [
        {"lowest": 0.0},
        {"start": 1.0},
        {"start": 10.0},
        {"highest": math.inf},
        {"rate": -0.1},
        {"rate": math.nan},
        {"every": 0},
        {"rows": 0},
    ],
)
def test_a_mistake_is_refused_where_it_is_written(changes: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="would be right"):
        Hypergradient(**changes)  # type: ignore[arg-type]
