"""Warm-up: a term that would drown the labels in the first epochs grows into its weight.

    Warmup(E, w) * term        w min(1, e / E) * term        e epochs behind us, fractions included

    0.1 * CrossEntropy() + Warmup(20) * Distill(DKD())

[interpretation] The weight rises from step to step, from 0; in the sources it is the same within an epoch.

Shapes: B batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from raykd.batch import Batch
from raykd.objective import SampleWeight


@dataclass(frozen=True)
class Warmup(SampleWeight):
    """The same for every row: linear in the epochs up to `epochs`, then `weight`. `epochs=0` is the weight from the start.

    Raises `ValueError` for what is negative or not finite.

    Source: P. Chen, S. Liu, H. Zhao, J. Jia, "Distilling Knowledge via Knowledge Review", 2021.
    Source: B. Zhao, Q. Cui, R. Song, Y. Qiu, J. Liang, "Decoupled Knowledge Distillation", 2022.
    """

    epochs: float = 20.0
    weight: float = 1.0

    def __post_init__(self) -> None:
        for name, value in (("epochs", self.epochs), ("weight", self.weight)):
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name}={value} of Warmup: a finite number, 0 or more, would be right")

    def __call__(self, batch: Batch) -> Tensor:
        """[B]"""
        risen = min(1.0, batch.progress.epochs_done / self.epochs) if self.epochs else 1.0
        return torch.full(batch.labels_B.shape, self.weight * risen, device=batch.labels_B.device)

    def __str__(self) -> str:
        return f"warmup {self.epochs:g}" + ("" if self.weight == 1 else f" to {self.weight:g}")
