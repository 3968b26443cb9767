"""Damaged files by the thousand: is each one noticed, and is a wrong value ever served?

    python benchmarks/fuzz.py [--files 1000] [--seed 0]

shard     An entry of 120 shards of 20 pages. In each pass half of them are damaged where they lie, as by a disk: the same file,
          the same time of the last write. Then one of these is asked, in turns, and must name exactly the damaged ones:
              missing | open | follow (row by row)    of who opens the entry anew
              verify                                  of who had read all shards before the damage
          After that every row that is still there is read and compared.
record    `entry.json`: must be refused, and stay as it is.
archive   A published entry, as a tar file and as a folder: must be refused whole, with nothing committed.

Prints a line for each kind: damaged files, no two the same; those detected; those that say what they said before (damage
between the members of a tar file, a record that lost its last newline); rows or records served wrong; files set aside with
the damaged bytes in them; good shards refused. Exits 1 unless all damage is detected or harmless, and nothing wrong is served.

Whether any reader of a storage can be made to crash, to run something or to take all memory is `hostile.py`.

R replicas, N rows of a replica, C classes.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import cycle
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from raykd.cache import Entry, ForeignEntry, IncompleteEntry, Shard, SignalCache, Slot
from raykd.cache.archive import export_entry, import_entry

CLASSES, PER_SHARD, PER_REPLICA, REPLICAS, OTHERS = 300, 128, 12, 10, 9
ROWS = PER_SHARD * PER_REPLICA - 20  # the last shard of a replica is shorter
PAGE, SECTOR = 4096, 512
TRIES = 100  # to draw a damage that did not occur before

Damage = Callable[[bytes, random.Random], bytes]
"""(good bytes, generator) -> bytes, which may be the same by chance."""


@dataclass
class Tally:
    """A line of the table."""

    files: int = 0
    detected: int = 0
    harmless: int = 0
    wrong: int = 0
    aside: int | None = None
    """None where nothing is set aside."""
    refused: int = 0

    def broken(self) -> bool:
        """Whether anything went unnoticed, or was noticed where nothing was."""
        unnoticed = self.detected + self.harmless != self.files or self.aside not in (None, self.files)
        return unnoticed or self.wrong > 0 or self.refused > 0


def main() -> None:
    """Damage, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=1000, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.disable(logging.WARNING)  # each shard that is set aside is one
    broken = False
    print(
        f"{'damaged':34} {'files':>6} {'detected':>8} {'harmless':>8} {'wrong':>6} {'aside':>6} {'refused':>7} {'s':>5}"
    )
    with tempfile.TemporaryDirectory() as folder:
        for name, run in runs(Path(folder)):
            started = time.perf_counter()
            tally = run(options.files, random.Random(options.seed))
            broken |= tally.broken()
            aside = "-" if tally.aside is None else f"{tally.aside:,}"
            print(
                f"{name:34} {tally.files:6,} {tally.detected:8,} {tally.harmless:8,} {tally.wrong:6,} {aside:>6}"
                f" {tally.refused:7,} {time.perf_counter() - started:5.1f}",
                flush=True,
            )
    sys.exit(broken)


def runs(root: Path) -> Iterator[tuple[str, Callable[[int, random.Random], Tally]]]:
    """Each line of the table, still to be measured."""
    own, *others = [Filled(root / "cache", number) for number in range(1 + OTHERS)]
    for name, damage in DAMAGES.items():
        yield f"shard: {name}", partial(shards, own, partial(own.damaged, damage))
    yield "shard: stale sectors", partial(shards, own, partial(stale_sectors, own, others))
    yield "shard: of another slot", partial(shards, own, partial(of_another_slot, own))
    yield "shard: of another replica", partial(shards, own, partial(of_another_replica, own))
    yield "shard: of another entry", partial(shards, own, partial(of_another_entry, others))
    for name in ("flipped bit", "cut", "appended bytes"):
        yield f"record: {name}", partial(records, [own, *others], DAMAGES[name])
    small = Filled(root / "small", 0, replicas=3, rows=4 * PER_SHARD)
    for form in ("tar", "folder"):
        for name in ("flipped bit", "cut", "zeroed tail", "swapped pages"):
            yield f"archive, {form}: {name}", partial(archives, small, root / f"published.{form}", DAMAGES[name])


