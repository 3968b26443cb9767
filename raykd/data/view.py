"""A view: a dataset seen through operations, in so many replicas. All of it is a function of its spec.

    batch(positions, replicas) = rows of a split -> op 1 -> op 2 -> ...       row i, replica v: a function of (seed, id_i, v)

So teacher and student see the same crop, whoever asks, in any batch, on any machine; and nothing about it is stored.

Shapes: B batch
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raykd import tokens
from raykd.data.dataset import Dataset, Split
from raykd.data.ops import ONE, Asking, Draws, Mixing, Operation
from raykd.data.rows import Rows


@dataclass(frozen=True, eq=False)
class Sample:
    """Some rows of a view, as networks see them."""

    ids_B: Tensor
    """int64."""
    inputs_B: Tensor
    """uint8 [B, C, H, W], float32 [B, D] or int64 [B, 2, L], mixed where the view mixes."""
    labels_B: Tensor
    """int64; of sequences one for each position asked, see `raykd.tokens`. [B] or [M]"""
    partner_labels_B: Tensor | None = None
    """The labels of the rows mixed in, int64; None: nothing is mixed."""
    share_B: Tensor | None = None
    """How much of the row itself there is, float32; the rest is the partner's."""


@dataclass(frozen=True)
class View:
    """A dataset, the operations on its rows in their order, and how many different replicas of each row there are."""

    dataset: Dataset
    ops: tuple[Operation | Mixing | Asking, ...] = ()
    replicas: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.replicas < 1:
            raise ValueError(f"View has replicas={self.replicas}: at least 1")
        for place, op in enumerate(self.ops):
            if not isinstance(op, Operation | Mixing | Asking):
                found = f"View has a {type(op).__name__} as operation {place}"
                raise ValueError(
                    f"{found}: an operation is a frozen dataclass that derives from Operation, Mixing or Asking"
                )
            if bool(self.dataset.vocabulary) != isinstance(op, Asking):
                reads = "tokens" if isinstance(op, Asking) else "numbers"
                raise ValueError(f"{op} changes {reads}, and the rows of {self.dataset} are others: leave it out")
            if not isinstance(op, Mixing):
                op.check(self.dataset.shape)
        if sum(isinstance(op, Mixing) for op in self.ops) > 1:
            raise ValueError(f"View mixes more than once in {self.ops}: a row has one partner, so mix once")

    def batch(self, positions_B: NDArray[np.int64], replicas_B: NDArray[np.int64], split: Split = "train") -> Sample:
        """The rows at these positions of a split, each in its replica.

        A row comes out the same, to the bit, whatever else is in the batch.
        """
        positions_B, replicas_B = np.asarray(positions_B, np.int64), np.asarray(replicas_B, np.int64)
        if positions_B.shape != replicas_B.shape:
            raise ValueError(f"{len(positions_B)} positions and {len(replicas_B)} replicas: each row has one of each")
        sample = self._seen(self.dataset.split(split), positions_B, replicas_B, len(self.ops))
        if not self.dataset.vocabulary:
            return sample
        return replace(sample, labels_B=tokens.picked(sample.labels_B, tokens.asked(sample.inputs_B)))

    def _seen(self, rows: Rows, positions_B: NDArray[np.int64], replicas_B: NDArray[np.int64], depth: int) -> Sample:
        """The rows after the first `depth` operations."""
        if depth == 0:
            return Sample(
                torch.from_numpy(rows.ids[positions_B]), rows.inputs(positions_B), rows.labels_at(positions_B)
            )
        sample = self._seen(rows, positions_B, replicas_B, depth - 1)
        draws = Draws(self.seed, sample.ids_B.numpy(), replicas_B, depth - 1)
        op = self.ops[depth - 1]
        if isinstance(op, Operation):
            return replace(sample, inputs_B=op(sample.inputs_B, draws))
        if isinstance(op, Asking):
            inputs_B, labels_BL = op(sample.inputs_B, sample.labels_B, draws)
            return replace(sample, inputs_B=inputs_B, labels_B=labels_BL)
        partner = self._seen(rows, op.partners(draws, len(rows)).numpy(), replicas_B, depth - 1)
        shares_B = op.shares(draws)
        mixed_B = op(sample.inputs_B, partner.inputs_B, shares_B)
        return replace(sample, inputs_B=mixed_B, partner_labels_B=partner.labels_B, share_B=shares_B / ONE)

    def content(self) -> object:
        """What decides the pixels of a row in a replica, for the key of a cache: not the number of replicas."""
        return {
            "dataset": self.dataset,
            "ops": self.ops,
            "seed": self.seed if self.ops else 0,  # nothing is drawn without operations
            "libraries": self.dataset.libraries(),
        }

    def plain(self) -> View:
        """The same dataset as it is, for evaluation."""
        return View(self.dataset)

    def stored(self, folder: str) -> View:
        """An equal view that a worker on another machine can load (see `Source.stored`)."""
        return replace(self, dataset=self.dataset.stored(folder))
