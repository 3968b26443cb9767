"""Sequences that a small transformer learns in a second: each token is the one before it and a step, mostly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from raykd import rng, tokens
from raykd.budget import AdamW, Budget
from raykd.data import Dataset, Rows, Source, View
from raykd.methods.kl import KL
from raykd.models import GPT
from raykd.objective import Objective
from raykd.stage import Stage
from raykd.terms import Constant, CrossEntropy, Distill

LETTERS, LONGEST = 6, 9


@dataclass(frozen=True)
class Steps(Source):
    """Sequences of 3 to 9 letters; asked is every letter but the first."""

    rows: int = 400
    seed: int = 0
    classes = LETTERS
    vocabulary = LETTERS
    targets = LONGEST - 1
    shape = (2, LONGEST)
    revision = "1"

    def read(self) -> Rows:
        ids = np.arange(self.rows, dtype=np.int64)
        noise = rng.uniform(self.seed, ids[:, None], np.arange(LONGEST)) < 0.1
        letters = (rng.bits(self.seed, ids)[:, None] % 7 + 2 * np.arange(LONGEST).astype(np.uint64)).astype(np.int64)
        letters = np.where(noise, letters + 1, letters) % LETTERS
        lengths = (3 + rng.bits(self.seed, ids, 5) % np.uint64(LONGEST - 2)).astype(np.int64)
        there = np.arange(LONGEST) < lengths[:, None]
        letters[~there] = tokens.NOTHING
        asked = np.roll(there, -1, 1)
        asked[:, -1] = False
        inputs = tokens.pack(torch.from_numpy(letters), torch.from_numpy(asked))
        labels = torch.from_numpy(np.roll(letters, -1, 1).copy())

        def at(values: torch.Tensor, places_B: NDArray[np.int64]) -> torch.Tensor:
            return values[torch.from_numpy(places_B)]

        return Rows(ids, ids * 0, lambda places: at(inputs, places), gather_labels=lambda places: at(labels, places))


DATASET = Dataset(Steps(), validation=0.2, holdout=0.2)


def network(depth: int = 2, heads: int = 2) -> GPT:
    """A small one."""
    return GPT(depth=depth, heads=heads, head_width=8, vocabulary=LETTERS, classes=LETTERS, shape=(2, LONGEST))


def teacher(epochs: int = 6) -> Stage:
    """A network good enough to teach."""
    budget = Budget(epochs, batch_size=32, optimiser=AdamW(lr=1e-2))
    return Stage(network(), 1.0 * CrossEntropy(), View(DATASET), budget=budget, label="teacher")


def student(objective: Objective | None = None, epochs: int = 3, cache: str = "auto", seed: int = 0) -> Stage:
    """A student of it."""
    objective = objective or 0.1 * CrossEntropy() + 0.9 * Distill(KL(), temperature=Constant(2.0))
    budget = Budget(epochs, batch_size=32, optimiser=AdamW(lr=1e-2))
    return Stage(
        network(1, 1), objective, View(DATASET), {"teacher": teacher()}, budget=budget, cache=cache, seed=seed,
        label="student",
    )  # fmt: skip
