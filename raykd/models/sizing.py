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
    """Of one forward pass of one sample, as far as it is asked for: 2 per multiply-add of convolutions, matrix products and
    attention only."""


@lru_cache(maxsize=1024)
def size(architecture: Architecture, taps: tuple[str, ...] = ("logits",)) -> Size:
    """The size of an architecture, and what a pass costs that goes no further than these taps.

    Nothing is computed, and asking again is free.
    """
    from torch.utils.flop_counter import FlopCounterMode  # a quarter of a second that only planning pays

    # once before the counter: making the blueprint, and finding out where to stop, runs it
    architecture.rehearse(1, taps)
    parameters = sum(weight.numel() for weight in architecture.blueprint().parameters())
    with FlopCounterMode(display=False) as counter:
        architecture.rehearse(1, taps)
    return Size(parameters, counter.get_total_flops())
