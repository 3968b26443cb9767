"""A teacher for the tests: what it sees and says is a function of a row's id and replica, so any process can check it.

R rows of a shard, N rows of the split, W width.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raykd.cache import Entry, Shard, SignalCache, Slot, input_checksums

KEY = {"teacher": "resnet-110", "view": {"ops": ["flip"], "seed": 3}, "signal": "logits"}


def ids_of(rows: int) -> NDArray[np.int64]:
    return np.arange(rows, dtype=np.int64) * 7 + 1000


def seen(ids_R: NDArray[np.int64], replica: int) -> Tensor:
    base_R3 = np.stack([ids_R, ids_R * 3 + replica, ids_R % 11], axis=1)
    return torch.from_numpy(base_R3.astype(np.float32))


def said(ids_R: NDArray[np.int64], replica: int, width: int) -> NDArray[np.float32]:
    phase = ids_R[:, None] * 0.37 + replica * 1.7 + np.arange(width)[None, :] * 0.11
    return (8 * np.sin(phase)).astype(np.float32)


def rounded(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return values.astype(np.float16).astype(np.float32)


def entry_of(root, *, rows: int = 10, width: int = 4, rows_per_shard: int = 4, key=KEY) -> Entry:
    return SignalCache(root).entry(key, ids_N=ids_of(rows), shape=(width,), rows_per_shard=rows_per_shard)


def shard_of(entry: Entry, slot: Slot, *, shift: float = 0.0) -> Shard:
    positions = entry.positions(slot)
    ids_R = ids_of(entry.rows)[positions.start : positions.stop]
    values_R = said(ids_R, slot.replica, entry.shape[0]) + np.float32(shift)
    return Shard(slot, ids_R, input_checksums(seen(ids_R, slot.replica)), values_R)


def fill(entry: Entry, replicas: int) -> Entry:
    for slot in entry.missing(replicas):
        assert entry.commit(shard_of(entry, slot))
    return entry


def everything(entry: Entry, replicas: int) -> NDArray[np.float32]:
    """What the whole entry must hold: [replicas * N, W]."""
    return np.concatenate([rounded(said(ids_of(entry.rows), replica, entry.shape[0])) for replica in range(replicas)])


def read(entry: Entry, replicas: int) -> NDArray[np.float32]:
    """What a reader makes of the whole entry: [replicas * N, W]."""
    replicas_A, positions_A = np.divmod(np.arange(replicas * entry.rows), entry.rows)
    return entry.open(replicas).gather(replicas_A, positions_A).numpy()
