"""Labeling one shard: rows of the view in, the teacher's signals into the cache, on the worker that computed them.

    slot -> view.batch -> predictor -> one shard per signal -> commit

A `Labeling` says what to do in specs and paths only, so that it travels to a worker in a few kilobytes.

Shapes: R rows of a shard.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from raykd.cache import Entry, Shard, Slot, input_checksums
from raykd.data import View
from raykd.labeling.predictor import Predictor
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
    signals: tuple[Observable, ...]
    storage: Storage

    def entries(self) -> list[Entry]:
        """The cache entries to fill, one for each signal."""
        return self.storage.entries(self.name, self.teacher, self.view, self.signals)

    def missing(self) -> dict[Slot, list[int]]:
        """What is not in the cache: slot -> the signals missing there, by position."""
        found: dict[Slot, list[int]] = {}
        for position, entry in enumerate(self.entries()):
            for slot in entry.missing(self.view.replicas):
                found.setdefault(slot, []).append(position)
        return dict(sorted(found.items(), key=lambda item: (item[0].replica, item[0].index)))

    def rows(self, slots: Iterable[Slot]) -> int:
        """Rows that these slots hold together."""
        entry = self.entries()[0]
        return sum(len(entry.positions(slot)) for slot in slots)


class Labeler:
    """A worker of a labeling: it holds the teacher and labels the slots that it is given."""

    def __init__(self, labeling: Labeling, device: torch.device):
        self.labeling = labeling
        self.entries = labeling.entries()
        self.predictor = Predictor(
            labeling.teacher.architecture,
            labeling.teacher.weights,
            labeling.signals,
            device=device,
            precision=labeling.storage.precision,
        )

    def label(self, slot: Slot) -> int:
        """Compute one slot and commit it for every signal; the number of rows that the teacher computed."""
        view = self.labeling.view
        positions_R = np.asarray(self.entries[0].positions(slot))
        sample = view.batch(positions_R, np.full(len(positions_R), slot.replica))
        checksums_R = input_checksums(sample.inputs_B)
        values = self.predictor(sample.inputs_B)
        for signal, entry in zip(self.labeling.signals, self.entries, strict=True):
            entry.commit(Shard(slot, sample.ids_B.numpy(), checksums_R, values[signal]))
        return len(positions_R)
