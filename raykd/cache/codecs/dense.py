"""Codecs that keep every value: any shape, any temperature.

    dense_f16    v rounded to float16                                  2 W bytes a row
    dense_u8     low + step * code, code in 0..255                     W + 4 bytes a row

R rows of a shard, B rows of a batch, W numbers of a row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from raykd.cache.codecs.codec import Codec, Column, flat, kl_of_errors, log_softmax

HALF = np.dtype(np.float16)
TINY = 2.0**-24  # the step between the smallest float16 numbers
CODES = 255


@dataclass(frozen=True)
class DenseF16(Codec):
    """Every value, rounded to float16: 2 W bytes a row. The default up to 4,096 classes.

    The rounding moves a value v by at most max(|v| 2^-11, 2^-25), and `kl_bound` follows. Logits of a 1,000-class
    teacher measure about 5e-7 at T = 1 and below 5e-8 at T = 4.

    Nothing is clamped. Beyond 65,504 float16 is infinite, and a value that is not there cannot be learned from, so
    `encode` refuses it.
    """

    name: ClassVar[str] = "dense_f16"
    kind: ClassVar[str] = "dense"
    largest: ClassVar[float] = 65504.0

    def columns(self, shape: tuple[int, ...]) -> tuple[Column, ...]:
        """One column, `values`."""
        return (Column("values", HALF, math.prod(shape)),)

    def encode(self, values_R: NDArray[np.float32], ids_R: NDArray[np.int64], replica: int) -> dict[str, NDArray[Any]]:
        """The values in float16."""
        return {"values": flat(self, values_R, ids_R).astype(np.float16)}

    def decode(self, columns: Mapping[str, Tensor], shape: tuple[int, ...]) -> Tensor:
        """The same values in float32, exactly."""
        return columns["values"].float().view(-1, *shape)

    def kl_bound(self, values_R: NDArray[np.float32], temperature: float = 1.0) -> NDArray[np.float64]:
        """From the rounding above. [R]"""
        values_RW = values_R.reshape(len(values_R), -1).astype(np.float64)
        errors_RW = np.maximum(np.abs(values_RW) * 2.0**-11, TINY / 2)
        return kl_of_errors(log_softmax(values_RW, temperature), errors_RW / temperature)


@dataclass(frozen=True)
class DenseU8(Codec):
    """Every value as one of 256 steps between the row's smallest and largest: W + 4 bytes a row.

    `low` is rounded down and `step` up, so every value has a code, at most step / 2 away. About a hundred times the
    divergence of `dense_f16` for half the bytes; one far outlier in a row makes all its steps large.
    """

    name: ClassVar[str] = "dense_u8"
    kind: ClassVar[str] = "dense"
    largest: ClassVar[float] = 65504.0

    def columns(self, shape: tuple[int, ...]) -> tuple[Column, ...]:
        """`codes`, and the row's `low` and `step`."""
        return Column("codes", np.dtype(np.uint8), math.prod(shape)), Column("low", HALF, 1), Column("step", HALF, 1)

    def encode(self, values_R: NDArray[np.float32], ids_R: NDArray[np.int64], replica: int) -> dict[str, NDArray[Any]]:
        """The nearest step of each value."""
        values_RW = flat(self, values_R, ids_R)
        low_R1 = rounded(values_RW.min(1, keepdims=True), towards=-np.inf)
        from_low_RW = values_RW - low_R1
        step_R1, codes_RW = quantised(from_low_RW)
        return {"codes": codes_RW, "low": low_R1, "step": step_R1}

    def decode(self, columns: Mapping[str, Tensor], shape: tuple[int, ...]) -> Tensor:
        """low + step * code."""
        values_BW = columns["codes"].float() * columns["step"].float() + columns["low"].float()
        return values_BW.view(-1, *shape)

    def kl_bound(self, values_R: NDArray[np.float32], temperature: float = 1.0) -> NDArray[np.float64]:
        """From half a step of a range that the rounding of `low` widened. [R]"""
        values_RW = values_R.reshape(len(values_R), -1).astype(np.float64)
        low_R1 = values_RW.min(1, keepdims=True)
        range_R1 = values_RW.max(1, keepdims=True) - low_R1 + np.abs(low_R1) * 2.0**-10 + TINY
        return kl_of_errors(log_softmax(values_RW, temperature), half_step(range_R1) / temperature)


def rounded(values_R: NDArray[np.float32], *, towards: float) -> NDArray[np.float16]:
    """Rounded to float16 in the direction of `towards`, which is plus or minus infinity."""
    near_R = values_R.astype(np.float16)
    passed_R = near_R < values_R if towards > 0 else near_R > values_R
    near_R[passed_R] = np.nextafter(near_R[passed_R], np.float16(towards))
    return near_R


def quantised(values_RW: NDArray[np.float32]) -> tuple[NDArray[np.float16], NDArray[np.uint8]]:
    """A step for each row, [R, 1], and the codes of its non-negative values, which are changed in place."""
    step_R1 = rounded(values_RW.max(1, keepdims=True) / np.float32(CODES), towards=np.inf)
    values_RW /= np.where(step_R1 > 0, step_R1, np.float32(1))  # a row of equal values has no step, and the code 0
    return step_R1, np.rint(values_RW, out=values_RW).astype(np.uint8)


def half_step(range_R1: NDArray[np.float64]) -> NDArray[np.float64]:
    """The most that a value of a row of this range is away from its code."""
    return (range_R1 / CODES * (1 + 2.0**-9) + TINY) / 2
