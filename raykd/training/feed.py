"""Batches of one worker: rows of the view in their order, and what the teachers said about them.

    order -> view.batch, answers.prepare  (a thread, ahead)  ->  to the device, answers.finish  ->  Feeding

A sequence of tokens is as many rows of the batch as positions of it are asked (see `raykd.tokens`).

Shapes: B rows of this worker in a batch, or M positions of its sequences.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raykd import tokens
from raykd.answers import Asked, Tally
from raykd.batch import Batch, Mix, Progress
from raykd.data.view import Sample
from raykd.order import Order
from raykd.training.job import TrainingJob
from raykd.training.prefetch import ahead
from raykd.training.process import Process


@dataclass(frozen=True)
class Feeding:
    """One step's material: the student's inputs, and the batch without what the student says about them."""

    inputs_B: Tensor
    batch: Batch
    rows: int
    """Rows of the batch over all workers together."""


@dataclass(frozen=True)
class HeldOut:
    """This worker's share of some validation rows, as they are."""

    inputs_B: Tensor
    labels_B: Tensor
    rows: int
    """Labels of all workers together."""


class Feed:
    """The batches that one process trains on. Opening it checks that what it will read is there."""

    def __init__(self, job: TrainingJob, process: Process):
        stage = job.stage
        self.view, self.epochs, self.order = stage.view, stage.budget.epochs, Order.of(stage)
        self.process = process
        self._answers = job.answers.open(stage, job.storage, process.device, process.rank, process.world)

    @property
    def batch_size(self) -> int:
        """Rows of a global batch."""
        return self.order.batch_size

    @property
    def steps(self) -> int:
        """Global batches of an epoch."""
        return self.order.steps

    @property
    def targets(self) -> int:
        """Positions asked in a row, at most; 0: a row has one label."""
        return self.view.dataset.targets

    @property
    def tally(self) -> Tally:
        """What this process read so far."""
        return self._answers.tally

    def epoch(self, epoch: int, losses: tuple[float, ...] = ()) -> Generator[Feeding, None, None]:
        """The batches of an epoch, on this process's device; `losses` are those of the epochs before."""
        with closing(ahead(self._prepared(epoch, losses))) as prepared:
            for each in prepared:
                yield self._feeding(*each)

    def held_out(self, first: int, rows: int) -> HeldOut:
        """So many validation rows, or all if there are fewer: from the first one on, and around."""
        there = len(self.view.dataset.split("validation"))
        positions = (first + np.arange(min(rows, there))) % there
        positions_B = positions[self.process.rank :: self.process.world]
        sample = self.view.plain().batch(positions_B, np.zeros_like(positions_B), "validation")
        together = self._together(sample, len(positions))
        return HeldOut(self._put(sample.inputs_B), self._put(sample.labels_B), together)

    def close(self) -> None:
        """There will be no more epochs."""
        self._answers.close()

    def _prepared(self, epoch: int, losses: tuple[float, ...]) -> Generator[tuple[Sample, Asked, Any], None, None]:
        replica = self.order.replica(epoch)
        for step, positions in enumerate(self.order.epoch(epoch)):
            positions_B = positions[self.process.rank :: self.process.world]
            replicas_B: NDArray[np.int64] = np.full(len(positions_B), replica)
            progress = Progress(epoch, self.epochs, step, self.steps, losses)
            sample = self.view.batch(positions_B, replicas_B)
            asked = Asked(progress, positions_B, replicas_B, sample.inputs_B)
            yield sample, asked, self._answers.prepare(asked)

    def _feeding(self, sample: Sample, asked: Asked, prepared: Any) -> Feeding:
        mix = None
        if sample.partner_labels_B is not None and sample.share_B is not None:
            mix = Mix(self._put(sample.partner_labels_B), self._put(sample.share_B))
        teachers = self._answers.finish(prepared)
        ids_B, places_B = self._named(sample, torch.from_numpy(asked.positions_B))
        batch = Batch(
            self._put(ids_B),
            self._put(places_B),
            self._put(sample.labels_B),
            student={},
            teachers=teachers,
            progress=asked.progress,
            mix=mix,
        )
        return Feeding(self._put(sample.inputs_B), batch, self._together(sample, self.batch_size))

    def _named(self, sample: Sample, positions_B: Tensor) -> tuple[Tensor, Tensor]:
        """Ids and places of the batch's rows: of each position asked, where there are tokens."""
        if not self.targets:
            return sample.ids_B, positions_B
        counts_B = tokens.counts(sample.inputs_B)
        first_B = counts_B.cumsum(0) - counts_B
        rank_M = torch.arange(len(sample.labels_B)) - first_B.repeat_interleave(counts_B)
        return sample.ids_B.repeat_interleave(counts_B), (positions_B * self.targets).repeat_interleave(
            counts_B
        ) + rank_M

    def _together(self, sample: Sample, rows: int) -> int:
        """How many labels these `rows` rows of all workers have; they ask each other only where rows have several."""
        if not self.targets:
            return rows
        return int(self.process.sum(torch.tensor(len(sample.labels_B), device=self.process.device)).item())

    def _put(self, tensor: Tensor) -> Tensor:
        if self.process.device.type == "cpu":
            return tensor
        return tensor.pin_memory().to(self.process.device, non_blocking=True)
