"""FitNets: the student's activation, through an adapter, is to be the teacher's.

    L = mean over elements of (r(F_S) - F_T)^2        r learned with the student: a 1x1 convolution, or linear for vectors

[interpretation] The paper has a convolution whose kernel bridges the sizes, with the teacher's nonlinearity, and half the sum
of squares. Here the larger map is average-pooled to the smaller, r is linear, and the mean is taken, for which the weight 100
of the protocol of Tian, Krishnan, Isola (2020) is meant. r is there at equal widths too: the student may have other axes.
The paper trains in two stages, the hint first: an `init` edge. A sum with other terms trains in one.

Shapes: B batch, C channels, H height, W width, D width of a vector.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from raykd.features import Features, layer, to_smaller
from raykd.objective import Compute, Context


@dataclass(frozen=True)
class FitNet(Features):
    """The mean squared error of adapted activations, in the middle of the networks by default. Weight 100.

    Raises `ValueError`, when it is built, for a map against a vector.

    Source: A. Romero, N. Ballas, S. E. Kahou, A. Chassang, C. Gatta, Y. Bengio, "FitNets: Hints for Thin Deep Nets", 2015,
        equation 3.
    """

    tap: str = "stage2"

    def build(self, context: Context) -> Compute:
        """Its adapter, for one pair of widths."""
        ours, theirs = self.shapes(context)
        return _Adapted(layer(self, ours, theirs)(ours[0], theirs[0]))


class _Adapted(nn.Module):
    def __init__(self, adapter: nn.Module):
        super().__init__()
        self.adapter = adapter

    def forward(self, student: Tensor, teacher: Tensor, labels_B: Tensor, tau_B: Tensor) -> Tensor:
        # pooling and a linear adapter may change places, and the smaller map costs less
        student, teacher = to_smaller(student, teacher)
        difference: Tensor = self.adapter(student).float() - teacher
        return difference.square().flatten(1).mean(1)
