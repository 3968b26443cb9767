"""In which order training sees its rows, and which replica of them: functions of (seed, epoch) alone.

    global batch g of epoch e = order(seed, e)[g * batch : (g + 1) * batch]          worker k of W takes every W-th row, from k
    replica of epoch e        = e mod replicas;      e itself where nothing is cached: then no replica ever comes again

So any number of workers sees the same global batches, a resumed run continues the same sequence, and whoever fills the cache
knows what is asked first: the epochs that see a replica for the first time take its rows block by block, as pools label
them. Rows lie in the order of a hash (see `Dataset.split`), so a block is a random sample, and within it the order is random.

Shapes: N rows, G global batches of an epoch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raykd import rng
from raykd.stage import Stage

BLOCK = 2048
"""Rows of a block: as many as a shard has, unless its entry was made with another number, which only costs waiting."""


@dataclass(frozen=True)
class Order:
    """The order of one stage's rows. The rows that do not fill a batch sit an epoch out; the next epoch has others."""

    rows: int
    batch_size: int
    seed: int
    replicas: int | None
    """None: every epoch has a replica of its own."""

    @classmethod
    def of(cls, stage: Stage) -> Order:
        """The order of a stage's training."""
        rows = len(stage.view.dataset.split("train"))
        replicas = None if stage.cache == "off" else stage.view.replicas
        return cls(rows, min(stage.budget.batch_size, rows), stage.seed, replicas)

    @property
    def steps(self) -> int:
        """Global batches of an epoch."""
        return self.rows // self.batch_size

    def replica(self, epoch: int) -> int:
        """Which replica of every row an epoch sees."""
        return epoch if self.replicas is None else epoch % self.replicas

    def epoch(self, epoch: int) -> NDArray[np.int64]:
        """Positions of the epoch's rows, batch by batch. [G, batch_size]"""
        order = rng.permutation(self.rows, self.seed, epoch)
        if self.replicas is not None and epoch < self.replicas:
            order = order[np.argsort(order // BLOCK, kind="stable")]
        return order[: self.steps * self.batch_size].reshape(self.steps, self.batch_size)
