"""Batches of one worker: rows of the view, and what the teachers said about them, from the cache.

    global batch g of epoch e = order(seed, e)[g * batch : (g + 1) * batch]          worker k of W takes every W-th row, from k

The order is a function of (seed, epoch) alone, so any number of workers sees the same global batches and a resumed run
continues the same sequence. The rows that do not fill a batch sit an epoch out; the next epoch has others.

Shapes: B rows of this worker in a batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from raykd import rng
from raykd.batch import Batch, Mix, Progress
from raykd.cache import Reader
from raykd.signals import Observable
from raykd.training.job import TrainingJob
from raykd.training.process import Process


@dataclass(frozen=True)
class Feeding:
    """One step's material: the student's inputs, and the batch without what the student says about them."""

    inputs_B: Tensor
    batch: Batch


class Feed:
    """The batches that one process trains on. Opening it checks that every entry is complete."""

    def __init__(self, job: TrainingJob, process: Process):
        stage = job.stage
        self.view, self.seed, self.epochs = stage.view, stage.seed, stage.budget.epochs
        self.process, self.verify = process, job.verify
        self.ids_N = self.view.dataset.split("train").ids
        self.batch_size = min(stage.budget.batch_size, len(self.ids_N))
        self.steps = len(self.ids_N) // self.batch_size
        self.cache_rows = 0
        """Rows served from the cache so far, one for each signal."""
        self._readers = {name: _open(job, name, signals) for name, signals in job.teacher_signals.items()}

    def order(self, epoch: int) -> NDArray[np.int64]:
        """Positions of the epoch's rows, in the order of its global batches. [steps * batch_size]"""
        return rng.permutation(len(self.ids_N), self.seed, epoch)[: self.steps * self.batch_size]

    def epoch(self, epoch: int) -> Iterator[Feeding]:
        """The batches of an epoch, on this process's device."""
        order = self.order(epoch).reshape(self.steps, self.batch_size)
        for step, positions in enumerate(order):
            positions_B = positions[self.process.rank :: self.process.world]
            yield self._feeding(positions_B, Progress(epoch, self.epochs, step, self.steps))

    def _feeding(self, positions_B: NDArray[np.int64], progress: Progress) -> Feeding:
        replicas_B = self.view.replicas_at(progress.epoch, self.ids_N[positions_B])
        sample = self.view.batch(positions_B, replicas_B)
        if self.verify == "all" or progress.step == 0:
            for reader in self._all_readers():
                reader.check_inputs(replicas_B, positions_B, sample.inputs_B)
        teachers = {
            name: {signal: self._put(reader.gather(replicas_B, positions_B)) for signal, reader in readers.items()}
            for name, readers in self._readers.items()
        }
        self.cache_rows += len(positions_B) * sum(map(len, self._readers.values()))
        mix = None
        if sample.partner_labels_B is not None and sample.share_B is not None:
            mix = Mix(self._put(sample.partner_labels_B), self._put(sample.share_B))
        batch = Batch(self._put(sample.ids_B), self._put(sample.labels_B), {}, teachers, progress, mix)
        return Feeding(self._put(sample.inputs_B), batch)

    def _all_readers(self) -> Iterator[Reader]:
        for readers in self._readers.values():
            yield from readers.values()

    def _put(self, tensor: Tensor) -> Tensor:
        if self.process.device.type == "cpu":
            return tensor
        return tensor.pin_memory().to(self.process.device, non_blocking=True)


def _open(job: TrainingJob, name: str, signals: frozenset[Observable]) -> dict[Observable, Reader]:
    entries = job.storage.entries(name, job.stage.teachers[name], job.stage.view, signals)
    return {signal: entry.open(job.stage.view.replicas) for signal, entry in zip(signals, entries, strict=True)}
