"""Sequences that are learned in a second, causal and masked: numbers that count on by one or by two."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raykd import rng, tokens
from raykd.budget import AdamW, Budget
from raykd.data import Dataset, View
from raykd.data.rows import Rows
from raykd.data.source import Source
from raykd.methods.kl import KL
from raykd.models import BERT, GPT, Architecture
from raykd.stage import Stage
from raykd.terms import CrossEntropy, Distill

NUMBERS, LONGEST, HIDDEN = 6, 8, 2


@dataclass(frozen=True)
class Counting(Source):
    """Rows of 5 to 8 numbers: what comes next is asked, or, if masked, which two are hidden."""

    rows: int = 160
    masked: bool = False

    classes = NUMBERS
    shape = (2, LONGEST)
    revision = "1"

    @property
    def vocabulary(self) -> int:
        return NUMBERS + self.masked

    @property
    def targets(self) -> int:
        return HIDDEN if self.masked else LONGEST - 1

    def read(self) -> Rows:
        ids_N = np.arange(self.rows)
        return Rows(ids_N, np.zeros_like(ids_N), self._inputs, gather_labels=self._labels)

    def _numbers(self, places_B: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """All numbers, and which of them a row has. [B, L]"""
        first_B, step_B, length_B = (
            torch.from_numpy((rng.bits(place, places_B) >> 40).astype(np.int64)) for place in range(3)
        )
        at_L = torch.arange(LONGEST)
        numbers_BL = (first_B[:, None] + (1 + step_B % 2)[:, None] * at_L) % NUMBERS
        return numbers_BL, at_L < (5 + length_B % 4)[:, None]

    def _inputs(self, places_B: NDArray[np.int64]) -> Tensor:
        numbers_BL, there_BL = self._numbers(places_B)
        asked_BL = torch.zeros_like(there_BL)
        if self.masked:
            asked_BL[:, 1 : 1 + 2 * HIDDEN : 2] = True
            numbers_BL = numbers_BL.masked_fill(asked_BL, NUMBERS)
        else:
            asked_BL[:, :-1] = there_BL[:, 1:]
        return tokens.pack(numbers_BL.masked_fill(~there_BL, tokens.NOTHING), asked_BL)

    def _labels(self, places_B: NDArray[np.int64]) -> Tensor:
        numbers_BL, _ = self._numbers(places_B)
        return numbers_BL if self.masked else numbers_BL.roll(-1, 1)


def network(depth: int, heads: int, *, masked: bool) -> Architecture:
    """A transformer with heads of four numbers."""
    kind = BERT if masked else GPT
    return kind(
        depth=depth, heads=heads, head_width=4, vocabulary=NUMBERS + masked, classes=NUMBERS, shape=(2, LONGEST)
    )


def teacher(*, masked: bool, depth: int = 4, heads: int = 4, epochs: int = 4) -> Stage:
    """A transformer that learns to count."""
    view = View(Dataset(Counting(masked=masked), validation=0.2, holdout=0.2))
    budget = Budget(epochs, batch_size=16, optimiser=AdamW(lr=0.01))
    return Stage(network(depth, heads, masked=masked), 1.0 * CrossEntropy(), view, budget=budget, label="teacher")


def student(*, masked: bool, depth: int = 2, heads: int = 2, epochs: int = 6) -> Stage:
    """Half as deep and half as wide."""
    of = teacher(masked=masked)
    budget = Budget(epochs, batch_size=16, optimiser=AdamW(lr=0.01))
    stage = Stage(network(depth, heads, masked=masked), 1.0 * Distill(KL()), of.view, {"teacher": of}, budget=budget)
    return replace(stage, label="student")
