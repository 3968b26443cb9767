"""Similarity-preserving distillation: rows that are alike to the teacher are to be alike to the student.

    G = Q Q^T, each line divided by its length        Q the activations of the batch, flattened [B, D]
    L = |G_T - G_S|^2 / B^2                           a row's share: |its line of G_T - its line of G_S|^2 / B

The shapes of student and teacher need not agree, and nothing is learned. A batch of one row has no relations: 0.

Shapes: B batch, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from raykd.features import Features, directions, products, vectors


@dataclass(frozen=True)
class SP(Features):
    """The squared difference of row-normalised Gram matrices, of the last maps by default. Weight 3000.

    Blind to rotations of the activations, and to their scale.

    Source: F. Tung, G. Mori, "Similarity-Preserving Knowledge Distillation", 2019, section 2.
    """

    relational: ClassVar[bool] = True
    tap: str = "stage3"

    def __call__(self, student: Tensor, teacher: Tensor, labels_B: Tensor, tau_B: Tensor) -> Tensor:
        """[B]"""
        ours_BB, theirs_BB = (directions(products(vectors(values))) for values in (student, teacher))
        return (ours_BB - theirs_BB).square().mean(1)
