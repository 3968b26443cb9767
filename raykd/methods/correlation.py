"""Correlation congruence: how rows differ from their neighbours in the batch, in an embedding, is to be the same.

    d_i = |r_S(F_S,i) - r_T(F_T,i)|        element by element; r_S, r_T learned: linear, to 128 dimensions
    L = mean over neighbours i, i + 1 of  d_i . d_(i+1)

[interpretation] The paper compares the B x B matrices of a Gaussian kernel. This is the form of the protocol of Tian, Krishnan,
Isola (2020), for which the weight .02 is meant. Both embeddings are learned there too, so nothing in this term keeps them from
shrinking. A row's share is half of each of its products, times B / (B - 1); the mean of the shares is L. Who is whose neighbour
is a matter of the order of the batch, and so is the value. A batch of one row has no neighbours: 0.

Shapes: B batch, D width of an embedding.
"""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from raykd.features import Features, vectors
from raykd.objective import Compute, Context


@dataclass(frozen=True)
class CC(Features):
    """Products of neighbouring rows' differences between student and teacher. Weight .02.

    Raises `ValueError` for a width below 1.

    Source: B. Peng, X. Jin, J. Liu, S. Zhou, Y. Wu, Y. Liu, D. Li, Z. Zhang, "Correlation Congruence for Knowledge
        Distillation", 2019, section 3.
    """

    relational: ClassVar[bool] = True
    _: KW_ONLY
    width: int = 128
    """Of the embeddings."""

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"{self} has width={self.width}: at least 1")

    def build(self, context: Context) -> Compute:
        """Its two embeddings."""
        ours, theirs = self.shapes(context)
        return _Embedded(math.prod(ours), math.prod(theirs), self.width)


class _Embedded(nn.Module):
    def __init__(self, ours: int, theirs: int, width: int):
        super().__init__()
        self.student, self.teacher = nn.Linear(ours, width), nn.Linear(theirs, width)

    def forward(self, student: Tensor, teacher: Tensor, labels_B: Tensor, tau_B: Tensor) -> Tensor:
        ours_BD, theirs_BD = self.student(vectors(student)).float(), self.teacher(vectors(teacher)).float()
        difference_BD = (ours_BD - theirs_BD).abs()
        product_B1 = (difference_BD[:-1] * difference_BD[1:]).sum(1)  # one less than there are rows
        both_B = F.pad(product_B1, (1, 0)) + F.pad(product_B1, (0, 1))
        return both_B / 2 * len(both_B) / max(len(both_B) - 1, 1)
