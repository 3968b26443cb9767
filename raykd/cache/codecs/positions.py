"""Any codec, for rows of several positions: each position is stored as that codec stores a row.

    values [R, K, *shape]  ->  of each column of the codec K in a row, side by side, and how many positions there are

A sequence with fewer positions than the longest has NaN behind its last one. Nothing is stored of that but its room, and a
reader gets the positions that there are, one after the other: [M, *shape].

R rows of a shard, B rows of a batch, K positions at most, M positions of a batch, W numbers of a position's column.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raykd.cache.codecs.codec import Codec, Column
from raykd.sparse import Sparse

COUNT = "positions"


@dataclass(frozen=True)
class Positions(Codec):
    """`of` at each position, and two bytes or four. On an accelerator `decode` waits for the number of positions.

    Raises `ValueError` for rows whose values are NaN before others that are not.
    """

    of: Codec

    name: ClassVar[str] = "positions"

    @property
    def kind(self) -> str:  # type: ignore[override]
        """That of a position."""
        return self.of.kind

    @property
    def largest(self) -> float:  # type: ignore[override]
        """That of a position."""
        return self.of.largest

    @property
    def temperatures(self) -> tuple[float, ...] | None:
        """Those of a position."""
        return self.of.temperatures

    def check(self, shape: tuple[int, ...]) -> None:
        """Asks the codec about a position."""
        self.of.check(shape[1:])

    def columns(self, shape: tuple[int, ...]) -> tuple[Column, ...]:
        """The codec's, so many times as wide, and `positions`."""
        most, *each = shape
        own = (Column(of.name, of.dtype, of.width * most) for of in self.of.columns(tuple(each)))
        return *own, Column(COUNT, np.dtype(np.int32), 1)

    def encode(self, values_R: NDArray[np.float32], ids_R: NDArray[np.int64], replica: int) -> dict[str, NDArray[Any]]:
        """Zeros where there are no values."""
        rows, most = values_R.shape[:2]
        there_RK = ~np.isnan(values_R.reshape(rows, most, -1)).all(2)
        counts_R1 = there_RK.sum(1, keepdims=True)
        torn = np.flatnonzero((there_RK != (np.arange(most) < counts_R1)).any(1))
        if len(torn):
            raise ValueError(f"row {ids_R[torn[0]]} has a position of nan before others: a network said it")
        ids_M = np.repeat(ids_R, counts_R1[:, 0])
        found: dict[str, NDArray[Any]] = {COUNT: counts_R1.astype(np.int32)}
        for name, column_MW in self.of.encode(values_R[there_RK], ids_M, replica).items():
            column_RKW = np.zeros((rows, most, column_MW.shape[1]), column_MW.dtype)
            column_RKW[there_RK] = column_MW
            found[name] = column_RKW.reshape(rows, -1)
        return found

    def decode(self, columns: Mapping[str, Tensor], shape: tuple[int, ...]) -> Tensor | Sparse:
        """The values of the positions that there are. [M, ...] or `Sparse` of M rows"""
        most, *each = shape
        counts_B1 = columns[COUNT]
        there_BK = torch.arange(most, device=counts_B1.device) < counts_B1
        rows = {
            name: column_BW.unflatten(1, (most, -1))[there_BK] for name, column_BW in columns.items() if name != COUNT
        }
        return self.of.decode(rows, tuple(each))

    def rows(self, columns: Mapping[str, NDArray[Any]], most: int) -> tuple[NDArray[np.bool_], dict[str, NDArray[Any]]]:
        """Which positions of each row there are, [B, most], and the columns of these positions, [M, width]."""
        there_BK = np.arange(most) < columns[COUNT]
        own = {name: column_BW for name, column_BW in columns.items() if name != COUNT}
        return there_BK, {name: each.reshape(len(each), most, -1)[there_BK] for name, each in own.items()}

    def kl_bound(self, values_R: NDArray[np.float32], temperature: float = 1.0) -> NDArray[np.float64]:
        """That of the worst position of each row. [R]"""
        rows, most = values_R.shape[:2]
        there_RK = ~np.isnan(values_R.reshape(rows, most, -1)).all(2)
        bounds_RK = np.zeros((rows, most))
        bounds_RK[there_RK] = self.of.kl_bound(values_R[there_RK], temperature)
        worst_R: NDArray[np.float64] = bounds_RK.max(1)
        return worst_R

    def __str__(self) -> str:
        return f"{self.of} a position"
