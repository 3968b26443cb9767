"""Codecs that keep the k largest logits, and what the others sum to.

    ids  |  v_id - max v                 |  log sum exp((v_c - max v) / T) over the others, for each declared T
            float16, or code * step                                                            float16

A reader has the teacher on K + 1 symbols, the stored classes and the tail. Where it must say what one class of the tail
has, it gives each the same. So with m the teacher's mass on the tail, H its entropy there, and P on K + 1 symbols

    KL(p || read)  =  KL(P || P read)  +  m (log(C - K) - H)

by the chain rule, because what is read is even on the tail. The first summand comes from rounding and is bounded as for
every codec; the second is the price of leaving classes out, and is known exactly. It is why k classes of a few
thousand, or a temperature above 1, cost much more than rounding does.

R rows of a shard, B rows of a batch, C classes, K = min(k, C) stored classes, S declared temperatures.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raykd.cache.codecs.codec import Codec, Column, chunks, flat, kl_of_errors, log_softmax
from raykd.cache.codecs.dense import HALF, TINY, half_step, quantised
from raykd.sparse import Sparse, undeclared_temperature

# what a sum of float32 exponentials may be wrong by, in logarithms; float16 adds a hundred times that
FLOAT32 = 2.0**-18


@dataclass(frozen=True)
class _TopK(Codec):
    """What both ways to store the k largest share."""

    k: int = 64
    temperatures: tuple[float, ...] = (1.0, 2.0, 4.0)
    """At which the tail is stored. 1 always is, for the probabilities themselves."""

    kind: ClassVar[str] = "topk"
    largest: ClassVar[float] = 32752.0  # twice that is the largest float16, and differences are stored

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"{self.name} of k={self.k}: one class or more would be right")
        if not all(math.isfinite(tau) and tau > 0 for tau in self.temperatures):
            raise ValueError(f"{self.name} at temperatures={self.temperatures}: finite numbers above 0 would be right")
        object.__setattr__(self, "temperatures", tuple(sorted({1.0, *map(float, self.temperatures)})))

    @abstractmethod
    def value_columns(self, k: int) -> tuple[Column, ...]:
        """The columns of `k` differences."""

    @abstractmethod
    def encode_values(self, below_RK: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """These columns for max v - v, which is 0 or more."""

    @abstractmethod
    def decode_values(self, columns: Mapping[str, Tensor]) -> Tensor:
        """v - max v. [B, K]"""

    @abstractmethod
    def value_errors(self, below_RK: NDArray[np.float64]) -> NDArray[np.float64]:
        """The most that each of them is wrong by. [R, K]"""

    def columns(self, shape: tuple[int, ...]) -> tuple[Column, ...]:
        """`ids`, the values', and `tails`."""
        (classes,) = shape
        k = min(self.k, classes)
        ids, tails = Column("ids", id_dtype(classes), k), Column("tails", HALF, len(self.temperatures))
        return ids, *self.value_columns(k), tails

    def encode(self, values_R: NDArray[np.float32], ids_R: NDArray[np.int64], replica: int) -> dict[str, NDArray[Any]]:
        """The classes in the order of their logits, the largest first."""
        values_RC = flat(self, values_R, ids_R)
        parts = [self._largest(values_RC[rows]) for rows in chunks(values_RC)]
        ids_RK, below_RK, tails_RS = (np.concatenate(part) for part in zip(*parts, strict=True))
        return {
            "ids": ids_RK.astype(id_dtype(values_RC.shape[1])),
            **self.encode_values(below_RK),
            "tails": tails_RS.astype(np.float16),
        }

    def decode(self, columns: Mapping[str, Tensor], shape: tuple[int, ...]) -> Sparse:
        """The teacher on its alphabet, up to rounding."""
        (classes,) = shape
        ids_BK, tails_BS = class_ids(columns["ids"]), columns["tails"].float()
        return Sparse(ids_BK, self.decode_values(columns), tails_BS, self.temperatures, classes)

    def kl_bound(self, values_R: NDArray[np.float32], temperature: float = 1.0) -> NDArray[np.float64]:
        """Both summands above; raises `ValueError` for an undeclared temperature. [R]"""
        if temperature not in self.temperatures:
            raise undeclared_temperature(temperature, self.temperatures)
        classes = values_R.shape[1]
        falling_RC = -np.sort(-values_R.astype(np.float64), 1)
        log_p_RC = log_softmax(falling_RC, temperature)
        stored_RK, rest_RL = np.split(log_p_RC, [min(self.k, classes)], 1)
        errors_RK = self.value_errors(falling_RC[:, :1] - falling_RC[:, : self.k]) / temperature
        if self.k >= classes:
            return kl_of_errors(stored_RK, errors_RK)
        tail_R1 = np.logaddexp.reduce(rest_RL, 1, keepdims=True)
        held_R1 = np.abs(tail_R1 - log_p_RC[:, :1])
        errors_R1 = np.maximum(held_R1 * 2.0**-11, held_R1 - 65504) + FLOAT32
        rounding_R = kl_of_errors(np.hstack([stored_RK, tail_R1]), np.hstack([errors_RK, errors_R1]))
        uneven_R: NDArray[np.float64] = (np.exp(rest_RL) * (rest_RL - tail_R1 + np.log(rest_RL.shape[1]))).sum(1)
        return rounding_R + np.maximum(uneven_R, 0)

    def _largest(
        self, values_RC: NDArray[np.float32]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float64]]:
        """Classes, how far below the largest they are, and the tails of a few rows."""
        rows, classes = values_RC.shape
        # six times as fast as np.argpartition at 16,384 classes, and it sorts
        top = torch.from_numpy(values_RC).topk(min(self.k + 1, classes))
        values, ids_RK = top.values.numpy(), top.indices.numpy()[:, : self.k]
        below_RK = values[:, :1] - values[:, : self.k]
        if self.k >= classes:
            return ids_RK, below_RK, np.full((rows, len(self.temperatures)), -np.inf)
        # against the largest of the tail itself: against that of the row a far tail would be exp(-1000) = 0
        rest_RC, next_R1 = values_RC - values[:, self.k :], values[:, self.k :]
        np.put_along_axis(rest_RC, ids_RK, -np.inf, 1)
        softened = (rest_RC / np.float32(tau) for tau in self.temperatures)
        sums_RS = np.stack([np.exp(z_RC, out=z_RC).sum(1) for z_RC in softened], 1)
        tails_RS = np.log(sums_RS) + (next_R1 - values[:, :1]) / np.array(self.temperatures)
        return ids_RK, below_RK, np.maximum(tails_RS, -65504)  # whose exponential is 0 all the same


