"""How large a network is: parameters, and the floating point operations of one sample, both read from its blueprint."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from raykd.models.architecture import Architecture


@dataclass(frozen=True)
class Size:
    """What a network costs."""

    parameters: int
    """How many numbers its parameters hold."""
    flops: int
    """Of one forward pass of one sample: 2 per multiply-add of convolutions, matrix products and attention only."""


@lru_cache(maxsize=1024)
def size(architecture: Architecture) -> Size:
    """The size of an architecture; nothing is computed, and asking again is free."""
    from torch.utils.flop_counter import FlopCounterMode  # a quarter of a second that only planning pays

    # the blueprint before the counter: making it runs it
    parameters = sum(weight.numel() for weight in architecture.blueprint().parameters())
    with FlopCounterMode(display=False) as counter:
        architecture.rehearse(1)
    return Size(parameters, counter.get_total_flops())
