"""Temperatures that follow the training: the same for all teachers and rows, a function of the share t of it that is done.

    Linear         tau = start + (end - start) t
    CosineDecay    tau = lowest + (highest - lowest) (1 + cos(pi t)) / 2

t is 0 at the first step and would be 1 after the last. It moves with every step, where the sources revise tau from time to time
[interpretation]. Either stays between its two ends.

Shapes: [1, 1], one for T teachers and B rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from raykd.batch import Batch
from raykd.objective import Temperature


@dataclass(frozen=True)
class Linear(Temperature):
    """Straight from `start` to `end`; up or down.

    Source: A. Jafari, M. Rezagholizadeh, P. Sharma, A. Ghodsi, "Annealing Knowledge Distillation", 2021, whose temperature
        goes down to 1.
    """

    start: float
    end: float

    def __post_init__(self) -> None:
        _check(self, self.start, self.end)

    def __call__(self, batch: Batch, names: Sequence[str]) -> Tensor:
        """[1, 1]"""
        return _between(self.start, self.end, batch.progress.fraction, batch)

    def __str__(self) -> str:
        return f"tau {self.start:g} to {self.end:g}"


@dataclass(frozen=True)
class CosineDecay(Temperature):
    """Half a cosine from `highest` down to `lowest`: soft targets first, sharp ones last.

    Raises `ValueError` if `lowest` is above `highest`.

    Source: G. C. Haase, P. H. D. da Silva, "HPM-KD: Hierarchical Progressive Multi-Teacher Framework for Knowledge Distillation
        and Efficient Model Compression", 2025, the cosine of its temperature schedules.
    """

    highest: float = 6.0
    lowest: float = 2.0

    def __post_init__(self) -> None:
        _check(self, self.lowest, self.highest)
        if self.lowest > self.highest:
            raise ValueError(f"{self}: it falls, so a lowest of {self.highest:g} or less would be right")

    def __call__(self, batch: Batch, names: Sequence[str]) -> Tensor:
        """[1, 1]"""
        return _between(self.lowest, self.highest, (1 + math.cos(math.pi * batch.progress.fraction)) / 2, batch)

    def __str__(self) -> str:
        return f"tau {self.highest:g} to {self.lowest:g} by cosine"


def _between(zero: float, one: float, share: float, batch: Batch) -> Tensor:
    return torch.full((1, 1), (1 - share) * zero + share * one, device=batch.labels_B.device)


def _check(piece: Temperature, *taus: float) -> None:
    for tau in taus:
        if not (math.isfinite(tau) and tau > 0):
            raise ValueError(
                f"the temperature of {type(piece).__name__} is {tau}: a finite number above 0 would be right"
            )
