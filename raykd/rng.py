"""Counter-based random numbers: each is a pure function of its coordinates, never of what was drawn before.

    bits(seed, id, replica, ...) = splitmix64 folded over the coordinates
    normal(seed, ...)            = sqrt(-2 log u) cos(2 pi v), of two uniform numbers

So the crop of row 17 in replica 2 is the same in any batch, order, process and machine, and nothing about it is stored.
Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014 (the mixing function of `SplitMix64`).
Source: Box, Muller, "A note on the generation of random normal deviates", 1958.

Shapes: coordinates broadcast against each other; the result has the broadcast shape.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def bits(*coordinates: ArrayLike) -> NDArray[np.uint64]:
    """64 random bits for each point of the broadcast integer coordinates."""
    state = np.zeros((), np.uint64)
    with np.errstate(over="ignore"):  # arithmetic modulo 2**64 is the point
        for coordinate in coordinates:
            state = _mix(_mix(state) ^ _mix(np.asarray(coordinate, np.int64).astype(np.uint64)))
    return state


def bits_there(*coordinates: Tensor | int) -> Tensor:
    """`bits`, computed where the tensors lie: the same 64 bits as int64, so half of them look negative."""
    state = torch.zeros((), dtype=torch.int64)
    for coordinate in coordinates:
        state = _mix_there(_mix_there(state) ^ _mix_there(torch.as_tensor(coordinate, dtype=torch.int64)))
    return state


def uniform(*coordinates: ArrayLike) -> NDArray[np.float64]:
    """Floats in [0, 1) with 53 random bits, one for each point of the broadcast integer coordinates."""
    values: NDArray[np.float64] = (bits(*coordinates) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return values


def normal(*coordinates: ArrayLike) -> NDArray[np.float64]:
    """Standard normal numbers, one for each point of the broadcast integer coordinates; at most 8.6 in size.

    The logarithm and the cosine are series of our own, right to 1e-14: sums, products and quotients are the same bits on any
    machine, and a library's functions are not.
    """
    places = [np.asarray(coordinate, np.int64) for coordinate in coordinates]
    u, v = uniform(*places, 0), uniform(*places, 1)
    deviates: NDArray[np.float64] = np.sqrt(-2 * _log(1 - u)) * _cos(2 * math.pi * (v - 0.5))
    return deviates


def permutation(size: int, *coordinates: int) -> NDArray[np.int64]:
    """An order of `range(size)` that is a function of the coordinates alone. [size]"""
    return np.argsort(bits(*coordinates, np.arange(size)), kind="stable")


def _log(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """log(m 2^e) = e log 2 + 2 artanh((m - 1) / (m + 1)), m in [1/2, 1)."""
    m, e = np.frexp(x)
    z = (m - 1) / (m + 1)
    square, series = z * z, np.zeros_like(z)
    for n in range(14, -1, -1):  # z is at most 1/3 in size: what is left out is below 1e-16
        series = series * square + 1 / (2 * n + 1)
    found: NDArray[np.float64] = e * math.log(2) + 2 * z * series
    return found


def _cos(angle: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of angles in [-pi, pi], by the Taylor series."""
    square, series = angle * angle, np.zeros_like(angle)
    for n in range(15, -1, -1):
        series = series * square + (-1) ** n / math.factorial(2 * n)
    return series


def _mix(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    z = z + GOLDEN
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _mix_there(z: Tensor) -> Tensor:
    """`_mix`: products and sums of int64 wrap as those of uint64 do, and shifts must not carry the sign along."""
    z = z + _signed(0x9E3779B97F4A7C15)
    z = (z ^ _shifted(z, 30)) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ _shifted(z, 27)) * _signed(0x94D049BB133111EB)
    return z ^ _shifted(z, 31)


def _shifted(z: Tensor, places: int) -> Tensor:
    return (z >> places) & ((1 << (64 - places)) - 1)


def _signed(bits64: int) -> int:
    return bits64 - (1 << 64)  # of numbers of 2^63 and more
