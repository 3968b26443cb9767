"""An entry of the cache: the values of one signal of one teacher, for every replica of every row of a split.

    committed  =  its final name exists        missing  =  it does not, or what lies there is not what was committed
    open       =  all of it, or `IncompleteEntry`

There is no manifest that could be wrong. A shard that fails its checks is renamed `<shard>.corrupt-<time>`, so that it
counts as missing and is computed anew; it is never served.

N rows of the split, R rows of a shard, A = replicas x rows.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raykd.cache.arrow import Header, from_bytes, to_bytes
from raykd.cache.codec import Codec
from raykd.cache.files import create, read, sweep
from raykd.cache.reader import Reader
from raykd.cache.record import Record
from raykd.cache.seal import CorruptShard
from raykd.cache.shard import Rows, Shard, Slot, check_shard

REPLICAS = 100_000  # the names have five digits for a replica
SHARD_NAME = re.compile(r"([0-9]{5})/([0-9]{8})\.arrow")

log = logging.getLogger(__name__)


class IncompleteEntry(LookupError):  # noqa: N818
    """Shards of the entry are missing; students wait, or someone computes them."""


@dataclass(frozen=True)
class Report:
    """What `verify` read, and what it found."""

    shards: int
    rows: int
    bytes: int
    corrupt: list[Path]
    """Where the bad shards lie now. They are not counted above."""


@dataclass(frozen=True)
class Holdings:
    """What lies on disk, by name alone: nothing is read."""

    shards: dict[int, int]
    """Committed shards of each replica that has any."""
    complete: list[int]
    """Replicas with all their shards."""
    bytes: int
    last_used: float
    """Seconds since 1970 at which a shard was last written, or read as far as the file system notes it (often once a day)."""


@dataclass(frozen=True, eq=False)
class Entry:
    """A write-once entry. `SignalCache.entry` makes them; those that `SignalCache.entries` lists know no row ids.

    Any number of processes and machines may commit to and read from one entry at once.
    """

    path: Path
    record: Record
    codec: Codec | None
    """None if this program does not know the codec of a listed entry."""
    ids_N: NDArray[np.int64] | None
    """None for a listed entry: it can be verified, neither committed to nor opened."""
    quarantined: list[Path] = field(default_factory=list)
    """Where the bad shards that this object met lie now."""

    @property
    def key(self) -> Mapping[str, Any]:
        """The full key: `content`, `ids`, `shape`, `codec`."""
        return self.record.key

    @property
    def key_digest(self) -> str:
        """The entry's name."""
        return self.record.name

    @property
    def about(self) -> Mapping[str, str]:
        """Words for people, as the first to open the entry put them."""
        return self.record.about

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one row's values."""
        return self.record.shape

    @property
    def rows(self) -> int:
        """Rows of one replica."""
        return self.record.rows

    @property
    def rows_per_shard(self) -> int:
        """As whoever opened the entry first decided."""
        return self.record.rows_per_shard

    def slots(self, replicas: int) -> list[Slot]:
        """Every slot of the first `replicas` replicas, replica by replica."""
        if not 1 <= replicas <= REPLICAS:
            raise ValueError(f"{replicas=}: an entry has from 1 to {REPLICAS} replicas")
        return [Slot(replica, index) for replica in range(replicas) for index in range(self._shards_per_replica)]

    def positions(self, slot: Slot) -> range:
        """The rows of the split that the slot covers."""
        if not (0 <= slot.replica < REPLICAS and 0 <= slot.index < self._shards_per_replica):
            raise ValueError(f"{slot} is not in {self.path}: a replica has {self._shards_per_replica} shards")
        start = slot.index * self.rows_per_shard
        return range(start, min(start + self.rows_per_shard, self.rows))

    def absent(self, replicas: int) -> list[Slot]:
        """The slots without a file, by name alone: what a plan needs to know. A corrupt shard still counts as there."""
        return [slot for slot in self.slots(replicas) if not (self.path / slot.name).exists()]

    def missing(self, replicas: int) -> list[Slot]:
        """The slots still to be computed. Reads and checks all the others, at disk speed; quarantines the bad ones.

        Also sweeps what killed writers left behind a day ago.
        """
        slots = self.slots(replicas)
        for replica in range(replicas):
            sweep((self.path / Slot(replica, 0).name).parent)
        return [slot for slot in slots if self._read(slot) is None]

    def commit(self, shard: Shard) -> bool:
        """Stores a shard, or returns False if the slot was filled before: then this one is dropped.

        Two correct computations may differ in the last bit, so the first to commit is right by definition.

        Raises `ValueError`, before anything is written, if the shard's ids are not those of the slot's rows, its arrays
        have another shape or dtype, or a value cannot be stored; `OSError`, naming the file, if the disk refuses it.
        """
        codec = self._known_codec()
        check_shard(shard, self._ids(shard.slot), self.shape)
        path = self.path / shard.slot.name
        if path.exists():
            return False
        rows = Rows(shard.ids_R, shard.checksums_R, codec.encode(shard.values_R, shard.ids_R))
        return create(path, to_bytes(self._header(shard.slot), rows))

    def open(self, replicas: int) -> Reader:
        """Reads the first `replicas` replicas, checks every byte, and holds them in memory.

        Raises `IncompleteEntry` if any shard of them is missing; bad ones are quarantined first, and then they are.
        """
        ids_N, codec, slots = self._own_ids(), self._known_codec(), self.slots(replicas)
        # by name first: whoever waits for a fill asks often, and should not read the entry each time
        self._require(slots, self.absent(replicas))
        size = replicas * self.rows
        checksums_A = np.empty(size, np.uint64)
        columns = {column.name: np.empty((size, column.width), column.dtype) for column in codec.columns(self.shape)}
        missing = []
        for slot in slots:
            if (rows := self._read(slot)) is None:
                missing.append(slot)
                continue
            start = slot.replica * self.rows + self.positions(slot).start
            place = slice(start, start + len(rows.ids_R))
            checksums_A[place] = rows.checksums_R
            for name, array in columns.items():
                array[place] = rows.columns[name]
        self._require(slots, missing)
        return Reader(str(self.path), ids_N, replicas, self.shape, codec, checksums_A, columns)

    def verify(self) -> Report:
        """Reads and checks every shard of every replica; quarantines the bad ones."""
        shards = rows = size = 0
        before = len(self.quarantined)
        for slot, state in self._committed().items():
            if self._read(slot) is not None:
                shards, rows, size = shards + 1, rows + len(self.positions(slot)), size + state.st_size
        return Report(shards, rows, size, self.quarantined[before:])

    def holdings(self) -> Holdings:
        """What is committed, as the names say it; costs one `stat` for each shard."""
        states = self._committed()
        shards = Counter(slot.replica for slot in states)
        return Holdings(
            shards=dict(shards),
            complete=[replica for replica, count in shards.items() if count == self._shards_per_replica],
            bytes=sum(state.st_size for state in states.values()),
            last_used=max((max(state.st_atime, state.st_mtime) for state in states.values()), default=0.0),
        )

    @property
    def _shards_per_replica(self) -> int:
        return -(-self.rows // self.rows_per_shard)

    def _committed(self) -> dict[Slot, os.stat_result]:
        """The slots that have a file of their name, in order."""
        states = {}
        for path in sorted((self.path / "views").glob("*/*.arrow")):
            match = SHARD_NAME.fullmatch(f"{path.parent.name}/{path.name}")
            if match and int(match[2]) < self._shards_per_replica:
                with suppress(FileNotFoundError):  # quarantined since it was listed
                    states[Slot(int(match[1]), int(match[2]))] = path.lstat()
        return states

    def _header(self, slot: Slot) -> Header:
        return Header(self.key_digest, slot, len(self.positions(slot)), self.shape, self._known_codec())

    def _read(self, slot: Slot) -> Rows | None:
        """The slot's rows, every byte of them checked; None if it is missing, or was corrupt and now is missing."""
        path, header = self.path / slot.name, self._header(slot)
        try:
            rows = from_bytes(header, read(path, limit=header.limit))
            if self.ids_N is not None and not np.array_equal(rows.ids_R, self._ids(slot)):
                raise CorruptShard("its row ids are not those of the entry")
        except FileNotFoundError:
            return None
        except ValueError as error:
            self._quarantine(path, str(error))
            return None
        return rows

    def _quarantine(self, path: Path, reason: str) -> None:
        grave = path.with_name(f"{path.name}.corrupt-{time.time_ns()}")
        try:
            path.rename(grave)
        except FileNotFoundError:  # another reader of the same bad shard was first
            return
        self.quarantined.append(grave)
        log.warning("shard %s is corrupt: %s; it now is %s and counts as missing", path, reason, grave.name)

    def _require(self, slots: list[Slot], missing: list[Slot]) -> None:
        if missing:
            raise IncompleteEntry(f"{self.path}: {len(missing)} of {len(slots)} shards are missing, first {missing[0]}")

    def _ids(self, slot: Slot) -> NDArray[np.int64]:
        positions = self.positions(slot)
        return self._own_ids()[positions.start : positions.stop]

    def _own_ids(self) -> NDArray[np.int64]:
        if self.ids_N is None:
            raise ValueError(f"{self.path} was listed, not opened: SignalCache.entry(key, ids_N=...) knows its row ids")
        return self.ids_N

    def _known_codec(self) -> Codec:
        if self.codec is None:
            raise ValueError(
                f"{self.path} has the codec {self.key.get('codec')}, which this version of raykd does not know"
            )
        return self.codec