class Filled:
    """A complete entry, all that it says, and its files as they were committed."""

    def __init__(self, root: Path, number: int, *, replicas: int = REPLICAS, rows: int = ROWS) -> None:
        """Entries of other numbers have other keys and values."""
        self.root, self.number, self.replicas, self.rows = root, number, replicas, rows
        values_RNC = np.random.default_rng(number).normal(0, 3, (replicas, rows, CLASSES))
        self.values_RNC: NDArray[np.float32] = values_RNC.astype(np.float16).astype(np.float32)
        entry = self.opened(root)
        self.path, self.slots = entry.path, entry.slots(replicas)
        for slot in self.slots:
            part = entry.positions(slot)
            ids = np.asarray(part)
            entry.commit(
                Shard(slot, ids, ids.astype(np.uint64), self.values_RNC[slot.replica, part.start : part.stop].copy())
            )

    @cached_property
    def good(self) -> dict[Slot, bytes]:
        """The files of the shards."""
        return {slot: (self.path / slot.name).read_bytes() for slot in self.slots}

    def opened(self, root: Path) -> Entry:
        """The entry, by someone who knows nothing of it."""
        key = {"benchmark": "fuzz", "teacher": self.number}
        return SignalCache(root).entry(key, ids_N=np.arange(self.rows), shape=(CLASSES,), rows_per_shard=PER_SHARD)

    def damaged(self, damage: Damage, slot: Slot, generator: random.Random) -> bytes:
        """The file of a slot, damaged."""
        return damage(self.good[slot], generator)

    def read(self, entry: Entry, slots: Iterable[Slot]) -> tuple[set[Slot], int]:
        """Every row of some slots: the slots that are refused, and the number of rows that are wrong."""
        reader = entry.open(self.replicas, follow=True, patience_s=0)

        def one(slot: Slot) -> int | None:
            positions = np.asarray(entry.positions(slot))
            try:
                values_BC = reader.gather(np.full_like(positions, slot.replica), positions)
            except IncompleteEntry:
                return None
            assert isinstance(values_BC, Tensor), "a dense codec"
            return int((values_BC.numpy() != self.values_RNC[slot.replica, positions]).any(axis=1).sum())

        with ThreadPoolExecutor(64) as threads:  # one that is not there is looked for again, .05 s later
            wrong = dict(zip(slots, threads.map(one, slots), strict=True))
        return {slot for slot, rows in wrong.items() if rows is None}, sum(rows or 0 for rows in wrong.values())


def flipped_bit(good: bytes, generator: random.Random) -> bytes:
    """In any byte."""
    bad = bytearray(good)
    bad[generator.randrange(len(bad))] ^= 1 << generator.randrange(8)
    return bytes(bad)


def cut(good: bytes, generator: random.Random) -> bytes:
    """To any length."""
    return good[: generator.randrange(len(good))]


def zeroed_page(good: bytes, generator: random.Random) -> bytes:
    """One that a disk lost."""
    (start,) = pages(good, 1, generator)
    return placed(good, start, bytes(len(good[start : start + PAGE])))


def zeroed_tail(good: bytes, generator: random.Random) -> bytes:
    """An end that never reached the disk."""
    start = generator.randrange(len(good))
    return placed(good, start, bytes(len(good) - start))


def swapped_pages(good: bytes, generator: random.Random) -> bytes:
    """Two whole ones."""
    a, b = pages(good, 2, generator)
    return placed(placed(good, a, good[b : b + PAGE]), b, good[a : a + PAGE])


def duplicated_page(good: bytes, generator: random.Random) -> bytes:
    """One in the place of another."""
    a, b = pages(good, 2, generator)
    return placed(good, a, good[b : b + PAGE])


def appended_bytes(good: bytes, generator: random.Random) -> bytes:
    """Of a page at most: zeros, noise, or the file's own end."""
    count = generator.randrange(1, PAGE)
    return good + generator.choice([bytes(count), generator.randbytes(count), good[-count:]])


DAMAGES: dict[str, Damage] = {
    "flipped bit": flipped_bit,
    "cut": cut,
    "zeroed page": zeroed_page,
    "zeroed tail": zeroed_tail,
    "swapped pages": swapped_pages,
    "duplicated page": duplicated_page,
    "appended bytes": appended_bytes,
}


def pages(good: bytes, count: int, generator: random.Random) -> list[int]:
    """Where some pages begin; if there are several, whole ones."""
    return generator.sample(range(0, len(good) - (PAGE - 1 if count > 1 else 0), PAGE), count)


def placed(good: bytes, start: int, part: bytes) -> bytes:
    """With other bytes from `start` on."""
    return good[:start] + part + good[start + len(part) :]


def stale_sectors(own: Filled, others: list[Filled], slot: Slot, generator: random.Random) -> bytes:
    """Up to eight sectors as they were in a file of another entry, which lay there before."""
    good, old = own.good[slot], generator.choice(others).good[slot]
    start = generator.randrange(0, len(good) - SECTOR, SECTOR)
    return placed(good, start, old[start : start + SECTOR * generator.randint(1, 8)])


def of_another_slot(own: Filled, slot: Slot, generator: random.Random) -> bytes:
    """Other rows of the same replica."""
    return own.good[Slot(slot.replica, generator.randrange(PER_REPLICA))]


def of_another_replica(own: Filled, slot: Slot, generator: random.Random) -> bytes:
    """The same rows of another replica."""
    return own.good[Slot(generator.randrange(REPLICAS), slot.index)]


def of_another_entry(others: list[Filled], slot: Slot, generator: random.Random) -> bytes:
    """The same slot of another entry."""
    return generator.choice(others).good[slot]


class Fresh:
    """Damage that did not occur before."""

    def __init__(self) -> None:
        self._seen: set[bytes] = set()

    def __call__(self, name: str, good: bytes, make: Callable[[], bytes]) -> bytes | None:
        """Other bytes for the file `name`; None if none can be found."""
        for _ in range(TRIES):
            bad = make()
            mark = hashlib.sha256(name.encode() + b"\0" + bad).digest()
            if bad != good and mark not in self._seen:
                self._seen.add(mark)
                return bad
        return None


