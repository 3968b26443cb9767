"""What the processes of one training say together; alone, a process speaks for itself. No gradient flows through.

Every process must call these, in the same order.
"""

from __future__ import annotations

import torch
from torch import Tensor, distributed


def together() -> bool:
    """Whether there is more than one process."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


@torch.no_grad()
def mean_over_rows(values_TB: Tensor) -> Tensor:
    """The mean over the rows of all processes, which may have different numbers of them. [T, B] -> [T, 1]"""
    sums = torch.cat([values_TB.sum(1), values_TB.new_tensor([values_TB.shape[1]])])
    if together():
        distributed.all_reduce(sums)
    return (sums[:-1] / sums[-1])[:, None]


@torch.no_grad()
def rows_of_all(*columns: Tensor) -> tuple[Tensor, ...]:
    """Columns of the same rows, with the rows of all processes: one process after the other. [B, ...] -> [all B, ...]

    Processes may have different numbers of rows; to learn how many, an accelerator is waited for.
    """
    if not together():
        return columns
    counts_W = torch.zeros(distributed.get_world_size(), dtype=torch.int64, device=columns[0].device)
    counts_W[distributed.get_rank()] = len(columns[0])
    distributed.all_reduce(counts_W)
    counts = counts_W.tolist()
    return tuple(_gathered(column, counts) for column in columns)


def _gathered(own: Tensor, counts: list[int]) -> Tensor:
    filled = own.new_zeros(max(counts), *own.shape[1:])
    filled[: len(own)] = own
    found = [torch.empty_like(filled) for _ in counts]
    distributed.all_gather(found, filled)
    return torch.cat([rows[:count] for rows, count in zip(found, counts, strict=True)])
