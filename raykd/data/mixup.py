"""Mixup: an input is a mixture of two rows, and so are its labels.

    mixed = share * input + (1 - share) * partner          share ~ Beta(alpha, alpha), in 256ths

Source: Zhang, Cisse, Dauphin, Lopez-Paz, "mixup: Beyond Empirical Risk Minimization", 2018. There the partner is another row
of the batch; here it is any row of the split, by the row's own draws, so that a batch's composition changes nothing.

Shapes: B batch
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from raykd.data.ops import ONE, Draws, Mixing


@dataclass(frozen=True)
class Mixup(Mixing):
    """Two images (in whole numbers) or two vectors (in float32), the row's own share Beta-distributed."""

    alpha: float = 1.0
    """1: any share is as likely; below: mostly one of the two; above: mostly halves."""

    def __post_init__(self) -> None:
        if not 0 < self.alpha <= 20:
            raise ValueError(f"Mixup has alpha={self.alpha}: in (0, 20]")

    def partners(self, draws: Draws, rows: int) -> Tensor:
        """Any row, itself included."""
        return (draws.uniform(2)[:, 0] * rows).long()

    def shares(self, draws: Draws) -> Tensor:
        """The Beta's quantile of a uniform draw, rounded to 256ths."""
        return torch.bucketize(draws.uniform(2)[:, 1].contiguous(), _bounds(self.alpha), right=True)

    def __call__(self, inputs_B: Tensor, partners_B: Tensor, shares_B: Tensor) -> Tensor:
        """The mixtures. Raises `ValueError` for inputs of another type."""
        own = shares_B.view(-1, *[1] * (inputs_B.ndim - 1)).to(torch.int32)
        if inputs_B.dtype == torch.uint8:
            return ((inputs_B * own + partners_B * (ONE - own) + ONE // 2) >> 8).to(torch.uint8)
        if inputs_B.dtype != torch.float32:
            raise ValueError(
                f"{self} mixes uint8 images or float32 vectors, but the inputs are {inputs_B.dtype}: leave it out"
            )
        # a product, a product, a sum: each is rounded as IEEE 754 says, where a fused one would not be
        return inputs_B * (own / ONE) + partners_B * ((ONE - own) / ONE)


@lru_cache(maxsize=8)
def _bounds(alpha: float) -> Tensor:
    """Where one rounded share ends and the next begins: the Beta's distribution at 1/512, 3/512, ... float64 [256]"""
    lower = [_mass(alpha, (2 * k + 1) / (2 * ONE)) / (2 * _mass(alpha, 0.5)) for k in range(ONE // 2)]
    return torch.tensor(lower + [1 - bound for bound in reversed(lower)], dtype=torch.float64)


def _mass(alpha: float, x: float) -> float:
    """The integral of t^(alpha-1) (1-t)^(alpha-1) from 0 to x <= 1/2, by its power series (DLMF 8.17.7)."""
    total, coefficient = 0.0, 1.0
    for n in range(64):
        total += coefficient / (alpha + n)
        coefficient *= (n + 1 - alpha) / (n + 1) * x
    return math.pow(x, alpha) * total
