"""Decoupled distillation: how sure the teacher is of the label, and how it orders all other classes, weighed apart.

    KL(p_T || p_S) = TCKD + (1 - p_T(y)) NCKD           p = softmax(z / tau), y the label
    TCKD = KL of (p(y), 1 - p(y))                       the label against all others
    NCKD = KL of p(c) / (1 - p(y)), c != y              among the others

    D = tau^2 (alpha TCKD + beta NCKD)

In KL a teacher that is sure of the label says next to nothing about the other classes; here that part counts beta. All in
log-space: 1 - p(y) is summed over the other classes, so it is never rounded to 0.

A mixed row is split at its own label, whatever its share [interpretation]. The source lets beta rise over the first 20
epochs of training with the rest of the term: `raykd.methods.warmup`.

Shapes: B batch, C classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from raykd.methods.kl import kl_B
from raykd.objective import Divergence
from raykd.sparse import NOWHERE


@dataclass(frozen=True)
class DKD(Divergence):
    """KL in two parts, each with its own weight. The source uses beta 8, 6 or 2, by the pair of networks.

    Raises `ValueError` for a weight that is negative or not finite.

    Source: B. Zhao, Q. Cui, R. Song, Y. Qiu, J. Liang, "Decoupled Knowledge Distillation", 2022, section 3.
    """

    alpha: float = 1.0
    """Of the label against all others."""
    beta: float = 8.0
    """Of the others among each other."""

    def __post_init__(self) -> None:
        for name, weight in (("alpha", self.alpha), ("beta", self.beta)):
            if not (math.isfinite(weight) and weight >= 0):
                raise ValueError(f"{name}={weight} of DKD: a finite number, 0 or more, would be right")

    def __call__(self, student: Tensor, teacher: Tensor, labels_B: Tensor, tau_B: Tensor) -> Tensor:
        """[B]"""
        log_p_B2, log_p_BC = _split(teacher, labels_B, tau_B)
        log_q_B2, log_q_BC = _split(student, labels_B, tau_B)
        return tau_B**2 * (self.alpha * kl_B(log_p_B2, log_q_B2) + self.beta * kl_B(log_p_BC, log_q_BC))

    def __str__(self) -> str:
        return f"DKD({self.alpha:g}, {self.beta:g})"


def _split(logits_BC: Tensor, labels_B: Tensor, tau_B: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the label and of the rest [B, 2], and of each class in the rest [B, C]: `NOWHERE` at the label."""
    z_BC = logits_BC.float() / tau_B[:, None]
    others_BC = z_BC.scatter(1, labels_B[:, None], NOWHERE)
    label_B = z_BC.gather(1, labels_B[:, None])[:, 0]
    return torch.stack([label_B, others_BC.logsumexp(1)], 1).log_softmax(1), others_BC.log_softmax(1)
