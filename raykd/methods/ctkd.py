"""CTKD: the temperature is learned against the student, so that its task grows from easy to hard.

    tau = base + stretch sigmoid(theta)                        in (base, base + stretch), 1 and 20 in the paper
    theta climbs the loss that the student descends:           d theta = -lambda dL / d theta
    lambda = (1 - cos(pi min(epochs / ramp, 1))) / 2           0 at the start, 1 after 10 epochs

per="all": one theta for everything. per="row": an MLP gives each row and teacher its own, from both predictions.

[interpretation] theta starts at 0, in the middle of the range, and so do all rows: the MLP's last layer starts at 0. The MLP
has one hidden layer and reads logits, into which no gradient goes back: the student's is that of KD at this tau. lambda grows
with every step, where the paper counts whole epochs. What gives theta has the student's optimiser, weight decay included.

Shapes: T teachers, B batch, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from raykd.batch import Batch
from raykd.objective import STUDENT, Compute, Context, Needs, Temperature
from raykd.shown import Means, Total, rounded
from raykd.signals import LOGITS

Per = Literal["all", "row"]


@dataclass(frozen=True)
class CTKD(Temperature):
    """A learned temperature that makes the task harder: gently at first, then with full force.

    A mixture of teachers has one temperature, so it takes per="all", or per="row" of one teacher. Raises `ValueError` for a
    base, stretch or ramp that is not above 0.

    Source: Z. Li et al., "Curriculum Temperature for Knowledge Distillation", 2023, the adversarial
        temperature and its curriculum.
    """

    per: Per = "all"
    base: float = 1.0
    stretch: float = 20.0
    ramp: float = 10.0
    """Epochs until the reversed gradient has its full strength."""
    hidden: int = 64
    """Width of the MLP of per="row"."""

    def __post_init__(self) -> None:
        if self.per not in get_args(Per):
            raise ValueError(f"per={self.per!r} of CTKD: {' or '.join(get_args(Per))} would be right")
        for name in ("base", "stretch", "ramp", "hidden"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name}={value} of CTKD: a number above 0 would be right")

    def needs(self, teachers: Sequence[str]) -> Needs:
        """What the MLP reads."""
        return {name: frozenset({LOGITS}) for name in (STUDENT, *teachers)} if self.per == "row" else {}

    def build(self, context: Context) -> Compute:
        """theta, or the MLP that gives it."""
        return _All(self) if self.per == "all" else _Row(self, context.classes, context.teachers)

    def strength(self, epochs_done: float) -> float:
        """lambda, in [0, 1]."""
        return (1 - math.cos(math.pi * min(epochs_done / self.ramp, 1.0))) / 2

    def tau(self, theta: Tensor, batch: Batch) -> Tensor:
        """The temperature of theta, through which theta's gradient comes back reversed."""
        reversed_theta: Tensor = _Reversed.apply(theta.float(), self.strength(batch.progress.epochs_done))
        return self.base + self.stretch * reversed_theta.sigmoid()

    def __str__(self) -> str:
        return f"tau learned per {self.per}"


class _All(nn.Module):
    def __init__(self, spec: CTKD):
        super().__init__()
        self.spec, self.title = spec, str(spec)
        self.theta = nn.Parameter(torch.zeros(1, 1))

    def forward(self, batch: Batch, names: Sequence[str]) -> Tensor:
        """[1, 1]"""
        return self.spec.tau(self.theta, batch)

    def shown(self, total: Total) -> dict[str, Any]:
        """`tau` at the end of the epoch, which is every worker's."""
        return {"tau": rounded(self.spec.base + self.spec.stretch * self.theta.detach().sigmoid().item())}


class _Row(nn.Module):
    def __init__(self, spec: CTKD, classes: int, teachers: tuple[str, ...]):
        super().__init__()
        self.spec, self.title, self.teachers, self.means = spec, str(spec), teachers, Means()
        last = nn.Linear(spec.hidden, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.mlp = nn.Sequential(nn.Linear(2 * classes, spec.hidden), nn.ReLU(), last)

    def forward(self, batch: Batch, names: Sequence[str]) -> Tensor:
        """[T, B]"""
        student_BC = batch.student[LOGITS].detach().float()
        pairs = [torch.cat([student_BC, batch.teachers[name][LOGITS].float()], -1) for name in names]  # type: ignore[union-attr]
        tau_TB = self.spec.tau(self.mlp(torch.stack(pairs)).squeeze(-1), batch)
        if self.training and tuple(names) == self.teachers:
            self.means.add(tau_TB.T)
        return tau_TB

    def shown(self, total: Total) -> dict[str, Any]:
        """The mean of `tau` over the rows of the epoch, of each teacher."""
        _, of_all = self.means.taken(total)
        return {"tau": dict(zip(self.teachers, of_all, strict=True))} if of_all else {}


class _Reversed(torch.autograd.Function):
    """Itself, and -strength times the gradient."""

    @staticmethod
    def forward(ctx: Any, theta: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return theta.view_as(theta)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return -ctx.strength * gradient, None
