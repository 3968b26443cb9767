"""Reading a complete entry: any rows of any replicas, as one tensor, and the check that they belong to these inputs.

    row of an array = replica * rows + position

All shards are copied into one contiguous array per column when the entry is opened. A batch is then one `np.take`, .88-.95 as
fast as from any array in RAM; a Python loop over the mappings of 16 shards reaches .08-.33 of it, Arrow's own `take` less.

B rows of a batch, A = replicas x rows, N rows of the split, W numbers of a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from raykd.cache.checksum import input_checksums
from raykd.cache.codec import Codec


class Misaligned(ValueError):  # noqa: N818
    """The student sees another input than the teacher saw."""


@dataclass(frozen=True, eq=False)
class Reader:
    """The values of an entry's first `replicas` replicas, in memory. Safe to share between threads."""

    entry: str
    """Where the entry lies, for errors."""
    ids_N: NDArray[np.int64]
    replicas: int
    shape: tuple[int, ...]
    """Shape of one row's values."""
    codec: Codec
    checksums_A: NDArray[np.uint64]
    """`input_checksums` of what the teacher saw."""
    columns: dict[str, NDArray[Any]]
    """The codec's columns, each [A, width] and contiguous."""

    @property
    def rows(self) -> int:
        """Rows of one replica."""
        return len(self.ids_N)

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the entry takes."""
        return self.checksums_A.nbytes + sum(column.nbytes for column in self.columns.values())

    def gather(self, replicas_B: ArrayLike, positions_B: ArrayLike, *, out: Tensor | None = None) -> Tensor:
        """The values of rows `positions_B` of the split in replicas `replicas_B`: [B, *shape] float32, on the CPU.

        `out`, if given, takes them and is returned: contiguous and of that shape and dtype, for instance pinned memory.

        Raises `IndexError` for a row or replica that is not there, `ValueError` for arguments of another shape or dtype.
        """
        rows_B = self._rows(replicas_B, positions_B)
        if out is None:
            out = torch.empty(len(rows_B), *self.shape, dtype=torch.float32, device="cpu")
        self._check_out(out, len(rows_B))
        batch = {name: np.empty((len(rows_B), array.shape[1]), array.dtype) for name, array in self.columns.items()}
        for name, array in self.columns.items():
            np.take(array, rows_B, axis=0, out=batch[name], mode="clip")  # "raise" would go through a buffer
        self.codec.decode(batch, out)
        return out

    def check_inputs(self, replicas_B: ArrayLike, positions_B: ArrayLike, inputs_B: Tensor) -> None:
        """Raises `Misaligned`, naming the first row that differs, unless `inputs_B` [B, ...] are what the teacher saw.

        Costs the checksums of the inputs (see `input_checksums`), nothing beside them.
        """
        rows_B = self._rows(replicas_B, positions_B)
        if len(inputs_B) != len(rows_B):
            raise ValueError(f"{len(inputs_B)} inputs for {len(rows_B)} rows: each row has one")
        drifted = np.flatnonzero(input_checksums(inputs_B) != self.checksums_A[rows_B])
        if len(drifted):
            replica, position = divmod(int(rows_B[drifted[0]]), self.rows)
            raise Misaligned(
                f"row {self.ids_N[position]} in replica {replica} is not the input that the teacher of {self.entry} saw "
                f"({len(drifted)} of {len(rows_B)} rows differ, dtype {inputs_B.dtype}, shape {list(inputs_B.shape[1:])}): "
                "the data or the augmentation changed without changing the key"
            )

    def _rows(self, replicas_B: ArrayLike, positions_B: ArrayLike) -> NDArray[np.int64]:
        replicas, positions = _integers(replicas_B, "replicas"), _integers(positions_B, "positions")
        if replicas.shape != positions.shape:
            raise ValueError(f"{len(replicas)} replicas for {len(positions)} positions: each row has one of both")
        try:
            # checks the bounds too, in one call; np.take would clip what is outside, and serve another row
            rows: NDArray[np.int64] = np.ravel_multi_index((replicas, positions), (self.replicas, self.rows))
        except ValueError:
            _require_within(replicas, self.replicas, "replica")
            _require_within(positions, self.rows, "position")
            raise
        return rows

    def _check_out(self, out: Tensor, batch: int) -> None:
        shape = (batch, *self.shape)
        if out.shape != shape or out.dtype != torch.float32 or out.device.type != "cpu" or not out.is_contiguous():
            raise ValueError(
                f"out is {out.dtype} {list(out.shape)} on {out.device}: it must be contiguous, float32 {list(shape)} on cpu"
            )


def _integers(numbers_B: ArrayLike, noun: str) -> NDArray[np.int64]:
    numbers = np.asarray(numbers_B)
    if numbers.ndim != 1 or (numbers.size and numbers.dtype.kind not in "iu"):
        raise ValueError(f"{noun} are {numbers.dtype} {list(numbers.shape)}: they must be integers [B]")
    return numbers.astype(np.int64, copy=False)


def _require_within(numbers: NDArray[np.int64], end: int, noun: str) -> None:
    outside = numbers[(numbers < 0) | (numbers >= end)]
    if outside.size:
        raise IndexError(f"{noun} {outside[0]} is not in the entry: it has {noun}s 0 to {end - 1}")
