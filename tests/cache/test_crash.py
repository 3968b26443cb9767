"""Writers that take turns by leases and readers that follow them, all killed at random: `benchmarks/crash.py`, small."""

import os
import random
import signal
import time

import numpy as np
from cache_examples import entry_of, everything, ids_of, read, rounded, said, shard_of

ROWS, WIDTH, REPLICAS, KILLS = 120, 100, 20, 10


def work_entry(root):
    return entry_of(root / "cache", rows=ROWS, width=WIDTH, rows_per_shard=8)


def tell(root, event, number):
    """One write, so that a kill leaves the line whole or out."""
    descriptor = os.open(root / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{event} {number}\n".encode())
    os.close(descriptor)


def write(root, number):
    entry = work_entry(root)
    while absent := entry.absent(REPLICAS):
        for slot in absent:
            if (lease := entry.lease(slot)) is None:
                continue
            with lease:
                if entry.lacks(slot):
                    tell(root, "started", number)
                    shard = shard_of(entry, slot)
                    time.sleep(0.01)
                    tell(root, "computed", number)
                    entry.commit(shard)
                    tell(root, "ended", number)


def follow(root, number):
    entry, generator = work_entry(root), np.random.default_rng(number)
    reader = entry.open(REPLICAS, follow=True)
    while absent := entry.absent(REPLICAS):
        there = sorted(set(entry.slots(REPLICAS)).difference(absent))[-5:]
        for slot in [*there, absent[0]]:
            positions = generator.choice(entry.positions(slot), 4)
            values = reader.gather([slot.replica] * 4, positions).numpy()
            right = (values == rounded(said(ids_of(ROWS)[positions], slot.replica, WIDTH))).all()
            tell(root, "right" if right else "wrong", number)


def test_writers_and_followers_killed_at_random_lose_nothing_and_compute_again_what_was_in_flight(tmp_path, processes):
    generator = random.Random(0)
    roles, numbers, crew, killed = (write, write, follow), iter(range(1000)), {}, []

    def start(place):
        number = next(numbers)
        process = processes.Process(target=roles[place], args=(tmp_path, number))
        process.start()
        crew[place] = number, process

    def told(event):
        lines = (line.split() for line in (tmp_path / "log").read_text().splitlines())
        return [int(number) for name, number in lines if name == event]

    tell(tmp_path, "begun", -1)
    for place in range(len(roles)):
        start(place)
    slots = work_entry(tmp_path).slots(REPLICAS)
    for due in sorted(generator.uniform(0, 0.8 * len(slots)) for _ in range(KILLS)):
        while len(told("computed")) < due:
            time.sleep(0.002)
        place = generator.randrange(len(roles))
        number, process = crew[place]
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        killed.append(number)
        start(place)
    for _, process in crew.values():
        process.join()
        assert process.exitcode == 0

    entry = work_entry(tmp_path)
    in_flight = sum(told("started").count(number) - told("ended").count(number) for number in killed)
    assert 0 <= len(told("computed")) - len(slots) <= in_flight <= KILLS
    assert len(told("right")) > 10
    assert told("wrong") == []
    assert entry.verify().corrupt == []
    assert (read(entry, REPLICAS) == everything(entry, REPLICAS)).all()
    assert not entry.working()
