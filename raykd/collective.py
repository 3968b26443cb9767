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
