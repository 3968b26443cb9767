"""Several writers, killed writers: real processes, forked by a server that has imported the cache once."""

import os
import random
import signal
import time

import pytest
from cache_examples import entry_of, everything, fill, read, rounded, shard_of

from raykd.cache import Slot

ROWS, WIDTH, PER_SHARD, REPLICAS = 96, 500, 8, 12
STEPS = ["before write", "half written", "before fsync", "before link", "after link", "after unlink"]


def work_entry(root, rows_per_shard=PER_SHARD):
    return entry_of(root, rows=ROWS, width=WIDTH, rows_per_shard=rows_per_shard)


def compete(root, number, barrier, results):
    entry = entry_of(root, rows=ROWS, width=4, rows_per_shard=8 + number)
    slots = entry.slots(3)
    barrier.wait()
    results.put(
        (number, entry.rows_per_shard, [slot for slot in slots if entry.commit(shard_of(entry, slot, shift=number))])
    )


def test_of_several_writers_exactly_one_wins_each_slot_and_all_agree_on_the_layout(tmp_path, processes):
    barrier, results = processes.Barrier(4), processes.SimpleQueue()
    writers = [processes.Process(target=compete, args=(tmp_path, number, barrier, results)) for number in range(4)]
    for writer in writers:
        writer.start()
    wins = [results.get() for _ in writers]
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    entry = entry_of(tmp_path, rows=ROWS, width=4)
    assert {rows_per_shard for _, rows_per_shard, _ in wins} == {entry.rows_per_shard}
    assert sorted(slot for _, _, slots in wins for slot in slots) == entry.slots(3)
    values = read(entry, 3).reshape(3, ROWS, 4)
    for number, _, slots in wins:
        for slot in slots:
            part, shard = entry.positions(slot), shard_of(entry, slot, shift=number)
            assert (values[slot.replica, part.start : part.stop] == rounded(shard.values_R)).all()
    assert leftovers(entry) == []


def leftovers(entry):
    return list(entry.path.rglob(".*"))


def write_until_killed(root, step):
    """Commits one shard and dies at a step of it, as by a power cut of the process."""

    def die(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGKILL)

    write, link, unlink = os.write, os.link, os.unlink
    entry = work_entry(root)
    if step == "before write":
        os.write = die
    if step == "half written":
        os.write = lambda descriptor, data: (write(descriptor, data[: len(data) // 2]), die())
    if step == "before fsync":
        os.fsync = die
    if step == "before link":
        os.link = die
    if step == "after link":
        os.link = lambda *args: (link(*args), die())
    if step == "after unlink":
        os.unlink = lambda *args, **kwargs: (unlink(*args, **kwargs), die())
    entry.commit(shard_of(entry, Slot(0, 0)))


@pytest.mark.parametrize("step", STEPS)
def test_a_writer_killed_at_any_step_leaves_a_whole_shard_or_none(tmp_path, processes, step):
    entry = work_entry(tmp_path)
    writer = processes.Process(target=write_until_killed, args=(tmp_path, step))
    writer.start()
    writer.join()
    assert writer.exitcode == -signal.SIGKILL
    committed = step in ("after link", "after unlink")
    assert (Slot(0, 0) not in entry.missing(1)) == committed
    assert entry.quarantined == []
    assert len(leftovers(entry)) == (step != "after unlink")
    assert (read(fill(entry, 1), 1) == everything(entry, 1)).all()


def keep_writing(root, seed, started):
    entry = work_entry(root)
    slots = entry.slots(REPLICAS)
    random.Random(seed).shuffle(slots)
    started.set()
    for slot in slots:
        entry.commit(shard_of(entry, slot))


def test_writers_killed_at_random_moments_leave_nothing_torn_and_resume(tmp_path, processes):
    generator = random.Random(0)
    killed = 0
    for seed in range(15):
        root = tmp_path / str(seed // 5)  # five kills on each of three entries
        entry, started = work_entry(root), processes.Event()
        writer = processes.Process(target=keep_writing, args=(root, seed, started))
        writer.start()
        started.wait()
        time.sleep(generator.uniform(0, 0.03))
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        killed += writer.exitcode == -signal.SIGKILL
        assert entry.verify().corrupt == []
    assert killed > 10  # the others had finished
    for number in range(3):
        entry = fill(work_entry(tmp_path / str(number)), REPLICAS)
        assert (read(entry, REPLICAS) == everything(entry, REPLICAS)).all()
        assert entry.quarantined == []


def read_while_filling(root, started, results):
    entry, deadline, shards = work_entry(root), time.monotonic() + 30, -1
    while shards < len(entry.slots(3)) and time.monotonic() < deadline:
        shards = entry.verify().shards
        started.set()
    results.put((shards, entry.quarantined))


def test_a_reader_beside_a_writer_never_sees_a_torn_shard(tmp_path, processes):
    started, results = processes.Event(), processes.SimpleQueue()
    reader = processes.Process(target=read_while_filling, args=(tmp_path, started, results))
    reader.start()
    started.wait()
    entry = fill(work_entry(tmp_path), 3)
    assert results.get() == (len(entry.slots(3)), [])
    reader.join()
