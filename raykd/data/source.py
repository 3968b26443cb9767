"""A source: where rows come from. It is its class, its fields and the content it reads, never the place it reads from.

    fingerprint(source) = class name + fields that are no places + revision (a digest of the content)

A new source is a frozen dataclass with `classes`, `shape`, `revision` (each a field or a property) and `read`.

Shapes: N rows, B rows of a batch
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from raykd import tokens
from raykd.data.rows import Rows

PLACE = {"identity": False}
"""Metadata of a field that says where and not what: `field(compare=False, metadata=PLACE)`."""

BLOCK = 4096
"""Rows looked at together when inputs are checked: bounds memory."""


class Source(ABC):
    """Labelled rows with a content. Concrete sources are frozen dataclasses that travel by pickle."""

    if TYPE_CHECKING:  # a field or a property of each source: a property here would become the default of such a field

        @property
        @abstractmethod
        def classes(self) -> int:
            """How many classes the labels count: a label is in [0, classes)."""

        @property
        @abstractmethod
        def shape(self) -> tuple[int, ...]:
            """The shape of one input: (C, H, W) of a uint8 image, (D,) of a float32 vector or (2, L) of int64 tokens."""

        @property
        @abstractmethod
        def revision(self) -> str:
            """A digest of the content, wherever it lies. May read all files once per process."""

    @property
    def vocabulary(self) -> int:
        """How many different tokens an input may hold; 0: inputs are numbers."""
        return 0

    @property
    def targets(self) -> int:
        """At how many positions of a row an answer is asked at most; 0: the row has one label."""
        return 0

    @abstractmethod
    def read(self) -> Rows:
        """Read the rows; `load` remembers them. Raises `ValueError` that names a missing or a broken file."""

    def load(self) -> Rows:
        """The rows, read once per process for a source with the same fields, place and content."""
        return _load(_Placed(type(self), repr(self), self.revision, self))

    def identity(self) -> object:
        """The fields that are no places, and the revision."""
        names = [f.name for f in dataclasses.fields(cast(Any, self)) if f.metadata.get("identity", True)]
        return {**{name: getattr(self, name) for name in names}, "revision": self.revision}

    def libraries(self) -> dict[str, str]:
        """Versions of the libraries whose change may change pixels, such as a decoder: part of a cache's key."""
        return {}

    def stored(self, folder: str) -> Source:
        """An equal source that a worker on another machine can load, given that it sees `folder` and our files."""
        return self

    def check(self) -> None:
        """Raise `ValueError`, naming the row, for the first thing wrong with the rows (see `check_rows`)."""
        check_rows(type(self).__name__, self.load(), self)


@dataclass(frozen=True)
class _Placed:
    """A source as a key: equal only for equal content read from the same place."""

    family: type
    spelled: str
    revision: str
    source: Source = field(compare=False, repr=False)


@lru_cache(maxsize=16)  # sources of one run: more would only keep old arrays alive
def _load(placed: _Placed) -> Rows:
    return placed.source.read()


def check_rows(name: str, rows: Rows, like: Source) -> None:
    """Raise `ValueError` for no rows, ids or labels that are no integers, ids that repeat, and for labels, inputs and tokens
    that are not such as `like` says: labels out of range, inputs of another shape, unknown tokens, positions asked; also for
    numbers that are not finite. Floats and tokens are all read; of images only the first is.
    """
    if len(rows) == 0:
        raise ValueError(f"{name} has no rows: a dataset needs at least one")
    _check_ids(name, rows)
    first = rows.inputs(np.zeros(1, np.int64))
    if tuple(first.shape[1:]) != like.shape:
        raise ValueError(
            f"{name}: row {rows.ids[0]} has shape {tuple(first.shape[1:])}, its shape should be {like.shape}"
        )
    if like.vocabulary:
        _check_tokens(name, rows, like)
        return
    _check_labels(name, rows, like.classes)
    if first.is_floating_point():
        _check_finite(name, rows)


def _check_ids(name: str, rows: Rows) -> None:
    if rows.ids.dtype != np.int64:
        raise ValueError(f"{name} has ids of type {rows.ids.dtype}: ids are integers (int64)")
    ids, counts = np.unique(rows.ids, return_counts=True)
    if (counts > 1).any():
        worst = counts.argmax()
        raise ValueError(f"{name}: the id {ids[worst]} belongs to {counts[worst]} rows: ids are unique")


def _check_labels(name: str, rows: Rows, classes: int) -> None:
    wrong = np.flatnonzero((rows.labels < 0) | (rows.labels >= classes))
    if len(wrong):
        row = wrong[0]
        found = f"row {rows.ids[row]} has the label {rows.labels[row]}"
        raise ValueError(f"{name}: {found}, with {classes} classes a label is in 0..{classes - 1}")


def _check_finite(name: str, rows: Rows) -> None:
    for start in range(0, len(rows), BLOCK):
        inputs_BD = rows.inputs(np.arange(start, min(start + BLOCK, len(rows)))).flatten(1)
        broken = torch.nonzero(~inputs_BD.isfinite())
        if len(broken):
            row, place = broken[0].tolist()
            value = inputs_BD[row, place].item()
            raise ValueError(f"{name}: row {rows.ids[start + row]} has the input {value}: inputs are finite numbers")


def _check_tokens(name: str, rows: Rows, like: Source) -> None:
    for start in range(0, len(rows), BLOCK):
        positions_B = np.arange(start, min(start + BLOCK, len(rows)))
        inputs_B2L, labels_BL = rows.inputs(positions_B), rows.labels_at(positions_B)
        tokens_BL, asked_BL, counts_B = tokens.tokens(inputs_B2L), tokens.asked(inputs_B2L), tokens.counts(inputs_B2L)
        for what, values_B, wrong_B, right in (
            ("the token", tokens_BL, (tokens_BL < tokens.NOTHING) | (tokens_BL >= like.vocabulary), like.vocabulary),
            ("the label", labels_BL, asked_BL & ((labels_BL < 0) | (labels_BL >= like.classes)), like.classes),
            ("the number of positions asked", counts_B, (counts_B < 1) | (counts_B > like.targets), like.targets + 1),
        ):
            if wrong_B.any():
                row, *place = torch.nonzero(wrong_B)[0].tolist()
                found = f"row {rows.ids[start + row]} has {what} {values_B[(row, *place)].item()}"
                raise ValueError(f"{name}: {found}: {int(values_B is counts_B)}..{right - 1} would be right")
