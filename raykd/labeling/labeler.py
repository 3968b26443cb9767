"""Labeling slots: rows of the view in, the teachers' signals into the cache, on the worker that computed them.

    work -> leases -> view.batch, once -> each teacher's predictor -> one shard per signal -> commit

A `Labeling` says what to do in specs and paths only, so that it travels to a worker in a few kilobytes. Whoever labels holds
a lease on each slot meanwhile: another run leaves it alone, and takes it over when its holder is gone.

Shapes: R rows of a shard.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from raykd import tokens
from raykd.cache import Entry, Shard, Slot, input_checksums
from raykd.data import View
from raykd.data.view import Sample
from raykd.kept import Kept
from raykd.labeling.balance import Work
from raykd.labeling.predictor import Predictor
from raykd.places.retry import retried
from raykd.signals import Observable
from raykd.stage import Pretrained
from raykd.storage import Storage


@dataclass(frozen=True)
class Labeling:
    """Fill the cache with signals of one teacher under one view."""

    name: str
    """The teacher, for people."""
    teacher: Pretrained
    view: View
    kept: tuple[Kept, ...]
    storage: Storage

    def entries(self) -> list[Entry]:
        """The cache entries to fill, one for each signal."""
        return self.storage.entries(self.name, self.teacher, self.view, self.kept)

    def missing(self) -> tuple[list[Slot], list[str]]:
        """The slots that lack some signal, and where corrupt shards lie now. Reads and checks all that is there."""
        entries = self.entries()
        slots = sorted({slot for entry in entries for slot in entry.missing(self.view.replicas)})
        return slots, [str(path) for entry in entries for path in entry.quarantined]


@dataclass(frozen=True)
class Labeled:
    """What came of one slot for one teacher."""

    teacher: int
    """Its place in the pool."""
    slot: Slot
    rows: int
    """Rows that the teacher computed; 0 if another run has the slot, or had it before."""
    bytes: int
    """Values committed, in bytes as stored."""
    retries: int = 0
    """Times that the file system failed, and then did not."""


class Labeler:
    """A worker: it holds the teachers of a pool that it was asked for so far, and labels the slots that it is given."""

    def __init__(self, labelings: Sequence[Labeling], device: torch.device):
        self.labelings = tuple(labelings)
        self.view = labelings[0].view
        first, *others = (replace(labeling.view, replicas=1) for labeling in labelings)
        assert all(view == first for view in others), "a pool labels one view, of each teacher so many replicas"
        self.entries = [labeling.entries() for labeling in labelings]
        self.device = device
        self._predictors: dict[int, Predictor] = {}

    def label(self, work: Work) -> Iterator[Labeled]:
        """Compute one slot for each teacher of the work, and commit it. The rows are read once."""
        read: list[tuple[Sample, NDArray[np.uint64]]] = []
        retries = 0
        for teacher in work.teachers:
            with ExitStack() as leases:
                mine = [
                    position
                    for position, entry in enumerate(self.entries[teacher])
                    if (lease := entry.lease(work.slot)) is not None
                    # another run may have committed it before its lease ended
                    and leases.enter_context(lease)
                    and entry.lacks(work.slot)
                ]
                if not mine:
                    yield Labeled(teacher, work.slot, 0, 0)
                    continue
                if not read:
                    rows, retries = retried(partial(self._rows, work.slot))
                    read.append(rows)
                sample, checksums_R = read[0]
                size, more = retried(partial(self._label, teacher, work.slot, sample, checksums_R, mine))
                yield Labeled(teacher, work.slot, len(checksums_R), size, retries + more)
                retries = 0

    def _label(
        self, teacher: int, slot: Slot, sample: Sample, checksums_R: NDArray[np.uint64], mine: Sequence[int]
    ) -> int:
        """Compute and commit; the bytes of what was committed."""
        values = self._predictor(teacher)(sample.inputs_B)
        if targets := self.view.dataset.targets:
            counts_R = tokens.counts(sample.inputs_B).numpy()
            ids_R = sample.ids_B.numpy()
            values = {signal: tokens.padded(each, counts_R, targets, ids_R) for signal, each in values.items()}
        size = 0
        for position in mine:
            entry, kept = self.entries[teacher][position], self.labelings[teacher].kept[position]
            if entry.commit(Shard(slot, sample.ids_B.numpy(), checksums_R, values[kept.stored])):
                size += len(checksums_R) * kept.bytes_per_row(self.labelings[teacher].teacher.architecture)
        return size

    def _rows(self, slot: Slot) -> tuple[Sample, NDArray[np.uint64]]:
        """The slot's rows, and checksums of what every teacher will see of them."""
        positions_R = np.asarray(self.entries[0][0].positions(slot))
        sample = self.view.batch(positions_R, np.full(len(positions_R), slot.replica))
        return sample, input_checksums(sample.inputs_B)

    def _predictor(self, teacher: int) -> Predictor:
        """The teacher, loaded when first asked for; on a device that cannot hold all of them the others make room."""
        if teacher not in self._predictors:
            try:
                self._predictors[teacher] = self._load(teacher)
            except torch.OutOfMemoryError:
                if not self._predictors:
                    raise
                self._predictors.clear()
                torch.cuda.empty_cache()
                self._predictors[teacher] = self._load(teacher)
        return self._predictors[teacher]

    def _load(self, teacher: int) -> Predictor:
        labeling = self.labelings[teacher]
        stored: tuple[Observable, ...] = tuple(dict.fromkeys(kept.stored for kept in labeling.kept))
        return Predictor(
            labeling.teacher.architecture,
            labeling.teacher.weights,
            stored,
            device=self.device,
            precision=labeling.storage.precision,
        )
