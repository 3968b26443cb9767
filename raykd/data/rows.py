"""Rows {id, input, label}: what a source yields, and what a split is.

Ids and labels are in memory; inputs are gathered by position when asked for, so that a folder of images is rows too.

A row of tokens has a label at each of its positions (see `raykd.tokens`). They are gathered like inputs.

Shapes: N rows, B rows of a batch, C channels, H height, W width, D width of a vector, L positions of a sequence
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Gather = Callable[[NDArray[np.int64]], Tensor]


@dataclass(frozen=True, eq=False)
class Rows:
    """Some rows of a source, in an order. Shared by all that ask for them: do not write to its arrays."""

    ids: NDArray[np.int64]
    """Unique within the source. [N]"""
    labels: NDArray[np.int64]
    """Of sequences: a kind, of which every split has its share. [N]"""
    gather: Gather
    """Inputs at places in the source: uint8 [B, C, H, W], float32 [B, D] or int64 [B, 2, L]."""
    places: NDArray[np.int64] | None = None
    """Where in the source each row is; None: in its own order. [N]"""
    gather_labels: Gather | None = None
    """Labels of all positions at places in the source, int64 [B, L]; None: a row has one."""

    def __post_init__(self) -> None:
        assert len(self.ids) == len(self.labels), (len(self.ids), len(self.labels))

    def __len__(self) -> int:
        return len(self.ids)

    def inputs(self, positions_B: NDArray[np.int64]) -> Tensor:
        """The inputs at these positions, in this order: uint8 [B, C, H, W], float32 [B, D] or int64 [B, 2, L].

        Raises `IndexError` for a position outside of the rows and, for images in files, `ValueError` that names the file.
        """
        return self.gather(self._places(positions_B))

    def labels_at(self, positions_B: NDArray[np.int64]) -> Tensor:
        """Their labels, int64: [B], or [B, L] of sequences."""
        if self.gather_labels is None:
            return torch.from_numpy(self.labels[positions_B])
        return self.gather_labels(self._places(positions_B))

    def take(self, positions: NDArray[np.int64]) -> Rows:
        """The rows at these positions, in this order; reads no input."""
        places = np.asarray(positions, np.int64) if self.places is None else self.places[positions]
        return Rows(self.ids[positions], self.labels[positions], self.gather, places, self.gather_labels)

    def _places(self, positions_B: NDArray[np.int64]) -> NDArray[np.int64]:
        # the copy is ours and writable: torch warns about arrays that are not
        return np.array(positions_B, np.int64) if self.places is None else self.places[positions_B]


def held(inputs_N: Tensor, labels_N: NDArray[np.int64], ids_N: NDArray[np.int64] | None = None) -> Rows:
    """Rows whose inputs are one tensor in memory; an id is the row's position unless ids are given."""

    def gather(places_B: NDArray[np.int64]) -> Tensor:
        return inputs_N.index_select(0, torch.from_numpy(places_B))

    ids = np.arange(len(labels_N), dtype=np.int64) if ids_N is None else ids_N
    return Rows(ids, labels_N.astype(np.int64), gather)
