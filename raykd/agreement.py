"""Do stored values agree with values of the same rows that a teacher computed afresh?

Two computations of a row differ by float noise, which batch, machine and device change, and both were rounded by the codec. So
they agree if they differ by at most `FACTOR` times the error that the codec makes on the fresh values, and `noise` times their
size:

    dense      ||codec(stored) - codec(fresh)||            <=  FACTOR ||codec(fresh) - fresh|| + noise ||fresh||
    topk       max |log p(stored) - log p(fresh)|          <=  the same, with maxima over the stored classes as norms
    sampled    draws that fresh logits would not give      <=  one in `FLIPPED`: those between two classes of much the same mass

Of rows of several positions the worst one counts, and another number of positions is no agreement.

For dense logits it bounds the KL between both as well, by half the square of the difference (Hoeffding, see codecs/codec.py).

Shapes: B rows, W numbers of a row, C classes, K stored classes or positions, N draws, M positions of all rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raykd.cache.codecs import Codec, Positions
from raykd.sparse import Sparse

FACTOR = 4.0
"""Both were rounded, and the fresh row's own rounding may happen to be lucky."""
FLIPPED = 4
TINY = 1e-6  # for rows of zeros

Columns = Mapping[str, NDArray[Any]]


def difference(
    codec: Codec, stored: Columns, fresh_B: NDArray[np.float32], ids_B: NDArray[np.int64], replica: int, noise: float
) -> NDArray[np.float64]:
    """How far each row's stored columns are from its fresh values, in units of what agreement allows. [B]

    Raises `ValueError`, naming the row, for fresh values that the codec would not store.
    """
    if isinstance(codec, Positions):
        return _worst(codec, stored, fresh_B, ids_B, replica, noise)
    again = codec.encode(fresh_B, ids_B, replica)
    if codec.kind == "sampled":
        return _flipped(stored["ids"], again["ids"])
    shape = fresh_B.shape[1:]
    before, after = (codec.decode(_tensors(columns), shape) for columns in (stored, again))
    if isinstance(before, Sparse):
        assert isinstance(after, Sparse), "a codec decodes to one kind"
        error_B, distance_B = _log_error(after, fresh_B), _log_error(before, fresh_B)
        size_B = np.abs(fresh_B).max(1)
    else:
        assert isinstance(after, Tensor), "a codec decodes to one kind"
        fresh_BW, before_BW, after_BW = (
            np.asarray(values, np.float64).reshape(len(fresh_B), -1) for values in (fresh_B, before, after)
        )
        error_B, distance_B = _norm(after_BW - fresh_BW), _norm(before_BW - after_BW)
        size_B = _norm(fresh_BW)
    far_B: NDArray[np.float64] = distance_B / (FACTOR * error_B + noise * size_B + TINY)
    return far_B


def _worst(
    codec: Positions,
    stored: Columns,
    fresh_B: NDArray[np.float32],
    ids_B: NDArray[np.int64],
    replica: int,
    noise: float,
) -> NDArray[np.float64]:
    """That of each row's worst position. [B]"""
    there_BK, stored_M = codec.rows(stored, fresh_B.shape[1])
    again_BK, _ = codec.rows(codec.encode(fresh_B, ids_B, replica), fresh_B.shape[1])
    as_many_B = (there_BK == again_BK).all(1)
    both_BK = there_BK & as_many_B[:, None]
    kept_M = both_BK[there_BK]
    columns_M = {name: column[kept_M] for name, column in stored_M.items()}
    far_BK = np.zeros(there_BK.shape)
    if kept_M.any():
        ids_M = np.repeat(ids_B, both_BK.sum(1))
        far_BK[both_BK] = difference(codec.of, columns_M, fresh_B[both_BK], ids_M, replica, noise)
    worst_B: NDArray[np.float64] = np.where(as_many_B, far_BK.max(1), np.inf)
    return worst_B


def _log_error(read: Sparse, fresh_BC: NDArray[np.float32]) -> NDArray[np.float64]:
    """The largest error of the log-probabilities of a row's stored classes. [B]"""
    log_p_BC = torch.from_numpy(fresh_BC).double().log_softmax(1)
    read_BK = read.log_probabilities(torch.ones(len(read)))[:, :-1].double()
    worst_B: NDArray[np.float64] = (read_BK - log_p_BC.gather(1, read.ids_BK)).abs().amax(1).numpy()
    return worst_B


def _flipped(stored_BN: NDArray[Any], again_BN: NDArray[Any]) -> NDArray[np.float64]:
    """Draws that are others now, in units of those that may be. [B]"""
    draws = stored_BN.shape[1]
    same = [(Counter(a.tolist()) & Counter(b.tolist())).total() for a, b in zip(stored_BN, again_BN, strict=True)]
    far_B: NDArray[np.float64] = (draws - np.array(same)) / max(1, draws / FLIPPED)
    return far_B


def _norm(values_BW: NDArray[np.float64]) -> NDArray[np.float64]:
    norm_B: NDArray[np.float64] = np.sqrt(np.square(values_BW).sum(1))
    return norm_B


def _tensors(columns: Columns) -> dict[str, Tensor]:
    # copied, because those of a file cannot be written to, and torch warns of that
    return {name: torch.from_numpy(column.copy()) for name, column in columns.items()}
