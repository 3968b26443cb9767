"""What learned pieces show people of an epoch: a gate its weights by class, a learned temperature its value.

    forward, in training       Means.add: what a row was given, summed on the device; nothing waits for it
    the end of an epoch        Criterion.shown asks every piece, on all workers -> `shown` in the epoch's line

    {"gate on input": {"weight": {"a": [of each class], "b": [..]}, "mean": {"a": .7, "b": .3}, "entropy": .6}}

Numbers have four decimals: of a thousand classes an epoch's line would be long.

Shapes: B batch, G groups, X numbers of a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

Total = Callable[[Tensor], Tensor]
"""The sum over all workers; every one must call it, in the same order."""


@runtime_checkable
class Shows(Protocol):
    """A built piece that has something to show."""

    title: str
    """What it is called."""

    def shown(self, total: Total) -> Mapping[str, Any]:
        """What it did in the epoch that is over, as JSON; a list has an element for each class. What it summed is forgotten."""
        ...


_noting: ContextVar[bool] = ContextVar("noting", default=True)


@contextmanager
def unnoted() -> Iterator[None]:
    """Means note nothing meanwhile: for passes that are no steps of the training."""
    before = _noting.set(False)
    try:
        yield
    finally:
        _noting.reset(before)


class Means:
    """Means over the rows of an epoch, by group: what was added since the last look, of all workers.

    It is no part of a module's state: a training that is resumed begins with an epoch.
    """

    def __init__(self, groups: int = 1):
        self._groups = groups
        self._sums_GX: Tensor | None = None

    @torch.no_grad()
    def add(self, values_BX: Tensor, groups_B: Tensor | None = None) -> None:
        """Note what rows were given; with groups, by theirs."""
        if not _noting.get():
            return
        told_BX = torch.cat([values_BX.detach().float(), torch.ones_like(values_BX[:, :1], dtype=torch.float32)], 1)
        if self._sums_GX is None:
            self._sums_GX = told_BX.new_zeros(self._groups, told_BX.shape[1])
        if groups_B is None:
            self._sums_GX[0] += told_BX.sum(0)
        else:
            self._sums_GX.index_add_(0, groups_B, told_BX)

    def taken(self, total: Total) -> tuple[list[list[float | None]], list[float | None]]:
        """[G][X] of each group, None for one without rows; and [X] of all rows. Then it begins anew."""
        if self._sums_GX is None:  # no worker's either: they take the same steps
            return [], []
        sums_GX = total(self._sums_GX).cpu()
        self._sums_GX = None
        all_GX = torch.cat([sums_GX, sums_GX.sum(0, keepdim=True)])
        means_GX = all_GX[:, :-1] / all_GX[:, -1:]
        *by_group, of_all = [[rounded(x) for x in means_X] for means_X in means_GX.tolist()]
        return by_group, of_all


def rounded(x: float) -> float | None:
    """With four decimals; JSON knows no NaN."""
    return None if x != x else round(x, 4)
