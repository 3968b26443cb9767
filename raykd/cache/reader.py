"""Reading an entry: any rows of any replicas, and the check that they belong to these inputs.

    slot = replica * shards + position // R          row of a column = slot * (stride / bytes of a row) + position % R

Every shard is shown in its part of one window (window.py), checked there, and a batch of a column is one `np.take`. A shard
whose columns begin elsewhere, such as the shorter last one of a replica, is copied to where the others have theirs.

B rows of a batch, R rows of a full shard, W numbers of a row.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from raykd.cache.arrow import layout
from raykd.cache.checksum import input_checksums
from raykd.cache.shard import Columns, Slot
from raykd.cache.shards import Shards, mapped
from raykd.cache.window import Window, stride_for
from raykd.sparse import Sparse

CHECKSUM = "checksum"
USED = "used"
"""The file of an entry whose time says when it was last used."""
POLL_S = (0.05, 1.0)  # seconds between looks for a shard: at first, and at most


class Misaligned(ValueError):  # noqa: N818
    """The student sees another input than the teacher saw."""


class IncompleteEntry(LookupError):  # noqa: N818
    """Shards of the entry are missing; students wait, or someone computes them."""


@dataclass(frozen=True)
class Patience:
    """How long to wait for a shard: while someone is at work, and some seconds without anything new."""

    working: Callable[[], bool]
    seconds: float


class Reader:
    """The values of an entry's first `replicas` replicas. Safe to share between threads.

    Its memory is the page cache's: it is shared by all processes of a node, and the system takes it back when it needs it.
    """

    def __init__(self, shards: Shards, replicas: int, patience: Patience) -> None:
        """Reads nothing yet."""
        self.entry = str(shards.place)
        """Where the entry lies, for errors."""
        self.ids_N = shards.own_ids()
        self.codec = shards.own_codec()
        self.shape = shards.record.shape
        """Shape of one row's values."""
        self.replicas = replicas
        self.waited_s = 0.0
        """Seconds that threads waited for shards that were not there yet."""
        self._shards, self._patience = shards, patience
        self._full = len(shards.positions(Slot(0, 0)))
        self._slots = shards.slots(replicas)
        self._loaded = np.zeros(len(self._slots), bool)
        self._lock = Lock()
        self._lay_out()

    @property
    def rows(self) -> int:
        """Rows of one replica."""
        return len(self.ids_N)

    def take(self, replicas_B: ArrayLike, positions_B: ArrayLike, *, pin: bool = False) -> dict[str, Tensor]:
        """The codec's columns [B, W] of rows `positions_B` of the split in replicas `replicas_B`, as stored, on the CPU.

        With `pin` in pinned memory, if there is a GPU to copy it.

        Raises `IndexError` for a row or replica that is not there, `ValueError` for arguments of another shape or dtype,
        `IncompleteEntry` for an entry that nobody fills any more (see `Entry.open`).
        """
        slots_B, places_B = self._addresses(replicas_B, positions_B)
        pinned = pin and torch.cuda.is_available()
        return {name: self._gather(name, slots_B, places_B, pinned) for name in self._arrays if name != CHECKSUM}

    def gather(self, replicas_B: ArrayLike, positions_B: ArrayLike) -> Tensor | Sparse:
        """The values of the same rows, as the codec makes them of its columns: [B, *shape] float32, or `Sparse`."""
        return self.codec.decode(self.take(replicas_B, positions_B), self.shape)

    def check_inputs(self, replicas_B: ArrayLike, positions_B: ArrayLike, inputs_B: Tensor) -> None:
        """Raises `Misaligned`, naming the first row that differs, unless `inputs_B` [B, ...] are what the teacher saw.

        Costs the checksums of the inputs (see `input_checksums`), nothing beside them.
        """
        slots_B, places_B = self._addresses(replicas_B, positions_B)
        if len(inputs_B) != len(slots_B):
            raise ValueError(f"{len(inputs_B)} inputs for {len(slots_B)} rows: each row has one")
        seen_B = self._gather(CHECKSUM, slots_B, places_B, pinned=False).numpy()[:, 0]
        drifted = np.flatnonzero(input_checksums(inputs_B) != seen_B)
        if len(drifted):
            first = drifted[0]
            slot = self._slots[slots_B[first]]
            row_id = self.ids_N[self._shards.positions(slot).start + places_B[first]]
            raise Misaligned(
                f"row {row_id} in replica {slot.replica} is not the input that the teacher of {self.entry} saw "
                f"({len(drifted)} of {len(slots_B)} rows differ, dtype {inputs_B.dtype}, shape {list(inputs_B.shape[1:])}): "
                "the data or the augmentation changed without changing the key"
            )

    def note_use(self) -> None:
        """Say that the entry is in use: what was used of late is not collected. Costs a touch of a file."""
        with suppress(OSError):  # who may only read leaves no trace
            self._shards.place.touch(USED) or self._shards.place.create(USED, b"")

    def load_all(self) -> list[Slot]:
        """Shows and checks every shard; those that are missing, or were corrupt and now are."""
        with self._lock:
            return [slot for number, slot in enumerate(self._slots) if not self._load(number)]

    def _lay_out(self) -> None:
        """A window with a part for each file, and for each column an array over all parts."""
        size, starts = layout(self._shards.header(Slot(0, 0)))
        kinds = {column.name: (column.dtype, column.width) for column in self.codec.columns(self.shape)}
        kinds[CHECKSUM] = (np.dtype(np.uint64), 1)
        widths = [dtype.itemsize * width for dtype, width in kinds.values()]
        self._window = Window(len(self._slots), stride_for(len(self._slots), size, widths))
        self._arrays = {name: self._window.array(starts[name], *kind) for name, kind in kinds.items()}
        self._steps = {name: self._window.stride // array.strides[0] for name, array in self._arrays.items()}
        """Rows of an array from one part to the next."""

    def _gather(self, name: str, slots_B: NDArray[np.int64], places_B: NDArray[np.int64], pinned: bool) -> Tensor:
        array = self._arrays[name]
        out = torch.empty(len(slots_B), array.shape[1], dtype=_torch_dtype(array.dtype), pin_memory=pinned)
        # "raise" would go through a buffer
        np.take(array, slots_B * self._steps[name] + places_B, axis=0, out=out.numpy(), mode="clip")
        return out

    def _addresses(self, replicas_B: ArrayLike, positions_B: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The number of each row's slot, and its place in it; all of them loaded."""
        replicas, positions = _integers(replicas_B, "replicas"), _integers(positions_B, "positions")
        if replicas.shape != positions.shape:
            raise ValueError(f"{len(replicas)} replicas for {len(positions)} positions: each row has one of both")
        try:
            # checks the bounds in one call; np.take would clip what is outside, and serve another row
            np.ravel_multi_index((replicas, positions), (self.replicas, self.rows))
        except ValueError:
            _require_within(replicas, self.replicas, "replica")
            _require_within(positions, self.rows, "position")
            raise
        index_B, places_B = np.divmod(positions, self._full)
        slots_B = replicas * self._shards.per_replica + index_B
        for number in np.unique(slots_B[~self._loaded[slots_B]]):
            self._await(int(number))
        return slots_B, places_B

    def _await(self, number: int) -> None:
        """Loads a shard, once it is there."""
        pause, committed = POLL_S[0], -1
        quiet = before = time.monotonic()
        while not self._loads(number):
            now = time.monotonic()
            if self._patience.working():
                quiet = now
            elif (count := len(self._shards.committed())) != committed:
                committed, quiet = count, now
            elif now - quiet >= self._patience.seconds:
                raise IncompleteEntry(
                    f"{self.entry} lacks {self._slots[number]}, which a batch needs: nobody computes any shard of it, and "
                    f"for {self._patience.seconds:g} s nothing came"
                )
            time.sleep(pause)
            pause = min(2 * pause, POLL_S[1])
            with self._lock:
                self.waited_s += time.monotonic() - before
            before = time.monotonic()

    def _loads(self, number: int) -> bool:
        with self._lock:
            return self._load(number)

    def _load(self, number: int) -> bool:
        if self._loaded[number]:
            return True

        def show(file: int, size: int) -> NDArray[np.uint8]:
            return self._window.show(number, file, size) if size <= self._window.stride else mapped(file, size)

        rows = self._shards.read(self._slots[number], show)
        if rows is None:
            return False
        self._settle(number, {**rows.columns, CHECKSUM: rows.checksums_R[:, None]})
        self._loaded[number] = True
        return True

    def _settle(self, number: int, columns: Columns) -> None:
        """Copies columns that are not where the arrays expect them."""
        places = {
            name: array[number * self._steps[name] :][: len(columns[name])] for name, array in self._arrays.items()
        }
        if all(place.ctypes.data == columns[name].ctypes.data for name, place in places.items()):
            return
        copies = {name: column.copy() for name, column in columns.items()}
        self._window.clear(number)
        for name, place in places.items():
            self._window.write(place, copies[name])


@functools.cache
def _torch_dtype(dtype: np.dtype[Any]) -> torch.dtype:
    return torch.from_numpy(np.empty(0, dtype)).dtype


def _integers(numbers_B: ArrayLike, noun: str) -> NDArray[np.int64]:
    numbers = np.asarray(numbers_B)
    if numbers.ndim != 1 or (numbers.size and numbers.dtype.kind not in "iu"):
        raise ValueError(f"{noun} are {numbers.dtype} {list(numbers.shape)}: they must be integers [B]")
    return numbers.astype(np.int64, copy=False)


def _require_within(numbers: NDArray[np.int64], end: int, noun: str) -> None:
    outside = numbers[(numbers < 0) | (numbers >= end)]
    if outside.size:
        raise IndexError(f"{noun} {outside[0]} is not in the entry: it has {noun}s 0 to {end - 1}")
