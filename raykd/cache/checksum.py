"""Checksums of what the teacher saw, so that a student that sees something else is an error and not a worse student.

    checksum[b] = xxh3_64(bytes of inputs[b], seed = xxh3_64("<dtype> <shape of a row>"))

B batch.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
import torch
import xxhash
from numpy.typing import ArrayLike, NDArray
from torch import Tensor


def input_checksums(inputs_B: Tensor) -> NDArray[np.uint64]:
    """One 64-bit checksum for each row of `inputs_B` [B, ...], whatever its dtype, device or memory layout. [B]

    Rows of other bytes, dtype or shape get other checksums; `-0.0` and `0.0` are other bytes. Costs a copy to the CPU
    if the inputs lie elsewhere, and otherwise about 0.3 us a row plus its bytes at some 20 GB/s.

    Raises `ValueError` for a tensor without a batch dimension.
    """
    if inputs_B.ndim == 0:
        raise ValueError("inputs_B is a scalar: checksums are taken of the rows of a tensor [B, ...]")
    count, shape = inputs_B.shape[0], tuple(inputs_B.shape[1:])
    seed = xxhash.xxh3_64_intdigest(f"{str(inputs_B.dtype).removeprefix('torch.')} {shape}".encode())
    rows = inputs_B.detach().cpu().contiguous().reshape(count, math.prod(shape))
    bytes_B = rows.view(torch.uint8).numpy()  # as bytes, because numpy has no bfloat16
    return np.fromiter((xxhash.xxh3_64_intdigest(row, seed) for row in bytes_B), np.uint64, count)


def ids_digest(ids_N: ArrayLike) -> str:
    """Sha256 of row ids in their order, as little-endian int64: the part of an entry's key that says which rows."""
    return hashlib.sha256(np.ascontiguousarray(ids_N, "<i8").data).hexdigest()
