"""Sparse parity: is the product of k of d signs positive? Which k is for the learner to find.

    x in {-1, 1}^d, uniform        label = 1 if prod_(i in S) x_i > 0 else 0        S: k places, drawn from the seed

Fewer than k of the signs of S say nothing about the label, so a network that learns from labels alone waits on a plateau until
it has found them all.

    Parity(d, k, rows)                                       rows that repeat every epoch
    View(Dataset(Parity(d, k, rows)), (source.redrawn,))     every replica is new rows: nothing repeats within `replicas` epochs
    ParityTokens(Parity(d, k, rows))                         the same rows as tokens: 0 is -1 and 1 is 1, and behind them a
                                                             2, at which the answer is asked

Source: B. Barak, B. L. Edelman, S. Goel, S. Kakade, E. Malach, C. Zhang, "Hidden progress in deep learning: SGD learns parities
 near the computational limit", 2022, section 2.

Shapes: N rows, B rows of a batch, D signs, L = D + 1 positions, W words of 64 bits
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from raykd import rng, tokens
from raykd.data.ops import Asking, Draws, Operation
from raykd.data.rows import Rows
from raykd.data.source import Source
from raykd.identity import fingerprint

WORD = 64
SIGNS, SUPPORT = 1, 2
"""Tell the draws of the rows from that of the places."""

ASK = 2
"""The token behind the signs, at which the answer is asked."""


@dataclass(frozen=True)
class Parity(Source):
    """`rows` rows of d signs, float32 [d], drawn from (seed, id) when they are asked for; in memory are ids and labels.

    Ids are first, first + 1, ...: sources of one seed have one S, and no rows in common if their ids do not meet. (Two ids have
    the same signs with a chance of 2^-d.)

    Raises `ValueError` unless 1 <= k <= d, and for fewer than 1 row.
    """

    d: int = 50
    """Signs of a row."""
    k: int = 5
    """How many of them make the label."""
    rows: int = 10_000
    seed: int = 0
    first: int = 0
    """The first row's id."""

    classes = 2

    def __post_init__(self) -> None:
        if not 1 <= self.k <= self.d:
            raise ValueError(f"Parity has k={self.k} of d={self.d} signs: 1 <= k <= d would be right")
        if self.rows < 1 or self.first < 0:
            raise ValueError(
                f"Parity has rows={self.rows} from the id {self.first} on: at least 1, and an id from 0 on"
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """(d,)"""
        return (self.d,)

    @property
    def support(self) -> tuple[int, ...]:
        """S: the k places whose signs make the label, in rising order."""
        return _support(self.d, self.k, self.seed)

    @property
    def redrawn(self) -> Redrawn:
        """The operation that makes every replica new rows."""
        return Redrawn(self.support)

    @property
    def revision(self) -> str:
        """A digest of S and of the first rows' signs: of how both are drawn."""
        return _revision(self)

    def read(self) -> Rows:
        """Ids and labels, and how to draw the signs of a row."""
        places_N = np.arange(self.rows, dtype=np.int64)
        negative_N = np.zeros(self.rows, np.uint64)
        for place in self.support:
            negative_N ^= _bit(rng.bits(self.seed, self.first + places_N, SIGNS, place // WORD), place % WORD)
        return Rows(self.first + places_N, (1 - negative_N).astype(np.int64), self.signs)

    def signs(self, places_B: NDArray[np.int64]) -> Tensor:
        """The inputs of the rows at these places. [B, D]"""
        return _signs(self.d, self.seed, self.first + places_B[:, None], SIGNS)


@dataclass(frozen=True)
class Redrawn(Operation):
    """Other signs with the same label: uniform over all rows that have it. What a replica of a row shows is a new row.

    The signs are drawn anew, and where their product is the wrong one the first of S is turned round.
    """

    support: tuple[int, ...]
    """S."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "support", tuple(self.support))
        if not self.support or min(self.support) < 0:
            raise ValueError(f"Redrawn has support={self.support}: at least one place, each 0 or more, would be right")

    def check(self, shape: tuple[int, ...]) -> None:
        """Refuse what is no vector, or has not all the places."""
        if len(shape) != 1 or max(self.support) >= shape[0]:
            raise ValueError(
                f"{self} draws vectors of more than {max(self.support)} signs, and the inputs have {shape}"
            )

    def __call__(self, inputs_BD: Tensor, draws: Draws) -> Tensor:
        """[B, D], float32"""
        signs_BD = _signs(inputs_BD.shape[1], draws.seed, draws.ids_B[:, None], draws.replicas_B[:, None], draws.place)
        places = list(self.support)
        signs_BD[:, places[0]] *= signs_BD[:, places].prod(1) * inputs_BD[:, places].prod(1)
        return signs_BD


@dataclass(frozen=True)
class ParityTokens(Source):
    """The rows of a `Parity`, with the same ids, labels and splits, as d + 1 tokens: int64 [2, d + 1]."""

    parity: Parity

    classes, vocabulary, targets = 2, 3, 1

    @property
    def shape(self) -> tuple[int, ...]:
        """(2, d + 1)"""
        return (2, self.parity.d + 1)

    @property
    def support(self) -> tuple[int, ...]:
        """S: the k places whose signs make the label, in rising order."""
        return self.parity.support

    @property
    def redrawn(self) -> RedrawnTokens:
        """The operation that makes every replica new rows: the same ones as of the signs."""
        return RedrawnTokens(self.support)

    @property
    def revision(self) -> str:
        """That of the signs."""
        return self.parity.revision

    def read(self) -> Rows:
        """The signs' rows; the label stands at every position, and one is asked."""
        rows = self.parity.load()

        def gather(places_B: NDArray[np.int64]) -> Tensor:
            return _spelled(rows.inputs(places_B))

        def labels(places_B: NDArray[np.int64]) -> Tensor:
            return rows.labels_at(places_B)[:, None].expand(-1, self.shape[1])

        return Rows(rows.ids, rows.labels, gather, gather_labels=labels)


@dataclass(frozen=True)
class RedrawnTokens(Asking):
    """What `Redrawn` does to the signs."""

    support: tuple[int, ...]
    """S."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "support", Redrawn(self.support).support)

    def check(self, shape: tuple[int, ...]) -> None:
        """Refuse rows that have not all the places."""
        Redrawn(self.support).check((shape[1] - 1,))

    def __call__(self, inputs_B2L: Tensor, labels_BL: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """[B, 2, L] and the labels as they are."""
        signs_BD = tokens.tokens(inputs_B2L)[:, :-1].float() * 2 - 1
        return _spelled(Redrawn(self.support)(signs_BD, draws)), labels_BL


@lru_cache(maxsize=64)
def _support(d: int, k: int, seed: int) -> tuple[int, ...]:
    return tuple(sorted(rng.permutation(d, seed, SUPPORT)[:k].tolist()))


@lru_cache(maxsize=64)
def _revision(source: Parity) -> str:
    return fingerprint([source.support, source.signs(np.arange(min(16, source.rows)))])


def _signs(d: int, *coordinates: ArrayLike) -> Tensor:
    """The lowest d of the random bits of each row, as signs: 1 is -1. float32 [B, D]"""
    words_BW = rng.bits(*coordinates, np.arange(-(-d // WORD)))
    bits_BD = np.unpackbits(words_BW.astype("<u8").view(np.uint8), axis=1, count=d, bitorder="little")
    return torch.from_numpy(bits_BD).float().mul_(-2).add_(1)


def _spelled(signs_BD: Tensor) -> Tensor:
    """Signs as tokens, and `ASK` behind them. [B, 2, L]"""
    tokens_BL = F.pad((signs_BD > 0).long(), (0, 1), value=ASK)
    return tokens.pack(tokens_BL, tokens_BL == ASK)


def _bit(words_N: NDArray[np.uint64], place: int) -> NDArray[np.uint64]:
    return (words_N >> np.uint64(place)) & np.uint64(1)
