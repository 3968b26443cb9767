"""The signal cache: a teacher sees an input once, ever.

    <root>/v1/<kk>/<key>/entry.json        what the entry is; kk = first two digits of the key
    <root>/v1/<kk>/<key>/views/<replica:05d>/<shard:08d>.arrow     what the teacher said
    <root>/v1/<kk>/<key>/leases/<replica:05d>-<shard:08d>          who computes it now
    <root>/v1/<kk>/<key>/used                                      touched by every reader that opens the entry

    key = fingerprint of (what the caller says, sha256 of the ordered row ids, shape of a row, codec)

Not in the key: the number of replicas, rows per shard, words for people. An epoch, a stage, a trial or a run that asks for the
same thing finds the same entry; one that asks for another thing cannot.

N rows of the split.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike, NDArray

from raykd.cache.checksum import ids_digest
from raykd.cache.codecs import DENSE_F16, Codec, codec_of
from raykd.cache.entry import Entry
from raykd.cache.record import ForeignEntry, Record, adopt, read_record
from raykd.cache.shards import Shards
from raykd.identity import canonical
from raykd.places import Place, place
from raykd.printable import printable

VERSION = "v1"
NAME = re.compile("[0-9a-f]{40}")
NOTHING: Mapping[str, str] = MappingProxyType({})

log = logging.getLogger(__name__)


class SignalCache:
    """A place of entries, shared by everyone who can reach it. Nothing is written before the first entry."""

    def __init__(self, root: str | Path) -> None:
        """`root` is a folder that may not exist yet, or the URL of a bucket.

        Raises `ValueError` for a URL that fsspec does not open, or where nothing can be written once (see `raykd.places`).
        """
        self.place = place(root)

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
        content = {"content": key, "ids": ids_digest(ids), "shape": list(shape), "codec": canonical(codec)}
        record = Record(canonical(content, "key"), len(ids), rows_per_shard, dict(about))
        folder = self.folder(record.name)
        return Entry(Shards(folder, adopt(folder, record), codec, ids))

    def entries(self) -> list[Entry]:
        """Every entry of the cache, opened from its `entry.json` alone: to list and to verify.

        One whose record is not its own is named in a warning and left out.
        """
        return list(self._entries())

    def _entries(self) -> Iterator[Entry]:
        found = {name for pair in self.place.names(VERSION) for name in self.place.names(f"{VERSION}/{pair}")}
        for name in sorted(filter(NAME.fullmatch, found)):
            folder = self.folder(name)
            try:
                record = read_record(folder)
                codec = _codec_of(folder, record)
            except (ForeignEntry, FileNotFoundError) as error:  # one bad folder must not hide all the others
                log.warning("%s", printable(str(error)))
                continue
            yield Entry(Shards(folder, record, codec, None))

    def folder(self, name: str) -> Place:
        """Where the entry of this name lies, existing or not."""
        return self.place.inner(f"{VERSION}/{name[:2]}/{name}")


def _codec_of(folder: Place, record: Record) -> Codec | None:
    """The codec of a listed entry, as `codec_of`. Raises `ForeignEntry` for rows of a shape that it never stores."""
    codec = codec_of(record.key.get("codec"))
    try:
        if codec is not None:
            codec.check(record.shape)
            codec.bytes_per_row(record.shape)
    except Exception as error:  # a record of a shape that no codec of ours was asked for
        raise ForeignEntry(f"{folder} has rows of shape {record.shape} in {codec}: move the folder away") from error
    return codec


def _ids(ids_N: ArrayLike) -> NDArray[np.int64]:
    ids = np.array(ids_N)  # a copy: the caller's may change
    if ids.ndim != 1 or not len(ids) or not np.can_cast(ids.dtype, np.int64):
        raise ValueError(
            f"ids_N is {ids.dtype} {list(ids.shape)}: an entry has at least one row, its ids are int64 [N]"
        )
    ids = ids.astype(np.int64)
    ids.flags.writeable = False
    return ids
