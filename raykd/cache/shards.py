"""The committed shards of an entry: which there should be, and what lies there once every byte of it was checked.

    committed  =  its final name exists        missing  =  it does not, or what lies there is not what was committed

There is no manifest that could be wrong. A shard that fails its checks is renamed `<shard>.corrupt-<time>`, so that it
counts as missing and is computed anew; it is never served.

N rows of the split, R rows of a shard.
"""

from __future__ import annotations

import logging
import mmap
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from raykd.cache.arrow import Header, from_bytes
from raykd.cache.codecs import Codec
from raykd.cache.record import Record
from raykd.cache.seal import CorruptShard, check_seal
from raykd.cache.shard import Rows, Slot
from raykd.places import Place, Status
from raykd.printable import printable

REPLICAS = 100_000  # the names have five digits for a replica
SHARD_NAME = re.compile(r"views/([0-9]{5})/([0-9]{8})\.arrow")

Look = Callable[[int, int], NDArray[np.uint8]]
"""(open file, its size) -> its bytes."""
Stamp = tuple[int, int, int]
"""Inode, size, time of the last write in nanoseconds."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Shards:
    """The shards of one entry, for any number of processes that read and commit."""

    place: Place
    record: Record
    codec: Codec | None
    """None if this program does not know the codec of a listed entry."""
    ids_N: NDArray[np.int64] | None
    """None for a listed entry: it can be verified, neither committed to nor opened."""
    quarantined: list[str] = field(default_factory=list)
    """Where the bad shards that this object met lie now."""
    _verified: dict[Slot, Stamp] = field(default_factory=dict)
    """The files whose bytes this object has checked: `missing` and then `open` read each once."""

    @property
    def per_replica(self) -> int:
        """Shards of one replica."""
        return -(-self.record.rows // self.record.rows_per_shard)

    def slots(self, replicas: int) -> list[Slot]:
        """Every slot of the first `replicas` replicas, replica by replica."""
        if not 1 <= replicas <= REPLICAS:
            raise ValueError(f"{replicas=}: an entry has from 1 to {REPLICAS} replicas")
        return [Slot(replica, index) for replica in range(replicas) for index in range(self.per_replica)]

    def positions(self, slot: Slot) -> range:
        """The rows of the split that the slot covers."""
        if not (0 <= slot.replica < REPLICAS and 0 <= slot.index < self.per_replica):
            raise ValueError(f"{slot} is not in {self.place}: a replica has {self.per_replica} shards")
        start = slot.index * self.record.rows_per_shard
        return range(start, min(start + self.record.rows_per_shard, self.record.rows))

    def ids_R(self, slot: Slot) -> NDArray[np.int64]:
        """The ids of the slot's rows."""
        positions = self.positions(slot)
        return self.own_ids()[positions.start : positions.stop]

    def own_ids(self) -> NDArray[np.int64]:
        """The ids of the split; raises `ValueError` for a listed entry."""
        if self.ids_N is None:
            raise ValueError(
                f"{self.place} was listed, not opened: SignalCache.entry(key, ids_N=...) knows its row ids"
            )
        return self.ids_N

    def own_codec(self) -> Codec:
        """The codec; raises `ValueError` for one that this program does not know."""
        if self.codec is None:
            raise ValueError(
                f"{self.place} has the codec {self.record.key.get('codec')}, which this version of raykd does not know"
            )
        return self.codec

    def header(self, slot: Slot) -> Header:
        """What the slot's file must say of itself."""
        return Header(self.record.name, slot, len(self.positions(slot)), self.record.shape, self.own_codec())

    def absent(self, replicas: int) -> list[Slot]:
        """The slots of which no file has the name, in one listing a replica. A corrupt shard still counts as there."""
        slots = self.slots(replicas)
        names = [self.place.names(f"views/{replica:05d}") for replica in range(replicas)]
        return [slot for slot in slots if slot.name.rpartition("/")[2] not in names[slot.replica]]

    def committed(self) -> dict[Slot, Status]:
        """The slots of any replica that have a file of their name, in order."""
        found = {}
        for name, status in sorted(self.place.files("views").items()):
            match = SHARD_NAME.fullmatch(name)
            if match and int(match[2]) < self.per_replica:
                found[Slot(int(match[1]), int(match[2]))] = status
        return found

    def forget(self) -> None:
        """Read everything anew."""
        self._verified.clear()

    def read(self, slot: Slot, look: Look | None = None) -> Rows | None:
        """The slot's rows as views of what `look` makes of its file; None if it is missing, or was corrupt and now is.

        A file that this object has checked before, and that nobody wrote to since, is not read again.
        """
        header = self.header(slot)
        found: list[Rows] = []

        def check(path: Path) -> None:
            found[:] = [self._check(header, path, look or mapped)]

        try:
            self.place.local(slot.name, check, limit=header.limit)
        except FileNotFoundError:
            return None
        except ValueError as error:
            self._quarantine(slot.name, str(error))
            return None
        return found[0]

    def _check(self, header: Header, path: Path, look: Look) -> Rows:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            status = os.fstat(file)
            data = look(file, status.st_size)
        finally:
            os.close(file)
        stamp = (status.st_ino, status.st_size, status.st_mtime_ns)
        known = self._verified.get(header.slot) == stamp
        rows = from_bytes(header, data, _believe if known else check_seal)
        if self.ids_N is not None and not np.array_equal(rows.ids_R, self.ids_R(header.slot)):
            raise CorruptShard("its row ids are not those of the entry")
        self._verified[header.slot] = stamp
        return rows

    def _quarantine(self, name: str, reason: str) -> None:
        grave = f"{name}.corrupt-{time.time_ns()}"
        if not self.place.rename(name, grave):  # another reader of the same bad shard was first
            return
        self.quarantined.append(f"{self.place}/{grave}")
        log.warning(
            "shard %s/%s is corrupt: %s; it now is %s and counts as missing", self.place, name, printable(reason), grave
        )


def mapped(file: int, size: int) -> NDArray[np.uint8]:
    """The bytes of an open file, mapped and not copied: with the checksum 28 GB/s against 11."""
    return np.frombuffer(mmap.mmap(file, size, access=mmap.ACCESS_READ) if size else b"", np.uint8)


def _believe(data: object) -> None:
    """The check of a seal that was checked."""
