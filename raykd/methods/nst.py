"""Neuron selectivity transfer: the student's channels, as patterns over places, are to be distributed as the teacher's.

    L = MMD^2 = mean_cc' k(t_c, t_c') + mean_cc' k(s_c, s_c') - 2 mean_cc' k(t_c, s_c')        k(x, y) = (x . y)^2

over the channels of one row, each divided by its length: how many channels there are, and in which order, does not matter.
The kernel is an inner product of x x^T with y y^T, so that exactly

    L = | sum_c t_c t_c^T / C_T  -  sum_c s_c s_c^T / C_S |^2

which rounding makes no less than 0, and costs N^2 numbers a row, N = H W: 16 KB for maps of 8x8, but 4 MB for 32x32, which
should have a `size`. The protocol of Tian, Krishnan, Isola (2020) gives the weight 50 and adds up stage1, stage2 and stage3.

[interpretation] Of maps of different sizes the larger is average-pooled to the smaller.

Shapes: B batch, C channels, N places.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from raykd.features import Features, directions, products, to_smaller
from raykd.objective import Compute, Context


@dataclass(frozen=True)
class NST(Features):
    """The squared maximum mean discrepancy of channels under the polynomial kernel, d = 2 and c = 0. In [0, 2]. Weight 50.

    Raises `ValueError`, when it is built, for what is no map.

    Source: Z. Huang, N. Wang, "Like What You Like: Knowledge Distill via Neuron Selectivity Transfer", 2017, section 4.
    """

    tap: str = "stage3"

    def build(self, context: Context) -> Compute:
        """Itself, for maps."""
        ours, theirs = self.shapes(context)
        if not len(ours) == len(theirs) == 3:
            raise ValueError(f"{self} compares maps (C, H, W), and these are {ours} and {theirs}")
        return self

    def __call__(self, student: Tensor, teacher: Tensor, labels_B: Tensor, tau_B: Tensor) -> Tensor:
        """[B]"""
        ours_BNN, theirs_BNN = (_mean_square(values) for values in to_smaller(student, teacher))
        return (ours_BNN - theirs_BNN).square().sum((1, 2))


def _mean_square(values_BCHW: Tensor) -> Tensor:
    """The mean over channels of the pattern times itself. [B, N, N]"""
    patterns_BCN = directions(values_BCHW.flatten(2))
    return products(patterns_BCN.mT) / patterns_BCN.shape[1]
