"""SIGKILL at random moments: is anything torn, lost, or computed more often than the kills explain?

    python benchmarks/crash.py [--kills 120] [--replicas 128] [--seed 0]

Three writers fill one entry as `raykd.labeling.labeler` does: lease, look, compute, commit. Beside them two readers follow it,
rows of what is there and of the next shard to come, and one verifies it over and over. Each is a process. A parent kills
one of the six whenever the work has reached the next of a list of random points, up to 20 ms later, and starts another in its
place at once; the last tenth of the work is left alone. Then everything is read once more.

Every value is a function of row and replica, so that whoever reads can check it. Each process appends a line to a log for
whatever it did, a writer `computed` before it commits. A kill is of a process: a power cut also loses what was not synced.

Prints what was found beside the most that the law allows, where there is one; exits 1 if that is exceeded.

R rows of a shard, B of a batch, C classes.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raykd.cache import Entry, Reader, Shard, SignalCache, Slot, input_checksums

CLASSES, PER_SHARD, PER_REPLICA, BATCH = 100, 2048, 8, 256
ROWS = PER_SHARD * PER_REPLICA - 500  # the last shard of a replica is shorter
FORWARD_S = 0.04  # seconds that the teacher takes for a shard, at most
DELAY_S = 0.02

Log = Counter[tuple[str, int]]
"""How much of each event each process told."""


def main() -> None:
    """Kill, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=120)
    parser.add_argument("--replicas", type=int, default=128, help=f"{PER_REPLICA} shards each")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # inherited: six processes share the cores
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        crew = Crew(Path(folder), options.replicas)
        kill_at_random(crew, options.kills, random.Random(options.seed))
        crew.finish()
        broken = report(crew, options.kills, time.perf_counter() - started)
    sys.exit(broken)


def opened(root: Path) -> Entry:
    """The entry, as every process finds it."""
    return SignalCache(root / "cache").entry(
        {"benchmark": "crash"}, ids_N=ids_of(np.arange(ROWS)), shape=(CLASSES,), rows_per_shard=PER_SHARD
    )


def ids_of(positions_B: NDArray[np.int64]) -> NDArray[np.int64]:
    """Ids that are not positions. [B]"""
    return positions_B * 7 + 1000


def seen(ids_B: NDArray[np.int64], replicas_B: NDArray[np.int64]) -> Tensor:
    """What the teacher saw. [B, 2]"""
    return torch.from_numpy(np.stack([ids_B, replicas_B], axis=1))


