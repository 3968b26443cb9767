"""What a codec is: how a teacher's values become columns of fixed width, and how far from them the reader's values may be.

    values [R, *shape] float32  --encode-->  {column: [R, width]}  --decode-->  [B, *shape] float32, or Sparse

A codec is a value, and its parameters are part of an entry's key. What a codec writes never changes: whoever changes its
columns raises `version`.

    KL(p || p e^x / Z)  =  log E_p[e^x] - E_p[x]  <=  min(b^2, e^b E_p[x^2]) / 2        for errors |x| <= b of the logits

The first by Hoeffding's lemma, the second because e^x - 1 - x <= x^2 e^b / 2. Every codec's stated error rests on it.

R rows of a shard, B rows of a batch, W = product of `shape`, S symbols of a distribution.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from raykd.sparse import Sparse


@dataclass(frozen=True)
class Column:
    """A column of fixed width, without nulls."""

    name: str
    dtype: np.dtype[Any]
    width: int
    """Numbers of `dtype` in a row, at least one."""


class Codec(ABC):
    """A way to store values. Raw ones are stored, never tempered ones: a change of temperature costs no teacher pass."""

    name: ClassVar[str]
    version: ClassVar[int] = 1
    kind: ClassVar[str]
    """What `decode` yields: "dense" (a tensor), "topk" or "sampled" (`Sparse`). A piece of an objective `reads` kinds."""
    largest: ClassVar[float]
    """The largest absolute value that is stored; `encode` refuses what lies beyond."""

    @property
    def temperatures(self) -> tuple[float, ...] | None:
        """The temperatures at which it can be read; None for all of them."""
        return None

    @abstractmethod
    def columns(self, shape: tuple[int, ...]) -> tuple[Column, ...]:
        """The columns that hold rows of this shape."""

    @abstractmethod
    def encode(self, values_R: NDArray[np.float32], ids_R: NDArray[np.int64], replica: int) -> dict[str, NDArray[Any]]:
        """The columns of `values_R` [R, *shape], each [R, width]. What a row becomes does not depend on the others.

        Raises `ValueError`, naming the row by `ids_R`, for a value that would not come back within the stated error.
        """

    @abstractmethod
    def decode(self, columns: Mapping[str, Tensor], shape: tuple[int, ...]) -> Tensor | Sparse:
        """The values of `columns`, each [B, width], where these lie: [B, *shape] float32, or `Sparse`.

        On an accelerator nothing waits for it, so that compact columns are what is moved there.
        """

    @abstractmethod
    def kl_bound(self, values_R: NDArray[np.float32], temperature: float = 1.0) -> NDArray[np.float64]:
        """The most that KL(softmax(v / T) || what a reader makes of v) can be for each row v, in nats. [R]

        A row of more than one dimension counts as one distribution over all its values.
        """

    def check(self, shape: tuple[int, ...]) -> None:
        """Raises `ValueError` for a shape of rows that cannot be stored: other than of logits, in what is not dense."""
        if self.kind != "dense" and len(shape) != 1:
            raise ValueError(f"{self} stores logits [C], and a row of these values is {list(shape)}: use dense_f16")

    def bytes_per_row(self, shape: tuple[int, ...]) -> int:
        """Bytes that a row of this shape takes, without its id and checksum."""
        return sum(column.dtype.itemsize * column.width for column in self.columns(shape))

    def __str__(self) -> str:
        changed = [field.name for field in fields(self) if getattr(self, field.name) != field.default]  # type: ignore[arg-type]
        given = ", ".join(f"{name}={getattr(self, name)}" for name in changed)
        return f"{self.name}({given})" if given else self.name


def flat(codec: Codec, values_R: NDArray[np.float32], ids_R: NDArray[np.int64]) -> NDArray[np.float32]:
    """The rows flattened, [R, W]; raises `ValueError` for the first value that is not finite or too large for the codec."""
    values_RW = values_R.reshape(len(values_R), -1)
    # two reductions, and NaN fails both: looking for the place costs a temporary, paid only when there is one
    if not (values_RW.min() >= -codec.largest and values_RW.max() <= codec.largest):
        row, place = np.argwhere(~(np.abs(values_RW) <= codec.largest))[0]
        raise ValueError(
            f"row {ids_R[row]} holds {values_RW[row, place]} at {place}: "
            f"{codec.name} stores finite values up to {codec.largest:g}"
        )
    return values_RW


def chunks(values_RW: NDArray[Any]) -> Iterator[slice]:
    """A few rows at a time, so that temporaries of their size, a megabyte of float32, stay near the core."""
    rows = max(1, (1 << 18) // values_RW.shape[1])
    return (slice(start, start + rows) for start in range(0, len(values_RW), rows))


def log_softmax(values_RW: NDArray[Any], temperature: float) -> NDArray[np.float64]:
    """log softmax(v / T) in float64. [R, W]"""
    z_RW = values_RW.astype(np.float64) / temperature
    z_RW -= z_RW.max(1, keepdims=True)
    log_p_RW: NDArray[np.float64] = z_RW - np.log(np.exp(z_RW).sum(1, keepdims=True))
    return log_p_RW


def kl_of_errors(log_p_RS: NDArray[np.float64], errors_RS: NDArray[np.float64]) -> NDArray[np.float64]:
    """The bound above for each row: errors of the log-probabilities, up to a constant, at most `errors_RS`. [R]"""
    worst_R = errors_RS.max(1)
    mean_R = (np.exp(log_p_RS) * errors_RS**2).sum(1)
    weighted_R = np.where(worst_R <= 1, np.exp(np.minimum(worst_R, 1)) * mean_R, np.inf)
    bound_R: NDArray[np.float64] = np.minimum(worst_R**2, weighted_R) / 2
    return bound_R
