"""Stages that train in a second: digits, narrow networks, few epochs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from raykd.budget import SGD, Budget
from raykd.data import Affine, Dataset, Digits, View
from raykd.methods.kl import KL
from raykd.models import MLP
from raykd.objective import Divergence
from raykd.signals import Signal
from raykd.stage import Stage
from raykd.terms import Constant, CrossEntropy, Distill

DATASET = Dataset(Digits(), validation=0.2, holdout=0.2, limit=640)
SHAPE = (1, 8, 8)
MOVED = (Affine(translate=0.05),)


def teacher(epochs: int = 4, width: int = 32) -> Stage:
    """A network good enough to teach."""
    budget = Budget(epochs, batch_size=32, optimiser=SGD(lr=0.1))
    return Stage(MLP((width,), shape=SHAPE), 1.0 * CrossEntropy(), View(DATASET), budget=budget, label="teacher")


def student(tau: float = 2.0, epochs: int = 4, replicas: int = 2, seed: int = 0) -> Stage:
    """A student of it."""
    objective = 0.1 * CrossEntropy() + 0.9 * Distill(KL(), temperature=Constant(tau))
    budget = Budget(epochs, batch_size=32, optimiser=SGD(lr=0.05))
    view = View(DATASET, MOVED, replicas=replicas)
    return Stage(
        MLP((16,), shape=SHAPE), objective, view, {"teacher": teacher()}, budget=budget, seed=seed, label="student"
    )


def epoch(number: int, **fields: float) -> dict[str, Any]:
    """A line of metrics.jsonl, as a training writes it."""
    loss: dict[str, Any] = {"lr": 0.1, "loss": 1.0, "terms": {"CrossEntropy": 1.0}, "val_top1": 0.5, "val_nll": 1.0}
    return {"epoch": number, **loss, "seconds": 1.0, "rows_per_second": 100.0, **fields}


def rows() -> int:
    """Training rows of the dataset."""
    return len(DATASET.split("train"))


def with_batch(stage: Stage, size: int) -> Stage:
    """The stage with another batch size."""
    return replace(stage, budget=replace(stage.budget, batch_size=size))


@dataclass(frozen=True)
class At(Divergence):
    """Compares what stands at a tap; it only has to be written."""

    tap: str

    @property
    def student(self) -> Signal:
        return Signal(self.tap)

    def __call__(self, student: Tensor, teacher: Tensor, labels_B: Tensor, tau_B: Tensor) -> Tensor:
        return student.flatten(1).square().mean(1)
