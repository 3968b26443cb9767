"""Making room: the entries that nobody used for longest go, until the rest fits.

    total > max_bytes:   oldest first,   but never one that is pinned | being filled | used within the grace period

In two steps, so that whoever has just opened an entry keeps it:

    1  aside     its folder is renamed to v1/.trash/<entry>-<time in ns>: nobody finds it, mappings of its files stay good
    2  deleted   by a gc that finds it there for as long as the grace period

A mapping outlives its file on a disk of this machine; on a network file system it need not: there the grace period should
be longer than an epoch, at whose start a training notes that it uses the entry.

A bucket has no folders, and to copy every object would be waste. There only `entry.json` is set aside, to
v1/.trash/<entry>-<time>.json. Whoever asks for the entry meanwhile writes its record anew, and so has it back with all its
shards; if nobody did, step 2 deletes them. One who asks in the very moment of step 2 may find shards gone: they
count as missing, and are computed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from raykd.cache.entry import Entry
from raykd.cache.pins import pins
from raykd.cache.record import NAME as RECORD
from raykd.cache.store import VERSION, SignalCache

TRASH = f"{VERSION}/.trash"
RECORD_ONLY = ".json"
MOVED = re.compile(r"([0-9a-f]{40})-([0-9]{1,20})(\.json)?")
SECOND = 1_000_000_000  # nanoseconds


@dataclass(frozen=True)
class Held:
    """Bytes that one entry takes or took."""

    entry: str
    bytes: int
    time: float
    """Seconds since 1970, by the clock of the place: when it was last used or, in the trash, when it may be deleted."""


@dataclass(frozen=True)
class Collection:
    """What a `gc` did, or would do."""

    max_bytes: int
    aside: list[Held]
    """Moved aside now."""
    deleted: list[Held]
    """Deleted for good now."""
    waiting: list[Held]
    """In the trash, those just moved aside included, until the grace period is over."""
    spared: dict[str, str]
    """Entries older than what would have had to go, and why they stay."""
    bytes: int
    """Of the entries that stay."""

    @property
    def met(self) -> bool:
        """Whether the rest fits."""
        return self.bytes <= self.max_bytes


def collect(cache: SignalCache, max_bytes: int, *, grace_s: float = 3600.0, dry_run: bool = False) -> Collection:
    """Make room. A dry run writes nothing, but for the file that tells the time of the place.

    Reads no shard; costs a few listings an entry. Raises `ValueError` for a negative budget or grace period.
    """
    if max_bytes < 0 or grace_s < 0:
        raise ValueError(f"{max_bytes=} and {grace_s=}: 0 or more would be right")
    stamp = int(cache.place.now() * SECOND)
    now = stamp / SECOND
    found = sorted(((_held(entry), entry) for entry in cache.entries()), key=lambda pair: (pair[0].time, pair[0].entry))
    rest = sum(held.bytes for held, _ in found)
    aside: list[Held] = []
    spared: dict[str, str] = {}
    for held, entry in found:
        if rest <= max_bytes:
            break
        if reason := _reason(entry, now - held.time, grace_s):
            spared[held.entry] = reason
        elif dry_run or _set_aside(cache, entry, stamp):
            aside.append(Held(held.entry, held.bytes, now + grace_s))
            rest -= held.bytes
    trash = dict(_trash(cache, grace_s))
    if dry_run:
        trash |= {held.entry: held for held in aside}
    due = {name: held for name, held in trash.items() if held.time <= now}
    if not dry_run:
        for name, held in due.items():
            _delete(cache, held.entry, name)
    waiting = [held for name, held in trash.items() if name not in due]
    return Collection(max_bytes, aside, list(due.values()), waiting, spared, rest)


def _held(entry: Entry) -> Held:
    """An entry without shards was used when it was made."""
    holdings, record = entry.holdings(), entry.place.status(RECORD)
    return Held(entry.key_digest, holdings.bytes, max(holdings.last_used, record.modified if record else 0.0))


def _reason(entry: Entry, idle_s: float, grace_s: float) -> str:
    """Why an entry must stay; empty if it may go."""
    if names := pins(entry):
        return f"pinned by {', '.join(names)}"
    if entry.working():
        return "someone is filling it"
    return f"used {max(idle_s, 0):.0f} s ago" if idle_s < grace_s else ""


def _set_aside(cache: SignalCache, entry: Entry, stamp: int) -> bool:
    """False if another gc was first."""
    name = entry.key_digest
    folder, grave = f"{VERSION}/{name[:2]}/{name}", f"{TRASH}/{name}-{stamp}"
    return cache.place.move(folder, grave) or cache.place.rename(f"{folder}/{RECORD}", f"{grave}{RECORD_ONLY}")


def _trash(cache: SignalCache, grace_s: float) -> Iterator[tuple[str, Held]]:
    """What lies in the trash, by its name there."""
    for name in sorted(cache.place.names(TRASH)):
        if match := MOVED.fullmatch(name):
            place = cache.folder(match[1]) if match[3] else cache.place.inner(f"{TRASH}/{name}")
            wanted = match[3] and place.exists(RECORD)  # somebody asked for it since
            size = 0 if wanted else sum(status.size for status in place.files("views").values())
            yield name, Held(match[1], size, int(match[2]) / SECOND + grace_s)


def _delete(cache: SignalCache, entry: str, name: str) -> None:
    """The second step, for what lies under `name` in the trash."""
    if not name.endswith(RECORD_ONLY):
        cache.place.discard(f"{TRASH}/{name}")
        return
    if not cache.folder(entry).exists(RECORD):
        cache.place.discard(f"{VERSION}/{entry[:2]}/{entry}")
    cache.place.remove(f"{TRASH}/{name}")
