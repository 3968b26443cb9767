"""How a process comes by what the teachers say about its batches: read from the cache, or asked at every step.

    prepare(rows of a batch) -> columns on the CPU         in the thread that makes batches ready
    finish(columns)          -> signals on the device      in the thread that trains

Shapes: B rows of this process in a batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raykd.batch import Progress
from raykd.kept import KeptReader
from raykd.signals import Observable
from raykd.sparse import Sparse
from raykd.stage import Stage
from raykd.storage import Storage

Signals = Mapping[str, Mapping[Observable, Tensor | Sparse]]
Verify = Literal["sample", "all"]


@dataclass
class Tally:
    """What a training read. Sums over the processes, once it is over."""

    cache_rows: int = 0
    """Rows read from the cache, one for each signal."""
    bytes: int = 0
    """Of those rows, as stored."""
    waited_s: float = 0.0
    """Seconds for which batches waited for shards that were not there yet."""
    teacher_rows: int = 0
    """Rows that each teacher computed for this training alone."""

    def as_counts(self) -> dict[str, float]:
        """By name."""
        return asdict(self)


@dataclass(frozen=True)
class Asked:
    """The rows of a batch, as the student is about to see them."""

    progress: Progress
    positions_B: NDArray[np.int64]
    replicas_B: NDArray[np.int64]
    inputs_B: Tensor


class Answering(Protocol):
    """The answers of one process's teachers, open."""

    tally: Tally

    def prepare(self, asked: Asked) -> Any:
        """What the teachers say about a batch, on the CPU. Called once for each batch, in order."""
        ...

    def finish(self, prepared: Any) -> Signals:
        """The same as signals, on the device."""
        ...

    def close(self) -> None:
        """There will be no more batches."""
        ...


class Answers(Protocol):
    """Where answers come from: a spec that travels to the workers."""

    def open(self, stage: Stage, storage: Storage, device: torch.device, rank: int, world: int) -> Answering:
        """The answers for one process of a training."""
        ...


@dataclass(frozen=True)
class Cached:
    """Answers from the cache."""

    verify: Verify = "sample"
    """Which rows' inputs are compared with what the teachers saw: those of an epoch's first batch, or all."""
    follow: bool = False
    """Start although the cache is still being filled, and wait for what is not there yet."""

    def open(self, stage: Stage, storage: Storage, device: torch.device, rank: int, world: int) -> CachedAnswers:
        """Opens the entries; raises `IncompleteEntry` for one that lacks rows, without `follow`."""
        readers = {
            name: {
                each.signal: storage.reader(name, stage.teachers[name], stage.seen, each, follow=self.follow).on(device)
                for each in kept
            }
            for name, kept in stage.kept.items()
        }
        return CachedAnswers(readers, self.verify, device)


class CachedAnswers:
    """Reads batches from open entries."""

    def __init__(self, readers: Mapping[str, Mapping[Observable, KeptReader]], verify: Verify, device: torch.device):
        self.tally = Tally()
        self._readers = {(name, signal): reader for name, each in readers.items() for signal, reader in each.items()}
        self._verify = verify
        self._device = device

    def prepare(self, asked: Asked) -> dict[tuple[str, Observable], dict[str, Tensor]]:
        """The stored columns of a batch, in pinned memory where a GPU takes them from there."""
        found = {}
        for key, reader in self._readers.items():
            if asked.progress.step == 0:
                reader.reader.note_use()
            found[key] = reader.take(asked.replicas_B, asked.positions_B, pin=self._device.type == "cuda")
            if self._verify == "all" or asked.progress.step == 0:
                reader.reader.check_inputs(asked.replicas_B, asked.positions_B, asked.inputs_B)
            self.tally.bytes += sum(column.nbytes for column in found[key].values())
        self.tally.cache_rows += len(asked.positions_B) * len(found)
        self.tally.waited_s = sum(reader.reader.waited_s for reader in self._readers.values())
        return found

    def finish(self, prepared: dict[tuple[str, Observable], dict[str, Tensor]]) -> Signals:
        """Moves the compact columns, and decodes them on the device."""
        found: dict[str, dict[Observable, Tensor | Sparse]] = {}
        for (name, signal), columns in prepared.items():
            moved = {column: values.to(self._device, non_blocking=True) for column, values in columns.items()}
            found.setdefault(name, {})[signal] = self._readers[name, signal].decode(moved)
        return found

    def close(self) -> None:
        """Mappings end with their readers."""
