"""Total variation: half of what one distribution has and the other lacks, added up over the classes.

    TVD    tau^2 sum_c |p_T - p_S| / 2        p = softmax(z / tau), at most tau^2

Symmetric and bounded, where KL has no upper bound. tau^2 follows KL, and a row has one distribution where the source has one
for each token [interpretation]. With a sparse teacher both are compared on its stored classes and the tail: never above the
dense value.

Shapes: B batch, Y symbols: the C classes, or the K + 1 of a sparse teacher.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from raykd.methods.kl import Teacher, both_BY
from raykd.objective import Divergence


@dataclass(frozen=True)
class TVD(Divergence):
    """Half the L1 distance of the softened distributions.

    Source: Y. Wen, Z. Li, W. Du, L. Mou, "f-Divergence Minimization for Sequence-Level Knowledge Distillation", 2023.
    """

    reads: ClassVar[frozenset[str]] = frozenset({"dense", "topk"})

    def __call__(self, student: Tensor, teacher: Teacher, labels_B: Tensor, tau_B: Tensor) -> Tensor:
        """[B]"""
        log_q_BY, log_p_BY = both_BY(student, teacher, tau_B)
        return tau_B**2 * (log_p_BY.exp() - log_q_BY.exp()).abs().sum(-1) / 2

    def __str__(self) -> str:
        return "TVD"
