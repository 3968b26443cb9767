"""A shard: a run of rows of one replica of a split, committed as one immutable file.

    entry  =  replicas x rows,  cut into  Slot(replica, index)  of rows_per_shard rows;  the last of a replica may be shorter

R rows of the shard.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Columns = dict[str, NDArray[Any]]
"""A codec's columns, each [R, width]."""


@dataclass(frozen=True, order=True)
class Slot:
    """A place in an entry, which one shard fills."""

    replica: int
    """Which view of the rows, from 0."""
    index: int
    """Which run of rows, from 0."""

    @property
    def name(self) -> str:
        """Where its file lies in the entry's folder."""
        return f"views/{self.replica:05d}/{self.index:08d}.arrow"


@dataclass(frozen=True, eq=False)
class Shard:
    """What a teacher said about the rows of one slot."""

    slot: Slot
    ids_R: NDArray[np.int64]
    checksums_R: NDArray[np.uint64]
    """`input_checksums` of what the teacher saw, after the view."""
    values_R: NDArray[np.float32]
    """Raw values [R, *shape]."""


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows of a shard as they are stored."""

    ids_R: NDArray[np.int64]
    checksums_R: NDArray[np.uint64]
    columns: Columns


def check_shard(shard: Shard, ids_R: NDArray[np.int64], shape: tuple[int, ...]) -> None:
    """Raises `ValueError` unless the shard holds float32 values of this shape for exactly these rows, in this order."""
    count = len(ids_R)
    _check_array(shard.slot, "ids_R", shard.ids_R, np.dtype(np.int64), (count,))
    _check_array(shard.slot, "checksums_R", shard.checksums_R, np.dtype(np.uint64), (count,))
    _check_array(shard.slot, "values_R", shard.values_R, np.dtype(np.float32), (count, *shape))
    wrong = np.flatnonzero(shard.ids_R != ids_R)
    if len(wrong):
        found, right = shard.ids_R[wrong[0]], ids_R[wrong[0]]
        raise ValueError(
            f"{shard.slot} has the row id {found} at {wrong[0]} where the entry has {right} ({len(wrong)} of {count} differ)"
        )


def _check_array(slot: Slot, name: str, array: NDArray[Any], dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    if array.dtype != dtype or array.shape != shape:
        raise ValueError(f"{name} of {slot} is {array.dtype} {list(array.shape)}: it must be {dtype} {list(shape)}")