def said(ids_B: NDArray[np.int64], replicas_B: NDArray[np.int64]) -> NDArray[np.float32]:
    """What the teacher said: a hash of row, replica and class in 11 bits, which float16 has. [B, C]"""
    row_B = ids_B.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + replicas_B.astype(np.uint64)
    hash_BC: NDArray[np.uint64] = (row_B[:, None] << np.uint64(8)) | np.arange(CLASSES, dtype=np.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        hash_BC = (hash_BC ^ (hash_BC >> np.uint64(shift))) * np.uint64(factor)
    return (hash_BC >> np.uint64(53)).astype(np.float32) / np.float32(16) - np.float32(64)


@dataclass(frozen=True)
class Told:
    """The log, as one process appends to it; a line is one write, so a kill leaves it whole or out."""

    path: Path
    number: int
    """Of the process: no two have the same."""

    def __call__(self, event: str, count: int = 1) -> None:
        """Append a line."""
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(descriptor, f"{event} {self.number} {count}\n".encode())
        os.close(descriptor)


@dataclass(frozen=True)
class Worker:
    """What a process is given."""

    root: Path
    replicas: int
    told: Told

    @cached_property
    def entry(self) -> Entry:
        """Opened anew by each."""
        return opened(self.root)

    @cached_property
    def generator(self) -> random.Random:
        """The same for the same process of another run."""
        return random.Random(self.told.number)

    def absent(self) -> list[Slot]:
        """The shards to come; the work is over when there are none."""
        return self.entry.absent(self.replicas)


def write(worker: Worker) -> None:
    """The shards that are absent, in order, but for those that others are at."""
    entry, told = worker.entry, worker.told
    while absent := worker.absent():
        for slot in absent:
            if not entry.lacks(slot) or (lease := entry.lease(slot)) is None:
                continue
            with lease:
                if entry.lacks(slot):  # another may have committed it before its lease ended
                    told("started")
                    time.sleep(worker.generator.uniform(0, FORWARD_S))
                    shard = computed(entry, slot)
                    told("computed")
                    entry.commit(shard)
                    told("ended")


def computed(entry: Entry, slot: Slot) -> Shard:
    """A shard, by the teacher."""
    ids_R = ids_of(np.asarray(entry.positions(slot)))
    replicas_R = np.full_like(ids_R, slot.replica)
    return Shard(slot, ids_R, input_checksums(seen(ids_R, replicas_R)), said(ids_R, replicas_R))


def follow(worker: Worker) -> None:
    """Ten batches of random rows of shards that are there and one of the next to come, over and over."""
    reader = worker.entry.open(worker.replicas, follow=True)
    slots = worker.entry.slots(worker.replicas)
    while absent := worker.absent():
        there = sorted(set(slots).difference(absent))
        for _ in range(10 if there else 0):
            check(worker, reader, worker.generator.choices(there, k=BATCH))
        check(worker, reader, absent[:1] * BATCH)


def check(worker: Worker, reader: Reader, slots_B: list[Slot]) -> None:
    """One random row of each slot, which must be what the teacher said of what it saw."""
    positions_B = np.array([worker.generator.choice(worker.entry.positions(slot)) for slot in slots_B])
    wrong = wrong_rows(reader, np.array([slot.replica for slot in slots_B]), positions_B)
    worker.told("wrong", wrong)
    worker.told("read", len(slots_B))


def wrong_rows(reader: Reader, replicas_B: NDArray[np.int64], positions_B: NDArray[np.int64]) -> int:
    """How many rows are not what the teacher said; raises `Misaligned` if they are not of what it saw."""
    ids_B = ids_of(positions_B)
    reader.check_inputs(replicas_B, positions_B, seen(ids_B, replicas_B))
    values_BC = reader.gather(replicas_B, positions_B)
    assert isinstance(values_BC, Tensor), "a dense codec"
    return int((values_BC.numpy() != said(ids_B, replicas_B)).any(axis=1).sum())


def verify(worker: Worker) -> None:
    """Every byte that is there, over and over."""
    while worker.absent():
        found = worker.entry.verify()
        worker.told("corrupt", len(found.corrupt))
        worker.told("verified", found.shards)


ROLES = (write, write, write, follow, follow, verify)


class Crew:
    """The six processes, and those that were there before them."""

    def __init__(self, root: Path, replicas: int) -> None:
        """Starts them."""
        self.root, self.replicas = root, replicas
        self.killed: list[tuple[str, int]] = []
        """Role and number."""
        self.started = 0
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["raykd.cache"])
        self.now = {place: self._start(place) for place in range(len(ROLES))}
        """Number and process, at each place."""

    def kill(self, place: int) -> None:
        """SIGKILL, and another in its place, unless it had ended by itself."""
        number, process = self.now[place]
        process.kill()
        process.join()
        if process.exitcode == -signal.SIGKILL:
            self.killed.append((ROLES[place].__name__, number))
            self.now[place] = self._start(place)

    def failed(self) -> int:
        """Processes that ended with an error, or by a signal that was not ours."""
        return sum(process.exitcode not in (None, 0, -signal.SIGKILL) for _, process in self.now.values())

    def finish(self) -> None:
        """Wait for all; if one fails, the work may never be over, and the others are ended."""
        while any(process.is_alive() for _, process in self.now.values()):
            if self.failed():
                for _, process in self.now.values():
                    process.kill()
            time.sleep(0.01)

    def _start(self, place: int) -> tuple[int, ForkServerProcess]:
        number, self.started = self.started, self.started + 1
        worker = Worker(self.root, self.replicas, Told(self.root / "log", number))
        worker.told("born")
        process = self._context.Process(target=ROLES[place], args=(worker,))
        process.start()
        return number, process


