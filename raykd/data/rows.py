"""Rows {id, input, label}: what a source yields, and what a split is.

Ids and labels are in memory; inputs are gathered by position when asked for, so that a folder of images is rows too.

Shapes: N rows, B rows of a batch, C channels, H height, W width, D width of a vector
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
    """[N]"""
    gather: Gather
    """Inputs at places in the source: uint8 [B, C, H, W] or float32 [B, D]."""
    places: NDArray[np.int64] | None = None
    """Where in the source each row is; None: in its own order. [N]"""

    def __post_init__(self) -> None:
        assert len(self.ids) == len(self.labels), (len(self.ids), len(self.labels))

    def __len__(self) -> int:
        return len(self.ids)

    def inputs(self, positions_B: NDArray[np.int64]) -> Tensor:
        """The inputs at these positions, in this order: uint8 [B, C, H, W] or float32 [B, D].

        Raises `IndexError` for a position outside of the rows and, for images in files, `ValueError` that names the file.
        """
        # the copy is ours and writable: torch warns about arrays that are not
        places_B = np.array(positions_B, np.int64) if self.places is None else self.places[positions_B]
        return self.gather(places_B)

    def take(self, positions: NDArray[np.int64]) -> Rows:
        """The rows at these positions, in this order; reads no input."""
        places = np.asarray(positions, np.int64) if self.places is None else self.places[positions]
        return Rows(self.ids[positions], self.labels[positions], self.gather, places)


def held(inputs_N: Tensor, labels_N: NDArray[np.int64], ids_N: NDArray[np.int64] | None = None) -> Rows:
    """Rows whose inputs are one tensor in memory; an id is the row's position unless ids are given."""

    def gather(places_B: NDArray[np.int64]) -> Tensor:
        return inputs_N.index_select(0, torch.from_numpy(places_B))

    ids = np.arange(len(labels_N), dtype=np.int64) if ids_N is None else ids_N
    return Rows(ids, labels_N.astype(np.int64), gather)
