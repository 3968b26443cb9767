"""The signal cache: a teacher sees an input once, ever.

    <root>/v1/<kk>/<key>/entry.json        what the entry is; kk = first two digits of the key
    <root>/v1/<kk>/<key>/views/<replica:05d>/<shard:08d>.arrow

    key = fingerprint of (what the caller says, sha256 of the ordered row ids, shape of a row, codec)

Not in the key: the number of replicas, rows per shard, words for people. An epoch, a stage, a trial or a run that asks for the
same thing finds the same entry; one that asks for another thing cannot.

N rows of the split.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from raykd.cache.checksum import ids_digest
from raykd.cache.codec import CODECS, DENSE_F16, Codec
from raykd.cache.entry import Entry
from raykd.cache.record import ForeignEntry, Record, adopt, read_record
from raykd.identity import canonical

VERSION = "v1"
NOTHING: Mapping[str, str] = MappingProxyType({})

log = logging.getLogger(__name__)


class SignalCache:
    """A folder of entries, shared by everyone who can reach it. Nothing is written before the first entry."""

    def __init__(self, root: str | Path) -> None:
        """`root` is a local folder that may not exist yet."""
        if "://" in str(root):
            raise ValueError(f"{root=}: the cache lies in a folder of this machine or of a mounted file system")
        self.root = Path(root)

    def entry(
        self,
        key: Mapping[str, object],
        *,
        ids_N: ArrayLike,
        shape: tuple[int, ...],
        about: Mapping[str, str] = NOTHING,
        codec: Codec = DENSE_F16,
        rows_per_shard: int = 2048,
    ) -> Entry:
        """The entry for what `key` says a teacher is asked, on the rows `ids_N`; created if there is none.

        `key` is canonical JSON: teacher, view and signal, whatever can change a value; `shape` is that of one row's values.
        `about` and `rows_per_shard` are not in the key: an entry that exists keeps its own.

        Raises `ForeignEntry` if the entry's folder holds something else, `ValueError` for arguments that no entry can have.
        """
        ids = _ids(ids_N)
        content = {"content": key, "ids": ids_digest(ids), "shape": list(shape), "codec": _named(codec)}
        record = Record(canonical(content, "key"), len(ids), rows_per_shard, dict(about))
        folder = self._folder(record.name)
        return Entry(folder, adopt(folder, record), codec, ids)

    def entries(self) -> list[Entry]:
        """Every entry on the root, opened from its `entry.json` alone: to list and to verify.

        A folder without a record of its own is named in a warning and left out.
        """
        return list(self._entries())

    def _entries(self) -> Iterator[Entry]:
        for path in sorted((self.root / VERSION).glob("*/*/entry.json")):
            try:
                record = read_record(path.parent)
            except (ForeignEntry, FileNotFoundError) as error:  # one bad folder must not hide all the others
                log.warning("%s", error)
                continue
            yield Entry(path.parent, record, _codec(record.key), None)

    def _folder(self, name: str) -> Path:
        return self.root / VERSION / name[:2] / name


def _named(codec: Codec) -> dict[str, object]:
    return {"name": codec.name, "version": codec.version}


def _codec(key: Mapping[str, Any]) -> Codec | None:
    return next((codec for codec in CODECS if _named(codec) == key.get("codec")), None)


def _ids(ids_N: ArrayLike) -> NDArray[np.int64]:
    ids = np.array(ids_N)  # a copy: the caller's may change
    if ids.ndim != 1 or not len(ids) or not np.can_cast(ids.dtype, np.int64):
        raise ValueError(
            f"ids_N is {ids.dtype} {list(ids.shape)}: an entry has at least one row, its ids are int64 [N]"
        )
    ids = ids.astype(np.int64)
    ids.flags.writeable = False
    return ids