def kill_at_random(crew: Crew, kills: int, generator: random.Random) -> None:
    """The kills, spread over nine tenths of the work; gives up if a process fails."""
    work = crew.replicas * PER_REPLICA * 0.9
    for due in sorted(generator.uniform(0, work) for _ in range(kills)):
        while (crew.root / "log").read_bytes().count(b"computed") < due:
            if crew.failed():
                return
            time.sleep(0.002)
        time.sleep(generator.uniform(0, DELAY_S))
        crew.kill(generator.randrange(len(ROLES)))


def logged(path: Path) -> Log:
    """What all have told."""
    counts: Log = Counter()
    for line in path.read_text().splitlines():
        event, number, count = line.split()
        counts[event, int(number)] += int(count)
    return counts


def total(log: Log, event: str) -> int:
    """Over all processes."""
    return sum(count for (name, _), count in log.items() if name == event)


def report(crew: Crew, kills: int, seconds: float) -> bool:
    """Reads everything, prints the figures; whether a law is broken."""
    log, entry = logged(crew.root / "log"), opened(crew.root)
    slots, files = entry.slots(crew.replicas), [path for path in entry.path.rglob("*") if path.is_file()]
    by_role = Counter(role for role, _ in crew.killed)
    in_flight = sum(log["started", number] - log["ended", number] for _, number in crew.killed)
    verified = entry.verify()
    missing = entry.missing(crew.replicas)
    figures: list[tuple[str, int, int | None]] = [
        ("kills that did not come about", kills - len(crew.killed), 0),
        ("processes that failed", crew.failed(), 0),
        ("writers killed", by_role["write"], None),
        ("  with a shard in flight", in_flight, by_role["write"]),
        ("readers killed", by_role["follow"] + by_role["verify"], None),
        ("rows read meanwhile", total(log, "read"), None),
        ("  torn or wrong", total(log, "wrong"), 0),
        ("shards verified meanwhile", total(log, "verified"), None),
        ("  bad", total(log, "corrupt"), 0),
        ("shards of the entry", len(slots), None),
        ("  computed again", total(log, "computed") - len(slots), in_flight),
        ("  bad at the end", len(verified.corrupt), 0),
        ("rows of the entry", sum(len(entry.positions(slot)) for slot in slots), None),
        ("  missing at the end", sum(len(entry.positions(slot)) for slot in missing), 0),
        ("  wrong at the end", 0 if missing else wrong_in_all(entry, crew.replicas), 0),
        ("files left behind: temporary", sum(path.name.endswith(".tmp") for path in files), len(crew.killed)),
        ("  leases", sum(path.parent.name == "leases" and path.suffix == "" for path in files), by_role["write"]),
        ("  leases that count as held", sum(map(entry.busy, slots)), 0),
    ]
    print(f"{'what':30} {'found':>12} {'at most':>8}")
    for name, found, limit in figures:
        print(f"{name:30} {found:12,} {'' if limit is None else format(limit, ','):>8}")
    print(f"{'seconds':30} {seconds:12.1f}")
    return any(limit is not None and found > limit for _, found, limit in figures)


def wrong_in_all(entry: Entry, replicas: int) -> int:
    """Rows that are wrong in the complete entry."""
    reader, every = entry.open(replicas), np.arange(ROWS)
    return sum(wrong_rows(reader, np.full_like(every, replica), every) for replica in range(replicas))


if __name__ == "__main__":
    main()
