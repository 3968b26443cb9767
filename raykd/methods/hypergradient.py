"""A meta-learned temperature: it goes where the student's next step lowers the validation loss.

    theta' = theta - lr dL_train(theta, tau) / dtheta                              the next step, looked at, never taken
    h      = dL_val(theta') / du = -lr <dL_val(theta') / dtheta', d2L_train(theta, tau) / dtheta du>
    tau    = lowest + (highest - lowest) sigmoid(u)                                one for all teachers and rows

h is exact for that step, by a second backward pass through its gradient, since L_val's gradient is taken at theta'. It is of
first order in that one step is looked at, and theta is taken as given. Neither L_train nor the student's optimiser moves u.

[interpretation] The source learns one temperature of the teacher and one of the student, from the gradients of its objective;
ours is one for both, as in KD, from validation rows. The step is plain gradient descent at the current learning rate: momentum,
weight decay, Adam's scaling and clipping are left out of it. L_val is the labels' cross-entropy of rows as they are, by a
student in evaluation mode. u is moved by Adam at a rate of its own, because h is as small as lr makes it, and stays within 5 of
0, so that a temperature that came to an end of its range (to within 1 % of it) can leave again.

The rows are those of the validation split, by which epochs and trials are chosen too: one number is learned from them, so
figures of validation are a little better than they should be. Those of the test split are not touched.
A look costs as much as a few steps; it is in float32, whatever the student trains in.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import grad

from raykd.batch import Batch
from raykd.objective import Compute, Context, Lookahead, Temperature, Tuned
from raykd.shown import Total, rounded

FARTHEST = 5.0  # of u from 0
BETAS, TINY = (0.9, 0.999), 1e-8  # Adam's


@dataclass(frozen=True)
class Hypergradient(Temperature):
    """A temperature between `lowest` and `highest`, tuned on validation rows while the student trains.

    Raises `ValueError` for a range that is empty or not above 0, a start that is not inside of it, a rate below 0, and looks
    without rows or steps between them.

    Source: J. Liu, B. Liu, H. Li, Y. Liu, "Meta Knowledge Distillation", 2022, the meta-learned temperatures.
    """

    lowest: float = 1.0
    highest: float = 10.0
    start: float = 4.0
    rate: float = 0.05
    """How far a look moves u, about; from the middle, tau moves by a quarter of the range times that."""
    every: int = 10
    """Steps between looks."""
    rows: int = 256
    """Validation rows of a look, which go around; all of them if there are fewer."""

    def __post_init__(self) -> None:
        if not 0 < self.lowest < self.start < self.highest < math.inf:
            raise ValueError(f"{self!r}: 0 < lowest < start < highest would be right")
        if self.every < 1 or self.rows < 1 or not 0 <= self.rate < math.inf:
            raise ValueError(f"{self!r}: an every and rows of 1 or more, and a rate of 0 or more would be right")

    def build(self, context: Context) -> Compute:
        """The number that is learned."""
        return _Learned(self)

    def __str__(self) -> str:
        return f"tau {self.lowest:g} to {self.highest:g} by validation"


class _Learned(Tuned):
    u: Tensor
    moments_2: Tensor
    moves: Tensor

    def __init__(self, spec: Hypergradient):
        super().__init__()
        self.spec, self.title, self.every, self.rows = spec, str(spec), spec.every, spec.rows
        share = (spec.start - spec.lowest) / (spec.highest - spec.lowest)
        u = math.log(share / (1 - share))
        # buffers: kept with the training, and out of reach of its optimiser
        self.register_buffer("u", torch.full((1, 1), min(max(u, -FARTHEST), FARTHEST)))
        self.register_buffer("moments_2", torch.zeros(2))
        self.register_buffer("moves", torch.zeros(()))

    def forward(self, batch: Batch, names: Sequence[str]) -> Tensor:
        """[1, 1]"""
        return self.tau

    @property
    def tau(self) -> Tensor:
        """The temperature that u stands for. [1, 1]"""
        return self.spec.lowest + (self.spec.highest - self.spec.lowest) * self.u.sigmoid()

    def shown(self, total: Total) -> dict[str, Any]:
        """`tau` at the end of the epoch, which is every worker's."""
        return {"tau": rounded(self.tau.item())}

    def look(self, ahead: Lookahead) -> None:
        """Move u against h."""
        self.move(self.hypergradient(ahead))

    def hypergradient(self, ahead: Lookahead) -> Tensor:
        """h. [1, 1]"""
        theta = ahead.parameters
        self.u.requires_grad_(True)
        try:
            steps = grad(ahead.training_loss(theta), list(theta.values()), create_graph=True, materialize_grads=True)
            moved = {
                name: (theta[name].detach() - ahead.rate * step).requires_grad_()
                for name, step in zip(theta, ahead.mean(steps), strict=True)
            }
            slopes = ahead.mean(grad(ahead.validation_loss(moved), list(moved.values()), materialize_grads=True))
            along = torch.stack([(slope * step).sum() for slope, step in zip(slopes, steps, strict=True)]).sum()
            (bend,) = grad(along, [self.u], materialize_grads=True)
        finally:
            self.u.requires_grad_(False)
        return -ahead.rate * ahead.mean([bend])[0]

    @torch.no_grad()
    def move(self, slope: Tensor) -> None:
        """One step of Adam down a slope. [1, 1]"""
        self.moves += 1
        found = torch.stack([slope.squeeze(), slope.squeeze() ** 2])
        betas_2 = torch.tensor(BETAS, dtype=found.dtype, device=found.device)
        self.moments_2.copy_(betas_2 * self.moments_2 + (1 - betas_2) * found)
        mean, square = self.moments_2 / (1 - betas_2**self.moves)
        self.u.sub_(self.spec.rate * mean / (square.sqrt() + TINY)).clamp_(-FARTHEST, FARTHEST)
