"""One of the processes that train a stage together; alone it is rank 0 of 1."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from raykd.device import device


@dataclass(frozen=True)
class Process:
    """Where this process stands among `world` of them, and what it computes on."""

    rank: int
    world: int
    device: torch.device

    @classmethod
    def current(cls, local_rank: int = 0) -> Process:
        """This process, by the process group that torch has set up, if any."""
        if distributed.is_available() and distributed.is_initialized():
            return cls(distributed.get_rank(), distributed.get_world_size(), device(local_rank))
        return cls(0, 1, device())

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes."""
        if self.world > 1:
            distributed.all_reduce(tensor)
        return tensor

    def wrap(self, module: nn.Module, *, unused: bool) -> nn.Module:
        """`module` with its gradients averaged over the processes. `unused`: some parameters may get no gradient."""
        if self.world == 1:
            return module
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=devices, find_unused_parameters=unused)
