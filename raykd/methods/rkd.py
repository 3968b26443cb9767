"""Relational knowledge distillation: the rows of a batch are to form the same figure in space, up to motion and scale.

    distances    psi(i, j) = |x_i - x_j| / mean over pairs of it                    L_D = mean_ij  h(psi_T - psi_S)
    angles       psi(i, j, k) = cos of the angle x_i x_j x_k, at x_j                L_A = mean_ijk h(psi_T - psi_S)
    L = 25 L_D + 50 L_A                                                             h Huber's: x^2 / 2 up to 1, |x| - 1/2 beyond

[interpretation] The paper adds up over tuples of different rows. Here the sums are divided by B^2 and B^3, for which 25 and 50
are meant in the protocol of Tian, Krishnan, Isola (2020). A row's share of L_D is that of its pairs (i fixed), of L_A that of
the angles at it (j fixed). Rows that coincide have no direction: the cosine is 0, without a gradient.
Costs B^2 D + B^3 numbers.

Shapes: B batch, D width.
"""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from raykd.features import Features, directions, lengths, products, vectors


@dataclass(frozen=True)
class RKD(Features):
    """Huber's loss on distances in units of their mean, and on angles of three rows. Weight 1.

    Blind to rotations, reflections, shifts and scale of either network's vectors.

    Raises `ValueError` for a weight that is not finite or negative.

    Source: W. Park, D. Kim, Y. Lu, M. Cho, "Relational Knowledge Distillation", 2019, section 3.2.
    """

    relational: ClassVar[bool] = True
    _: KW_ONLY
    distance: float = 25.0
    """Weight of the distances."""
    angle: float = 50.0
    """Weight of the angles."""

    def __post_init__(self) -> None:
        if not all(math.isfinite(weight) and weight >= 0 for weight in (self.distance, self.angle)):
            raise ValueError(f"{self} weighs distances {self.distance} and angles {self.angle}: finite, 0 or more")

    def __call__(self, student: Tensor, teacher: Tensor, labels_B: Tensor, tau_B: Tensor) -> Tensor:
        """[B]"""
        ours_BBD, theirs_BBD = (_differences(vectors(values)) for values in (student, teacher))
        distance_B = F.huber_loss(_distances(ours_BBD), _distances(theirs_BBD), reduction="none").mean(1)
        angle_BBB = F.huber_loss(_angles(ours_BBD), _angles(theirs_BBD), reduction="none")
        return self.distance * distance_B + self.angle * angle_BBB.mean((1, 2))


def _differences(values_BD: Tensor) -> Tensor:
    """From row j to row i, at [j, i]. [B, B, D]"""
    return values_BD[None] - values_BD[:, None]


def _distances(difference_BBD: Tensor) -> Tensor:
    """In units of the mean over pairs of two rows. [B, B]"""
    distance_BB = lengths(difference_BBD).squeeze(-1)
    mean = distance_BB.sum() / max(len(distance_BB) * (len(distance_BB) - 1), 1)
    return distance_BB / torch.where(mean > 0, mean, 1.0)


def _angles(difference_BBD: Tensor) -> Tensor:
    """Cosines at each row j, between the directions to i and k. [B, B, B]"""
    return products(directions(difference_BBD))
