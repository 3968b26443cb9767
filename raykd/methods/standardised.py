"""Logit standardisation: only the shape of a row of logits is compared, neither its level nor its scale.

    z' = (z - mean_c z) / std_c z                    of the student and of the teacher, row by row
    Standardised(D) = D(z'_S, z'_T; tau)             for any D of logits

A small student need not reach the range of the teacher's logits: D is blind to z -> a z + b, a > 0, of either. The source
takes tau 2, 9 times this and .1 times the labels' term: a recipe's choice.

[interpretation] The standard deviation divides by C; dividing by C - 1 would be the temperature tau sqrt(C / (C - 1)), but
for its square in front. A variance has 1e-8 added, so that a flat row stays flat.

Shapes: B batch, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from raykd.objective import Compute, Context, Divergence
from raykd.signals import LOGITS

GUARD = 1e-4  # of a standard deviation: below it a row is taken for flat


@dataclass(frozen=True)
class Standardised(Divergence):
    """A divergence of logits, on their z-scores. Reads dense ones, whatever the divergence reads.

    Raises `ValueError` for a divergence that compares other signals.

    Source: S. Sun, W. Ren, J. Li, R. Wang, X. Cao, "Logit Standardization in Knowledge Distillation", 2024, algorithm 1.
    """

    divergence: Divergence

    def __post_init__(self) -> None:
        if not isinstance(self.divergence, Divergence):
            raise ValueError(f"{self.divergence!r} of Standardised: a Divergence would be right")
        for signal in (self.divergence.student, self.divergence.teacher):
            if signal != LOGITS:
                raise ValueError(f"{self.divergence} of Standardised compares {signal}: one of logits would be right")

    @property
    def relational(self) -> bool:  # type: ignore[override]  # of this one, not of the class
        """As the divergence."""
        return self.divergence.relational

    def build(self, context: Context) -> Compute:
        """The divergence, given z-scores."""
        divergence = context.build(self.divergence, context.teachers)

        def compute(student: Tensor, teacher: Tensor, labels_B: Tensor, tau_B: Tensor) -> Tensor:
            return divergence(_z_scores(student), _z_scores(teacher), labels_B, tau_B)

        return compute

    def __str__(self) -> str:
        return f"Standardised({self.divergence})"


def _z_scores(logits_BC: Tensor) -> Tensor:
    z_BC = logits_BC.float()
    z_BC = z_BC - z_BC.mean(-1, keepdim=True)
    return z_BC / (z_BC.square().mean(-1, keepdim=True) + GUARD**2).sqrt()
