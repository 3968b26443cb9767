"""Variational information distillation: keep much of what the teacher's activation tells, by guessing it from the student's.

    -log q(t | s) = mean over elements of  log v_c / 2 + (t - mu(s))^2 / (2 v_c)        v_c = log(1 + e^a_c) + 1e-5

the negative likelihood of the teacher under a Gaussian around a learned guess mu, with a learned variance v for each channel: a
channel that cannot be guessed costs its logarithm instead of its error. It falls below 0 when variances fall below 1.

[interpretation] mu is three layers of the teacher's width with ReLU between them, 1x1 convolutions for maps and linear for
vectors, v starts at 5, and elements are averaged, as in the protocol of Tian, Krishnan, Isola (2020), which adds up stage1,
stage2 and stage3 with the weight 1. log(2 pi) / 2 is left out. Of maps of different sizes the larger is average-pooled to the
smaller.

Shapes: B batch, C channels, H height, W width; vectors are [B, C].
"""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raykd.features import Features, layer, to_smaller
from raykd.objective import Compute, Context

LEAST = 1e-5  # of the variance


@dataclass(frozen=True)
class VID(Features):
    """The negative likelihood of the teacher's activation, guessed from the student's. Weight 1. May be negative.

    Raises `ValueError` for a first variance that is not above 1e-5 and, when it is built, for a map against a vector.

    Source: S. Ahn, S. X. Hu, A. Damianou, N. D. Lawrence, Z. Dai, "Variational Information Distillation for Knowledge
        Transfer", 2019, section 2.
    """

    tap: str = "stage3"
    _: KW_ONLY
    variance: float = 5.0
    """That of every channel, at first."""

    def __post_init__(self) -> None:
        if not LEAST < self.variance < math.inf:
            raise ValueError(f"{self} has variance={self.variance}: a finite number above {LEAST:g} would be right")

    def build(self, context: Context) -> Compute:
        """Its guess and variances."""
        ours, theirs = self.shapes(context)
        make, width = layer(self, ours, theirs), theirs[0]
        return _Guess(
            nn.Sequential(make(ours[0], width), nn.ReLU(), make(width, width), nn.ReLU(), make(width, width)),
            torch.full((width,), math.log(math.expm1(self.variance - LEAST))),
        )


class _Guess(nn.Module):
    def __init__(self, guess: nn.Module, softplus_inverse_C: Tensor):
        super().__init__()
        self.guess = guess
        self.spread = nn.Parameter(softplus_inverse_C)

    def forward(self, student: Tensor, teacher: Tensor, labels_B: Tensor, tau_B: Tensor) -> Tensor:
        student, teacher = to_smaller(student, teacher)
        variance_C = (F.softplus(self.spread) + LEAST).view(-1, *[1] * (teacher.ndim - 2))
        guess: Tensor = self.guess(student).float()
        return ((teacher - guess).square() / variance_C + variance_C.log()).flatten(1).mean(1) / 2
