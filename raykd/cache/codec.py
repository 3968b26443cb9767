"""Codecs: how a teacher's values become columns of fixed width, and how far from them the reader's values may be.

    values [R, *shape] float32  --encode-->  {column: [R, width]}  --decode-->  [B, *shape] float32

A codec is a value without state. What a codec writes never changes: whoever changes its columns raises `version`.

R rows of a shard, B rows of a batch, W = product of `shape`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Columns = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Column:
    """A column of fixed width, without nulls."""

    name: str
    dtype: np.dtype[Any]
    width: int
    """Numbers of `dtype` in a row."""


class Codec(ABC):
    """A way to store values. Raw values are stored, never tempered ones, so that any temperature can read them."""

    name: ClassVar[str]
    version: ClassVar[int]

    @abstractmethod
    def columns(self, shape: tuple[int, ...]) -> tuple[Column, ...]:
        """The columns that hold rows of this shape."""

    @abstractmethod
    def encode(self, values_R: NDArray[np.float32], ids_R: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """The columns of `values_R` [R, *shape], each [R, width].

        Raises `ValueError`, naming the row by `ids_R`, for a value that would not come back within the stated error.
        """

    @abstractmethod
    def decode(self, columns: Columns, out_B: Tensor) -> None:
        """Writes the values of `columns`, each [B, width], into `out_B` [B, *shape], float32 and contiguous."""

    @abstractmethod
    def kl_bound(self, peak: float, temperature: float = 1.0) -> float:
        """The most that KL(softmax(v / T) || softmax(decoded v / T)) can be, in nats, for rows v with all |v| <= `peak`."""

    def bytes_per_row(self, shape: tuple[int, ...]) -> int:
        """Bytes that a row of this shape takes, without its id and checksum."""
        return sum(column.dtype.itemsize * column.width for column in self.columns(shape))


@dataclass(frozen=True)
class DenseF16(Codec):
    """Every value, rounded to float16: 2 W bytes a row. The default up to 4,096 classes.

    The rounding moves a value v by at most d = max(|v| 2^-11, 2^-25), and a softmax whose logits move by at most d / T
    moves by KL <= (d / T)^2 / 2 (Hoeffding's lemma on the log partition function). That is the worst row: logits of
    a 1,000-class teacher measure about 5e-7 at T = 1 and below 5e-8 at T = 4.

    Nothing is clamped. Beyond 65,504 float16 is infinite, and a value that is not there cannot be learned from, so
    `encode` refuses it.
    """

    name: ClassVar[str] = "dense_f16"
    version: ClassVar[int] = 1
    largest: ClassVar[float] = 65504.0

    def columns(self, shape: tuple[int, ...]) -> tuple[Column, ...]:
        """One column, `values`."""
        return (Column("values", np.dtype(np.float16), math.prod(shape)),)

    def encode(self, values_R: NDArray[np.float32], ids_R: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """The values in float16; raises `ValueError` for the first that is not finite or beyond 65,504."""
        values_RW = values_R.reshape(len(values_R), -1)
        # two reductions, and NaN fails both: looking for the place costs a temporary, paid only when there is one
        if not (values_RW.min() >= -self.largest and values_RW.max() <= self.largest):
            row, place = np.argwhere(~(np.abs(values_RW) <= self.largest))[0]
            raise ValueError(
                f"row {ids_R[row]} holds {values_RW[row, place]} at {place}: "
                f"{self.name} stores finite values up to {self.largest:g}"
            )
        return {"values": values_RW.astype(np.float16)}

    def decode(self, columns: Columns, out_B: Tensor) -> None:
        """The same values in float32, exactly."""
        # torch widens float16 twenty times faster than numpy does (20 us against 430 us for [256, 1000])
        values_BW = torch.from_numpy(columns["values"])
        out_B.view(values_BW.shape).copy_(values_BW)

    def kl_bound(self, peak: float, temperature: float = 1.0) -> float:
        """(max(peak 2^-11, 2^-25) / T)^2 / 2, the bound derived above."""
        return (max(peak * 2.0**-11, 2.0**-25) / temperature) ** 2 / 2


DENSE_F16 = DenseF16()
CODECS: tuple[Codec, ...] = (DENSE_F16,)