def shards(own: Filled, make: Callable[[Slot, random.Random], bytes], files: int, generator: random.Random) -> Tally:
    """Pass after pass, until as many files were damaged, or no new damage can be found."""
    tally, fresh = Tally(aside=0), Fresh()
    for way in cycle(WAYS):
        bad: dict[Slot, bytes] = {}
        for slot in generator.sample(own.slots, len(own.slots) // 2):
            if len(bad) == files - tally.files:
                break
            if (copy := fresh(slot.name, own.good[slot], partial(make, slot, generator))) is not None:
                bad[slot] = copy
        if not bad:
            return tally
        one_pass(own, bad, way, tally)
    return tally


def one_pass(own: Filled, bad: dict[Slot, bytes], way: Callable[[Filled, Entry], set[Slot]], tally: Tally) -> None:
    """Damage, ask, count, repair."""
    entry = own.opened(own.root)
    if way is verify:
        entry.missing(own.replicas)
    for slot, copy in bad.items():
        rot(own.path / slot.name, copy)
    named = way(own, entry)
    tally.files += len(bad)
    tally.detected += len(named & bad.keys())
    tally.refused += len(named - bad.keys())
    _, wrong = own.read(entry, [slot for slot in own.slots if not entry.lacks(slot)])
    tally.wrong += wrong
    assert tally.aside is not None, "shards are set aside"
    for slot in named | bad.keys():
        path = own.path / slot.name
        graves = list(path.parent.glob(f"{path.name}.corrupt-*"))
        tally.aside += not path.exists() and [grave.read_bytes() for grave in graves] == [bad.get(slot)]
        for grave in graves:
            grave.unlink()
        path.write_bytes(own.good[slot])


def rot(path: Path, copy: bytes) -> None:
    """Other bytes in the same file, which nobody wrote."""
    status = path.stat()
    path.write_bytes(copy)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def missing(own: Filled, entry: Entry) -> set[Slot]:
    """As who fills it asks."""
    return set(entry.missing(own.replicas))


def verify(own: Filled, entry: Entry) -> set[Slot]:
    """As who reads everything once more."""
    slots = {f"{entry.place}/{slot.name}": slot for slot in own.slots}
    return {slots[grave.rpartition(".corrupt-")[0]] for grave in entry.verify().corrupt}


def opens(own: Filled, entry: Entry) -> set[Slot]:
    """As a student does."""
    try:
        entry.open(own.replicas)
    except IncompleteEntry:
        return set(entry.absent(own.replicas))
    return set()


def follow(own: Filled, entry: Entry) -> set[Slot]:
    """As a student does while others fill it."""
    refused, _ = own.read(entry, own.slots)
    return refused


WAYS = (missing, verify, opens, follow)


def records(entries: list[Filled], damage: Damage, files: int, generator: random.Random) -> Tally:
    """The record of one of the entries after another."""
    tally, fresh = Tally(), Fresh()
    for filled in cycle(entries):
        path = filled.path / "entry.json"
        good, true = path.read_bytes(), filled.opened(filled.root).record
        if tally.files == files or (bad := fresh(filled.path.name, good, partial(damage, good, generator))) is None:
            return tally
        rot(path, bad)
        tally.files += 1
        try:
            told = filled.opened(filled.root).record
        except ForeignEntry:
            listed = filled.path.name in {entry.key_digest for entry in SignalCache(filled.root).entries()}
            tally.detected += not listed and path.read_bytes() == bad
        else:
            tally.harmless += told == true
            tally.wrong += told != true
        path.write_bytes(good)
    return tally


def archives(small: Filled, path: Path, damage: Damage, files: int, generator: random.Random) -> Tally:
    """The tar file, or one file of the folder after another, larger ones more often."""
    tally, fresh = Tally(), Fresh()
    if not path.exists():
        export_entry(small.opened(small.root), path)
    parts = [part for part in sorted(path.rglob("*")) if part.is_file()] or [path]
    sizes = [part.stat().st_size for part in parts]
    while tally.files < files:
        (part,) = generator.choices(parts, sizes)
        good = part.read_bytes()
        if len(good) < 3 * PAGE:  # too few pages to swap
            continue
        if (bad := fresh(part.name, good, partial(damage, good, generator))) is None:
            return tally
        part.write_bytes(bad)
        tally.files += 1
        taken_in(small, path, tally)
        part.write_bytes(good)
    return tally


def taken_in(small: Filled, path: Path, tally: Tally) -> None:
    """Import it into an empty cache."""
    with tempfile.TemporaryDirectory(dir=small.root) as folder:
        there = Path(folder)
        try:
            import_entry(SignalCache(there), path)
        except ValueError:
            left = any(there.iterdir())
            tally.detected += not left
            tally.wrong += left
            return
        entry = small.opened(there)
        refused, wrong = small.read(entry, small.slots)
        tally.harmless += not refused and not wrong
        tally.wrong += wrong


if __name__ == "__main__":
    main()