@dataclass(frozen=True)
class TopKF16(_TopK):
    """The k largest in float16: k (2 + 2) + 6 bytes a row up to 65,536 classes, with three temperatures."""

    name: ClassVar[str] = "topk_f16"

    def value_columns(self, k: int) -> tuple[Column, ...]:
        """One column, `below`."""
        return (Column("below", HALF, k),)

    def encode_values(self, below_RK: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """Rounded."""
        return {"below": below_RK.astype(np.float16)}

    def decode_values(self, columns: Mapping[str, Tensor]) -> Tensor:
        """Exactly what was rounded to."""
        return -columns["below"].float()

    def value_errors(self, below_RK: NDArray[np.float64]) -> NDArray[np.float64]:
        """Those of float16, and of a difference in float32."""
        return below_RK * (2.0**-11 + 2.0**-22) + TINY / 2


@dataclass(frozen=True)
class TopKU8(_TopK):
    """The k largest in 256 steps from the first to the k-th: k (2 + 1) + 8 bytes a row. The default above 4,096 classes.

    The largest logit is exact, and steps are small where the k-th is close to it: rounding is far below the tail's price.
    """

    name: ClassVar[str] = "topk_u8"

    def value_columns(self, k: int) -> tuple[Column, ...]:
        """`codes`, and the row's `step`."""
        return Column("codes", np.dtype(np.uint8), k), Column("step", HALF, 1)

    def encode_values(self, below_RK: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """The nearest step of each."""
        step_R1, codes_RK = quantised(below_RK)
        return {"codes": codes_RK, "step": step_R1}

    def decode_values(self, columns: Mapping[str, Tensor]) -> Tensor:
        """Steps below the largest."""
        return -(columns["codes"].float() * columns["step"].float())

    def value_errors(self, below_RK: NDArray[np.float64]) -> NDArray[np.float64]:
        """Half a step, except for the largest."""
        return np.where(below_RK > 0, half_step(below_RK[:, -1:]) + below_RK * 2.0**-22, 0)


def id_dtype(classes: int) -> np.dtype[Any]:
    """The integers that class ids are stored as.

    Two bytes are signed, and read modulo 65,536: of unsigned ones torch gathers and masks only bytes.
    """
    return np.dtype(np.int16 if classes <= 1 << 16 else np.int32)


def class_ids(stored_BK: Tensor) -> Tensor:
    """The class ids that were stored, int64."""
    return stored_BK.long() & 0xFFFF if stored_BK.dtype == torch.int16 else stored_BK.long()
