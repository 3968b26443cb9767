"""Masked language modelling: some tokens of each row are hidden, and asked for.

    a b c a b a b   ->   a ? c a ? a b        exactly max(1, round(rate x length)) of them, and no loss anywhere else

    Masked(source)                                          the same positions of a row are hidden every time, as in evaluation
    View(Dataset(source), (source.remasked,), replicas=n)   every replica hides others

Source: J. Devlin, M. Chang, K. Lee, K. Toutanova, "BERT: Pre-training of Deep Bidirectional Transformers for Language
Understanding", 2019, section 3.1. [interpretation] All that are asked for are hidden: none is left as it is, none replaced by
another token.

Shapes: N rows, B rows of a batch, L positions
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raykd import rng, tokens
from raykd.data.ops import Asking, Draws
from raykd.data.rows import Rows
from raykd.data.source import Source
from raykd.identity import fingerprint

HIDDEN = 3
"""Tells the draws of what is hidden from those of the rows, which may have the same seed."""


@dataclass(frozen=True)
class Masked(Source):
    """The rows of a source of tokens with a share of the tokens hidden, by a draw from (seed, id); labels are the tokens.

    Raises `ValueError` for a rate outside of (0, 1), and for a source where not every token is an answer.
    """

    source: Source
    rate: float = 0.3
    """The share of each row's tokens that is hidden."""
    seed: int = 0

    def __post_init__(self) -> None:
        _check_rate(self)
        if not self.source.vocabulary or self.source.vocabulary != self.source.classes:
            found = f"Masked has a {type(self.source).__name__} of {self.source.vocabulary} tokens"
            raise ValueError(
                f"{found} and {self.source.classes} classes: a source whose classes are its tokens would be right"
            )

    @property
    def classes(self) -> int:
        """Any token of the source may be hidden."""
        return self.source.vocabulary

    @property
    def vocabulary(self) -> int:
        """The source's, and behind them the one that stands for a hidden token."""
        return self.source.vocabulary + 1

    @property
    def shape(self) -> tuple[int, ...]:
        """(2, L)"""
        return self.source.shape

    @property
    def targets(self) -> int:
        """So many as are hidden in a row of full length."""
        return int(_counts(torch.tensor([self.shape[1]]), self.rate)[0])

    @property
    def remasked(self) -> Remasked:
        """The operation that hides other positions in every replica."""
        return Remasked(self.classes, self.rate)

    @property
    def revision(self) -> str:
        """The source's, and a digest of what is hidden in the first rows."""
        return _revision(self, self.source.revision)

    def read(self) -> Rows:
        """The source's rows, whose tokens are hidden as they are asked for."""
        rows = self.source.load()

        def gather(places_B: NDArray[np.int64]) -> Tensor:
            tokens_BL = tokens.tokens(rows.inputs(places_B))
            draws_BL = rng.uniform(self.seed, rows.ids[places_B][:, None], HIDDEN, np.arange(tokens_BL.shape[1]))
            return _hidden(tokens_BL, torch.from_numpy(draws_BL), self.rate, self.classes)

        def labels(places_B: NDArray[np.int64]) -> Tensor:
            return tokens.tokens(rows.inputs(places_B))

        return Rows(rows.ids, rows.labels, gather, gather_labels=labels)

    def libraries(self) -> dict[str, str]:
        """The source's."""
        return self.source.libraries()

    def stored(self, folder: str) -> Masked:
        """With its source stored."""
        return replace(self, source=self.source.stored(folder))


@lru_cache(maxsize=64)
def _revision(source: Masked, revision: str) -> str:
    rows = source.read()
    return fingerprint([revision, rows.inputs(np.arange(min(16, len(rows))))])


@dataclass(frozen=True)
class Remasked(Asking):
    """Hides other positions, as many of each row. The tokens are known from the labels, which are those of all positions."""

    mask: int
    """The token that stands for a hidden one."""
    rate: float = 0.3

    def __post_init__(self) -> None:
        _check_rate(self)

    def __call__(self, inputs_B2L: Tensor, labels_BL: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """[B, 2, L] and the labels as they are."""
        there_BL = tokens.tokens(inputs_B2L) != tokens.NOTHING
        tokens_BL = labels_BL.masked_fill(~there_BL, tokens.NOTHING)
        return _hidden(tokens_BL, draws.uniform(tokens_BL.shape[1]), self.rate, self.mask), labels_BL


def _hidden(tokens_BL: Tensor, draws_BL: Tensor, rate: float, mask: int) -> Tensor:
    """Inputs where the tokens with the least draws of each row are hidden and asked for. [B, 2, L]"""
    there_BL = tokens_BL != tokens.NOTHING
    order_BL = draws_BL.masked_fill(~there_BL, 2.0).argsort(dim=1, stable=True)
    hidden_BL = order_BL.argsort(dim=1) < _counts(there_BL.sum(1), rate)[:, None]
    return tokens.pack(tokens_BL.masked_fill(hidden_BL, mask), hidden_BL)


def _counts(lengths_B: Tensor, rate: float) -> Tensor:
    """How many tokens are hidden of rows of these lengths."""
    return (lengths_B.double() * rate).round().clamp(min=1)


def _check_rate(spec: Masked | Remasked) -> None:
    if not 0 < spec.rate < 1:
        raise ValueError(f"{type(spec).__name__} has rate={spec.rate}: above 0 and below 1 would be right")
