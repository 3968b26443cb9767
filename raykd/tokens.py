"""Rows of tokens: a network answers at their positions, and each position that is asked about is a row of its own.

    inputs [B, 2, L]     the tokens, `NOTHING` behind the end of a short row  |  1 where an answer is asked, 0 elsewhere
    labels [B, L]        the right answers there, any number elsewhere
    anything said        [M, ...]: one row for each position asked, sequence after sequence, as if they were M images

So objectives, signals and codecs know nothing of tokens. Between sequences and the rows that they stand for are only the
functions here.

Shapes: B sequences of a batch, L positions of the longest one, M positions asked in all, K the most in one sequence
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

NOTHING = -1
"""What is no token: the place behind the end of a sequence."""


def pack(tokens_BL: Tensor, asked_BL: Tensor) -> Tensor:
    """Inputs of tokens, and of where an answer is asked. int64 [B, 2, L]"""
    return torch.stack([tokens_BL.long(), asked_BL.long()], 1)


def tokens(inputs_B2L: Tensor) -> Tensor:
    """int64 [B, L]"""
    return inputs_B2L[:, 0]


def asked(inputs_B2L: Tensor) -> Tensor:
    """Where an answer is asked. bool [B, L]"""
    return inputs_B2L[:, 1] > 0


def counts(inputs_B2L: Tensor) -> Tensor:
    """How many positions of each sequence are asked. int64 [B]"""
    return asked(inputs_B2L).sum(1)


def at_once(rows: int, shape: tuple[int, ...]) -> int:
    """So many inputs of this shape as take about the room of `rows` images: of long sequences fewer, at least one."""
    return max(1, rows * 16 // shape[1]) if len(shape) == 2 else rows


def picked(values_BL: Tensor, asked_BL: Tensor) -> Tensor:
    """The rows of what stands at the positions asked. [M, ...]

    On the meta device, where nobody knows which these are: all positions.
    """
    if values_BL.is_meta:
        return values_BL.flatten(0, 1)
    return values_BL[asked_BL]


def padded(
    values_M: NDArray[np.float32], counts_B: NDArray[np.int64], most: int, ids_B: NDArray[np.int64]
) -> NDArray[np.float32]:
    """The rows of each sequence side by side, with NaN behind the last one. float32 [B, most, ...]

    Raises `ValueError`, naming the sequence by `ids_B`, for values that are NaN themselves.
    """
    broken_M = np.isnan(values_M).reshape(len(values_M), -1).any(1)
    if broken_M.any():
        row = np.repeat(ids_B, counts_B)[broken_M.argmax()]
        raise ValueError(f"row {row} holds nan at a position asked: a network that answers with numbers would be right")
    values_BK = np.full((len(counts_B), most, *values_M.shape[1:]), np.nan, np.float32)
    values_BK[np.arange(most) < counts_B[:, None]] = values_M
    return values_BK


def unpadded(values_BK: Tensor, counts_B: Tensor) -> Tensor:
    """What `padded` was made of. [M, ...]"""
    return values_BK[torch.arange(values_BK.shape[1], device=values_BK.device) < counts_B[:, None]]
