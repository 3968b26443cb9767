"""Attention transfer: the student is to look where the teacher looks.

    q = vec(mean_c A_c^2) / |vec(mean_c A_c^2)|        L = mean over places of (q_S - q_T)^2

The teacher's q is what the cache holds: H W numbers a row, not C H W. The paper sums over places and channels and divides its
weight of 1000 by the number of places; with means the weight is 1000, as in the protocol of Tian, Krishnan, Isola (2020).
There the layers' values are added up: a term for each of stage1, stage2 and stage3.

[interpretation] Maps of different sizes are compared at a given `size`, to which activations are average-pooled first.

Shapes: B batch, N = H W places.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from raykd.features import Features
from raykd.objective import Compute, Context
from raykd.signals import Attention


@dataclass(frozen=True)
class AttentionTransfer(Features):
    """The mean squared difference of attention maps, in [0, 2 / N]. Weight 1000.

    Raises `ValueError`, when it is built, for maps of different sizes.

    Source: S. Zagoruyko, N. Komodakis, "Paying More Attention to Attention: Improving the Performance of Convolutional
        Neural Networks via Attention Transfer", 2017, section 3.1 with p = 2.
    """

    tap: str = "stage3"

    def signal(self, tap: str) -> Attention:
        """The attention map at a tap."""
        return Attention(tap, self.size)

    def build(self, context: Context) -> Compute:
        """Itself, once the sizes are equal."""
        (ours,), (theirs,) = self.shapes(context)
        if ours != theirs:
            raise ValueError(
                f"{self}: the student's map has {ours} places and the teacher's {theirs}: "
                "name taps of equal size, or give the size to pool both to"
            )
        return self

    def __call__(self, student: Tensor, teacher: Tensor, labels_B: Tensor, tau_B: Tensor) -> Tensor:
        """[B]"""
        return (student.float() - teacher.float()).square().mean(1)
