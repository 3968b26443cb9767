"""What can be observed in a network: a signal is computed from named activations, where the network runs.

    network(inputs) -> taps: {name: activation} -> signal.observe(taps) -> [B, ...]

The cache stores signals and objectives read them; neither sees a network. The raw input is a tap as well ("input"), so a
gate may look at it.

Shapes: B batch; whatever follows is the signal's own shape.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Observable(Protocol):
    """A spec of something to observe: hashable, with an identity, equal when its content is."""

    def taps(self) -> tuple[str, ...]:
        """The named activations it is computed from."""
        ...

    def observe(self, taps: Mapping[str, Tensor]) -> Tensor:
        """[B, ...] from the activations named by `taps()`. Float32, whatever the network computed in."""
        ...

    def shape(self, tap_shape: Callable[[str], tuple[int, ...]]) -> tuple[int, ...]:
        """Shape of one row, given the shape of one row of each tap."""
        ...


@dataclass(frozen=True)
class Signal:
    """An activation as it is. `Signal()` is the logits; `Signal("input")` the raw input in [0, 1]."""

    tap: str = "logits"

    def taps(self) -> tuple[str, ...]:
        """The one tap."""
        return (self.tap,)

    def observe(self, taps: Mapping[str, Tensor]) -> Tensor:
        """The activation in float32. [B, ...]"""
        return taps[self.tap].float()

    def shape(self, tap_shape: Callable[[str], tuple[int, ...]]) -> tuple[int, ...]:
        """The tap's own shape."""
        return tap_shape(self.tap)

    def __str__(self) -> str:
        return self.tap


LOGITS = Signal("logits")
INPUT = Signal("input")
