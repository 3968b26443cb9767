"""EBKD: of several teachers, those that are sure of a row count more. No label is asked.

    w_k = (1 - H_k / sum_j H_j) / (K - 1)        H = -sum_c p_c log p_c, the entropy of a teacher's prediction

The weights of a row sum to 1. The source gives teachers of lower entropy a larger rate; this form of it is second-hand
[interpretation]. One teacher counts 1, and teachers that are all certain count the same: the formula has neither case.
Predictions are those at temperature 1, whatever the temperature of the comparison [interpretation].

Shapes: K teachers, the T of the signatures; B batch, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from raykd.batch import Batch
from raykd.objective import Needs, Weighting
from raykd.signals import LOGITS


@dataclass(frozen=True)
class EBKD(Weighting):
    """Each teacher by how little its entropy is.

    Source: K. Kwon, H. Na, H. Lee, N. S. Kim, "Adaptive Knowledge Distillation Based on Entropy", 2020.
    """

    def needs(self, teachers: Sequence[str]) -> Needs:
        """Their logits."""
        return {name: frozenset({LOGITS}) for name in teachers}

    def __call__(self, batch: Batch, names: Sequence[str]) -> Tensor:
        """[T, B]"""
        return others_TB(torch.stack([_entropy_B(batch.teachers[name][LOGITS]) for name in names]))  # type: ignore[arg-type]

    def __str__(self) -> str:
        return "EBKD"


def others_TB(cost_TB: Tensor) -> Tensor:
    """Each teacher's weight: what the others have of the sum of costs, over K - 1. Rows of no cost at all are shared evenly."""
    teachers = len(cost_TB)
    if teachers == 1:
        return torch.ones_like(cost_TB)
    sum_B = cost_TB.sum(0)
    share_TB = torch.where(sum_B > 0, cost_TB / sum_B.clamp(min=torch.finfo(cost_TB.dtype).tiny), 1 / teachers)
    return (1 - share_TB) / (teachers - 1)


def _entropy_B(logits_BC: Tensor) -> Tensor:
    entropy_B: Tensor = torch.special.entr(logits_BC.float().softmax(-1)).sum(-1)
    return entropy_B
