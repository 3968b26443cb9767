"""DIST: the student need not match the teacher's probabilities, only be correlated with them.

    rows       1 - r(p_S[b, :], p_T[b, :])           over the classes of a row        p = softmax(z / tau)
    classes    1 - r(p_S[:, c], p_T[:, c])           over the rows of the batch, mean over the classes

    D = tau^2 (beta rows + gamma classes)            r: Pearson's correlation, blind to x -> a x + b, a > 0

The second part is one number for the batch; every row carries it, so the mean over rows is the paper's loss. With several
workers the batch is a worker's share of it.

[interpretation] 1 - r is computed as half the squared distance of u = x / sqrt(|x|^2 + 1e-8), x centred, which it equals but
for the small constant: never negative, 0 from oneself, and without 0/0. What does not vary has no direction: flat against
flat is 0, flat against anything else 1/2.

Shapes: B batch, C classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from raykd.objective import Divergence

GUARD = 1e-4  # of a norm: below it what varies is taken for flat


@dataclass(frozen=True)
class DIST(Divergence):
    """One minus the correlation within rows, and within classes.

    Raises `ValueError` for a weight that is negative or not finite.

    Source: T. Huang, S. You, F. Wang, C. Qian, C. Xu, "Knowledge Distillation from A Stronger Teacher", 2022, inter- and
        intra-class relations.
    """

    relational: ClassVar[bool] = True
    beta: float = 1.0
    """Of the rows."""
    gamma: float = 1.0
    """Of the classes."""

    def __post_init__(self) -> None:
        for name, weight in (("beta", self.beta), ("gamma", self.gamma)):
            if not (math.isfinite(weight) and weight >= 0):
                raise ValueError(f"{name}={weight} of DIST: a finite number, 0 or more, would be right")

    def __call__(self, student: Tensor, teacher: Tensor, labels_B: Tensor, tau_B: Tensor) -> Tensor:
        """[B]"""
        q_BC, p_BC = ((logits.float() / tau_B[:, None]).softmax(-1) for logits in (student, teacher))
        rows_B, classes_C = uncorrelated(q_BC, p_BC, 1), uncorrelated(q_BC, p_BC, 0)
        return tau_B**2 * (self.beta * rows_B + self.gamma * classes_C.mean())

    def __str__(self) -> str:
        return f"DIST({self.beta:g}, {self.gamma:g})"


def uncorrelated(x: Tensor, y: Tensor, dim: int) -> Tensor:
    """One minus Pearson's correlation of `x` and `y` along `dim`, which goes. In [0, 2]."""
    return (_direction(x, dim) - _direction(y, dim)).square().sum(dim) / 2


def _direction(x: Tensor, dim: int) -> Tensor:
    x = x - x.mean(dim, keepdim=True)
    return x / (x.square().sum(dim, keepdim=True) + GUARD**2).sqrt()
