"""An entry of the cache: the values of one signal of one teacher, for every replica of every row of a split.

    entry.missing(replicas) -> entry.lease(slot) -> entry.commit(shard)          who fills
    entry.open(replicas)    -> Reader, or IncompleteEntry                        who reads when all is there
    entry.open(replicas, follow=True)                                            who reads while others fill

R rows of a shard.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raykd.cache.arrow import to_bytes
from raykd.cache.codecs import Codec
from raykd.cache.reader import USED, IncompleteEntry, Patience, Reader
from raykd.cache.record import Record
from raykd.cache.shard import Rows, Shard, Slot, check_shard
from raykd.cache.shards import Shards
from raykd.places import Folder, Lease, Place, held, live

LEASES = "leases"


@dataclass(frozen=True)
class Report:
    """What `verify` read, and what it found."""

    shards: int
    rows: int
    bytes: int
    corrupt: list[str]
    """Where the bad shards lie now. They are not counted above."""


@dataclass(frozen=True)
class Holdings:
    """What is stored, by name alone: nothing is read."""

    shards: dict[int, int]
    """Committed shards of each replica that has any."""
    complete: list[int]
    """Replicas with all their shards."""
    bytes: int
    last_used: float
    """Seconds since 1970 at which a reader last opened the entry or a shard was committed, by the clock of the place."""


@dataclass(frozen=True, eq=False)
class Entry:
    """A write-once entry. `SignalCache.entry` makes them; those that `SignalCache.entries` lists know no row ids.

    Any number of processes and machines may commit to and read from one entry at once.
    """

    shards: Shards

    @property
    def place(self) -> Place:
        """Where it lies."""
        return self.shards.place

    @property
    def path(self) -> Path:
        """The folder where it lies; raises `ValueError` for an entry in a bucket."""
        if not isinstance(self.place, Folder):
            raise ValueError(f"{self.place} is no folder: use entry.place")
        return self.place.root

    @property
    def record(self) -> Record:
        """What `entry.json` says."""
        return self.shards.record

    @property
    def codec(self) -> Codec | None:
        """How values are stored; None if this program does not know the codec of a listed entry."""
        return self.shards.codec

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

    @property
    def quarantined(self) -> list[str]:
        """Where the bad shards that this object met lie now."""
        return self.shards.quarantined

    def slots(self, replicas: int) -> list[Slot]:
        """Every slot of the first `replicas` replicas, replica by replica."""
        return self.shards.slots(replicas)

    def positions(self, slot: Slot) -> range:
        """The rows of the split that the slot covers."""
        return self.shards.positions(slot)

    def lacks(self, slot: Slot) -> bool:
        """Whether the slot has no file, by name alone. A corrupt shard still counts as there."""
        return not self.place.exists(slot.name)

    def absent(self, replicas: int) -> list[Slot]:
        """The slots that lack a file: what a plan needs to know. One listing a replica."""
        return self.shards.absent(replicas)

    def missing(self, replicas: int) -> list[Slot]:
        """The slots still to be computed. Reads and checks all the others, at disk speed; quarantines the bad ones.

        What it has read and found good, `open` of the same object does not read again. Also sweeps what killed writers left
        behind a day ago.
        """
        slots = self.slots(replicas)
        for folder in (LEASES, *(f"views/{replica:05d}" for replica in range(replicas))):
            self.place.sweep(folder)
        absent = set(self.absent(replicas))
        return [slot for slot in slots if slot in absent or self.shards.read(slot) is None]

    def lease(self, slot: Slot) -> Lease | None:
        """The right to compute a slot until it is released; None while another has it. Advisory: it saves double work."""
        return Lease.acquire(self.place, _lease_name(slot))

    def busy(self, slot: Slot) -> bool:
        """Whether someone computes the slot now."""
        return held(self.place, _lease_name(slot))

    def working(self) -> bool:
        """Whether someone computes any slot now."""
        return live(self.place, LEASES)

    def commit(self, shard: Shard) -> bool:
        """Stores a shard, or returns False if the slot was filled before: then this one is dropped.

        Two correct computations may differ in the last bit, so the first to commit is right by definition.

        Raises `ValueError`, before anything is written, if the shard's ids are not those of the slot's rows, its arrays
        have another shape or dtype, or a value cannot be stored; `OSError`, naming the file, if the disk refuses it.
        """
        codec, slot = self.shards.own_codec(), shard.slot
        check_shard(shard, self.shards.ids_R(slot), self.shape)
        if not self.lacks(slot):
            return False
        columns = codec.encode(shard.values_R, shard.ids_R, slot.replica)
        data = to_bytes(self.shards.header(slot), Rows(shard.ids_R, shard.checksums_R, columns))
        return self.place.create(slot.name, data)

    def open(self, replicas: int, *, follow: bool = False, patience_s: float = 60.0) -> Reader:
        """Maps the first `replicas` replicas into memory and checks every byte.

        With `follow`, that happens when a batch first asks for a shard, and one that is not there yet is waited for: as long
        as someone computes any shard of the entry, and `patience_s` seconds more.

        Raises `IncompleteEntry` if any shard is missing (with `follow`, when the patience is over); bad ones are quarantined
        first, and then they are.
        """
        self.shards.own_ids()
        slots = self.slots(replicas)
        if not follow:  # by name first: whoever waits for a fill asks often, and should not read the entry each time
            self._require(slots, self.absent(replicas))
        reader = Reader(self.shards, replicas, Patience(self.working, patience_s))
        if not follow:
            self._require(slots, reader.load_all())
        reader.note_use()
        return reader

    def verify(self) -> Report:
        """Reads and checks every shard of every replica; quarantines the bad ones."""
        self.shards.forget()
        shards = rows = size = 0
        before = len(self.quarantined)
        for slot, status in self.shards.committed().items():
            if self.shards.read(slot) is not None:
                shards, rows, size = shards + 1, rows + len(self.positions(slot)), size + status.size
        return Report(shards, rows, size, self.quarantined[before:])

    def holdings(self) -> Holdings:
        """What is committed, as the names say it."""
        found = self.shards.committed()
        shards = Counter(slot.replica for slot in found)
        used = self.place.status(USED)
        times = [status.modified for status in (*found.values(), used) if status is not None]
        return Holdings(
            shards=dict(shards),
            complete=[replica for replica, count in shards.items() if count == self.shards.per_replica],
            bytes=sum(status.size for status in found.values()),
            last_used=max(times, default=0.0),
        )

    def _require(self, slots: list[Slot], missing: list[Slot]) -> None:
        if missing:
            raise IncompleteEntry(
                f"{self.place}: {len(missing)} of {len(slots)} shards are missing, first {missing[0]}"
            )


def _lease_name(slot: Slot) -> str:
    return f"{LEASES}/{slot.replica:05d}-{slot.index:08d}"
