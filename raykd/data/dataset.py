"""A dataset: sources cut into train, validation and test by row ids, the same on every machine.

    stratified order of the rows   |---- test ----|-- validation --|-------- train --------|
                                   holdout x all    validation x rest   the rest, or the first `limit` of it

In that order each class is spread evenly, so every cut keeps the shares of the classes to within two rows.

Shapes: N rows
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from raykd import rng
from raykd.data.rows import Rows
from raykd.data.source import Source, check_rows

Split = Literal["train", "validation", "test"]

SHUFFLE, OFFSET = 1, 2
"""Tell the hash that orders the rows of a split, and the one of a class, from the hash that chooses rows."""


@dataclass(frozen=True)
class Dataset:
    """Rows to learn from, to choose by and to test on."""

    train: Source
    test: Source | None = None
    """None: the test split is taken from `train` too."""
    validation: float = 0.1
    """The share of the training rows held out for choices."""
    holdout: float = 0.2
    """The share of rows to test on when `test` is None."""
    limit: int | None = None
    """Only this many training rows, for small studies; the other splits stay as they are."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("validation", "holdout"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"Dataset has {name}={getattr(self, name)}: a share is in (0, 1)")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"Dataset has limit={self.limit}: at least 1 training row, or None for all")

    def __str__(self) -> str:
        return type(self.train).__name__ + (f", {self.limit} rows" if self.limit else "")

    @property
    def classes(self) -> int:
        """How many classes the labels count."""
        return self.train.classes

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one input."""
        return self.train.shape

    @property
    def vocabulary(self) -> int:
        """How many different tokens an input may hold; 0: inputs are numbers."""
        return self.train.vocabulary

    @property
    def targets(self) -> int:
        """At how many positions of a row an answer is asked at most; 0: the row has one label."""
        return self.train.targets

    def split(self, name: Split) -> Rows:
        """The rows of a split, a pure function of the seed, ids and labels; remembered.

        Splits are disjoint and, without a limit, cover everything. Rows come in the order of a hash of (seed, id), a fixed
        random permutation: any contiguous block of them is a random sample. Raises `ValueError` for a split without rows.
        """
        if name not in get_args(Split):
            raise ValueError(f"a dataset has no split {name!r}: 'train', 'validation' or 'test'")
        if name == "test" and self.test is not None:
            return _whole(self.test.load(), self.seed)
        holdout = self.holdout if self.test is None else 0.0
        return _cut(self.train.load(), holdout, self.validation, self.limit, self.seed)[name]

    def check(self) -> None:
        """Raise a `ValueError` of one line for the first mistake in the data, before any work: missing files, no rows, ids
        that repeat, labels out of range, numbers that are not finite, a test source that does not fit, a split without rows.

        Reads all float inputs and of images one; the other images in files are checked as they are decoded.
        """
        self.train.check()
        if self.test is not None:
            name = f"the test source {type(self.test).__name__}"
            check_rows(name, self.test.load(), self.train)
        for split in get_args(Split):
            self.split(split)

    def stored(self, folder: str) -> Dataset:
        """An equal dataset that a worker on another machine can load (see `Source.stored`)."""
        return replace(self, train=self.train.stored(folder), test=self.test and self.test.stored(folder))

    def libraries(self) -> dict[str, str]:
        """Versions of the libraries whose change may change pixels."""
        return self.train.libraries() | (self.test.libraries() if self.test else {})


@lru_cache(maxsize=16)
def _cut(rows: Rows, holdout: float, validation: float, limit: int | None, seed: int) -> dict[Split, Rows]:
    order = _stratified(rows, seed)
    tested = round(holdout * len(order))
    chosen = tested + round(validation * (len(order) - tested))
    trained = len(order) - chosen
    if limit is not None and limit > trained:
        raise ValueError(f"Dataset has limit={limit}: the train split has {trained} rows, so at most that many")
    parts: dict[Split, NDArray[np.int64]] = {"train": order[chosen:][:limit], "validation": order[tested:chosen]}
    if holdout:
        parts["test"] = order[:tested]
    for name, part in parts.items():
        if len(part) == 0:
            found = f"the {name} split has no row of {len(order)} (holdout={holdout}, validation={validation})"
            raise ValueError(f"{found}: give more rows or change the shares")
    return {name: rows.take(_shuffle(part, rows, seed)) for name, part in parts.items()}


@lru_cache(maxsize=16)
def _whole(rows: Rows, seed: int) -> Rows:
    return rows.take(_shuffle(np.arange(len(rows)), rows, seed))


def _shuffle(positions: NDArray[np.int64], rows: Rows, seed: int) -> NDArray[np.int64]:
    return positions[np.argsort(rng.bits(seed, rows.ids[positions], SHUFFLE), kind="stable")]


def _stratified(rows: Rows, seed: int) -> NDArray[np.int64]:
    """Positions of all rows such that any block of them has the classes in proportion, to within two rows.

    A row stands at (rank + u) / n: its rank by hash within the n rows of its class, and an offset u of the class so that
    the first rows of small classes do not all come first. A row added to a class moves the cuts by about a row.
    """
    by_class = np.lexsort((rng.bits(seed, rows.ids), rows.labels))
    _, starts, sizes = np.unique(rows.labels[by_class], return_index=True, return_counts=True)
    ranks = np.arange(len(by_class)) - np.repeat(starts, sizes)
    offsets = rng.uniform(seed, rows.labels[by_class], OFFSET)
    places = (ranks + offsets) / np.repeat(sizes, sizes)
    return by_class[np.lexsort((rows.ids[by_class], places))]
