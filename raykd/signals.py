"""What can be observed in a network: a signal is computed from named activations, where the network runs.

    network(inputs) -> taps: {name: activation} -> signal.observe(taps) -> [B, ...]

    Signal(tap)             the activation as it is                             C H W numbers a row, for a map
    Resized(tap, size)      a map, average-pooled                               C size^2
    Attention(tap, size)    where a map is active: mean_c A_c^2, normalised     H W, or size^2
    Projected(of, dim)      n(x) P, x another signal's row, P random            dim

The cache stores signals and objectives read them; neither sees a network. The raw input is a tap as well ("input"), so a
gate may look at it.

Shapes: B batch; whatever follows is the signal's own shape: C channels, H height and W width of a map; D width of a vector.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, Protocol, get_args, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from raykd import rng

Matrix = Literal["gaussian", "identity"]


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


@dataclass(frozen=True)
class Resized:
    """A map, average-pooled to size x size: what a network of another resolution can be compared with, in a smaller cache.

    Raises `ValueError` for a size below 1 and, when its shape is asked for, for what is no map or smaller.
    """

    tap: str
    size: int

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"Resized({self.tap!r}, size={self.size}): a size of 1 or more would be right")

    def taps(self) -> tuple[str, ...]:
        """The one tap."""
        return (self.tap,)

    def observe(self, taps: Mapping[str, Tensor]) -> Tensor:
        """The smaller map in float32. [B, C, size, size]"""
        return F.adaptive_avg_pool2d(taps[self.tap].float(), self.size)

    def shape(self, tap_shape: Callable[[str], tuple[int, ...]]) -> tuple[int, ...]:
        """(C, size, size)"""
        channels, height, width = _map_shape(self, tap_shape(self.tap))
        if self.size > min(height, width):
            raise ValueError(f"{self}: the map is {height}x{width}, and pooling makes it no larger")
        return channels, self.size, self.size

    def __str__(self) -> str:
        return f"{self.tap} at {self.size}x{self.size}"


@dataclass(frozen=True)
class Attention:
    """Where a map is active: the mean over its channels of the squared activation, divided by its length over all places.

    A map that is 0 everywhere has the attention 0. Raises `ValueError` for a size below 0 and, when its shape is asked for, for
    what is no map.
    """

    tap: str
    size: int = 0
    """The activation is first average-pooled to size x size; 0: it is taken as it is."""

    def __post_init__(self) -> None:
        if self.size < 0:
            raise ValueError(f"Attention({self.tap!r}, size={self.size}): 0 or more would be right")

    def taps(self) -> tuple[str, ...]:
        """The one tap."""
        return (self.tap,)

    def observe(self, taps: Mapping[str, Tensor]) -> Tensor:
        """Non-negative, of length 1 or 0, in float32. [B, H W]"""
        values_BCHW = self._source.observe(taps)
        # it does not depend on the map's scale; divided by a constant, fourth powers neither vanish nor overflow
        largest_B111 = values_BCHW.detach().abs().amax((1, 2, 3), keepdim=True)
        values_BCHW = values_BCHW / largest_B111.clamp(min=torch.finfo(torch.float32).tiny)
        return F.normalize(values_BCHW.square().mean(1).flatten(1), dim=1)

    def shape(self, tap_shape: Callable[[str], tuple[int, ...]]) -> tuple[int, ...]:
        """(H W,)"""
        _map_shape(self, tap_shape(self.tap))
        _, height, width = self._source.shape(tap_shape)
        return (height * width,)

    @property
    def _source(self) -> Signal | Resized:
        return Resized(self.tap, self.size) if self.size else Signal(self.tap)

    def __str__(self) -> str:
        return f"attention of {self._source}"


@dataclass(frozen=True)
class Projected:
    """Another signal's row, flattened, normalised and projected to `dim` numbers, where the network runs.

    "gaussian": P has independent entries of N(0, 1 / dim), so lengths stay about as they are; it is a function of the seed and
    the two widths, the same bits on any machine. "identity": the first `dim` numbers, unprojected. See `normalised`.

    Raises `ValueError` for a width below 1, another matrix and, when its shape is asked for, for fewer numbers than an identity
    keeps.
    """

    of: Observable
    dim: int
    seed: int = 0
    matrix: Matrix = "gaussian"

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise ValueError(f"Projected({self.of}, dim={self.dim}): a width of 1 or more would be right")
        if self.matrix not in get_args(Matrix):
            raise ValueError(
                f"matrix={self.matrix!r} of Projected: one of {', '.join(get_args(Matrix))} would be right"
            )

    def taps(self) -> tuple[str, ...]:
        """Those of what is projected."""
        return self.of.taps()

    def observe(self, taps: Mapping[str, Tensor]) -> Tensor:
        """The projection in float32. [B, dim]"""
        rows_BD = normalised(self.of.observe(taps))
        if self.matrix == "identity":
            return rows_BD[:, : self.dim]
        with torch.autocast(rows_BD.device.type, enabled=False):
            return rows_BD @ _gaussian(self.seed, rows_BD.shape[1], self.dim).to(rows_BD.device)

    def shape(self, tap_shape: Callable[[str], tuple[int, ...]]) -> tuple[int, ...]:
        """(dim,)"""
        width = math.prod(self.of.shape(tap_shape))
        if self.matrix == "identity" and self.dim > width:
            raise ValueError(f"{self}: it has {width} numbers, and an identity keeps at most those")
        return (self.dim,)

    def __str__(self) -> str:
        if self.matrix == "identity":
            return f"the first {self.dim} of {self.of}"
        return f"{self.of} projected to {self.dim}, seed {self.seed}"


def normalised(values: Tensor) -> Tensor:
    """Each row as one vector less its mean and divided by its length: layer norm without parameters, at length 1.

    Of a variance near 1e-5 or less a row gets shorter the flatter it is: one that is flat is 0, and its gradient is finite.
    It looks at nothing but the row, so every worker finds the same. [B, D] float32
    """
    rows_BD = values.float().flatten(1)
    width = rows_BD.shape[1]
    return F.layer_norm(rows_BD, (width,), eps=1e-5) / math.sqrt(width)


@lru_cache(maxsize=16)
def _gaussian(seed: int, width: int, dim: int) -> Tensor:
    """[D, dim] float32"""
    with torch.inference_mode(False):  # whoever asks first may not want gradients, others do
        entries_Dd = rng.normal(seed, width, dim, np.arange(width)[:, None], np.arange(dim)) / math.sqrt(dim)
        return torch.from_numpy(entries_Dd).float()


def _map_shape(signal: Observable, shape: tuple[int, ...]) -> tuple[int, int, int]:
    if len(shape) != 3:
        raise ValueError(f"{signal}: it is made of a map (C, H, W), and this tap has the shape {shape}")
    return shape[0], shape[1], shape[2]


LOGITS = Signal("logits")
INPUT = Signal("input")
