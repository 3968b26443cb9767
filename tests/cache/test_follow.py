"""Reading an entry that is still being filled, and who fills it: leases of slots. Real writers, really killed."""

import os
import signal
import threading
import time

import numpy as np
import pytest
from cache_examples import entry_of, everything, fill, ids_of, seen, shard_of

from raykd.cache import IncompleteEntry, Misaligned, Slot

ROWS = 24


def work_entry(root):
    return entry_of(root, rows=ROWS, rows_per_shard=4)


def test_a_slot_has_one_holder_and_an_entry_knows_that_someone_works(tmp_path):
    entry, other = work_entry(tmp_path), work_entry(tmp_path)
    assert not entry.busy(Slot(0, 1))
    assert not entry.working()
    with entry.lease(Slot(0, 1)):
        assert other.lease(Slot(0, 1)) is None
        assert other.busy(Slot(0, 1))
        assert not other.busy(Slot(0, 2))
        assert other.working()
        assert [path.name for path in (entry.path / "leases").iterdir()] == ["00000-00000001"]
    assert not other.working()


def test_a_complete_entry_is_followed_without_waiting_and_read_as_needed(tmp_path):
    entry = fill(work_entry(tmp_path), 2)
    reader = entry.open(2, follow=True)
    assert not reader._loaded.any()
    assert (reader.gather([1] * 3, [0, 5, 23]).numpy() == everything(entry, 2)[[24, 29, 47]]).all()
    assert reader._loaded.sum() == 3
    reader.check_inputs([0], [13], seen(ids_of(ROWS)[[13]], 0))
    with pytest.raises(Misaligned):
        reader.check_inputs([0], [12], seen(ids_of(ROWS)[[13]], 0))
    assert reader._loaded.sum() == 4
    assert reader.waited_s < 0.5


def write_slowly(root, replicas, pause):
    entry = work_entry(root)
    for slot in entry.slots(replicas):
        with entry.lease(slot):
            time.sleep(pause)
            entry.commit(shard_of(entry, slot))


def test_a_reader_follows_a_slow_writer_of_another_process(tmp_path, processes):
    entry = work_entry(tmp_path)
    writer = processes.Process(target=write_slowly, args=(tmp_path, 2, 0.1))
    writer.start()
    reader = entry.open(2, follow=True, patience_s=20)
    order = np.random.default_rng(0).permutation(2 * ROWS)
    for rows in np.split(order, 6):
        assert (reader.gather(*np.divmod(rows, ROWS)).numpy() == everything(entry, 2)[rows]).all()
    assert reader.waited_s > 0.5
    writer.join()
    assert writer.exitcode == 0


def test_a_reader_waits_longer_than_its_patience_while_someone_works(tmp_path):
    entry = work_entry(tmp_path)
    writer = threading.Thread(target=write_slowly, args=(tmp_path, 1, 0.25))
    writer.start()
    reader = entry.open(1, follow=True, patience_s=0.15)
    assert (reader.gather([0], [ROWS - 1]).numpy() == everything(entry, 1)[-1]).all()
    writer.join()


def hold_and_commit(root, ready):
    entry = work_entry(root)
    entry.commit(shard_of(entry, Slot(0, 0)))
    with entry.lease(Slot(0, 1)):
        ready.set()
        time.sleep(60)


def test_a_killed_writer_ends_the_wait_and_the_missing_shard_is_named(tmp_path, processes):
    entry, ready = work_entry(tmp_path), processes.Event()
    writer = processes.Process(target=hold_and_commit, args=(tmp_path, ready))
    writer.start()
    ready.wait()
    reader = entry.open(1, follow=True, patience_s=0.5)
    assert (reader.gather([0], [3]).numpy() == everything(entry, 1)[3]).all()
    threading.Timer(0.5, os.kill, (writer.pid, signal.SIGKILL)).start()
    start = time.monotonic()
    with pytest.raises(IncompleteEntry, match=r"lacks Slot\(replica=0, index=1\).* for 0.5 s nothing came"):
        reader.gather([0, 0], [0, 4])
    assert 0.9 < time.monotonic() - start < 10
    writer.join()
    with entry.lease(Slot(0, 1)) as lease:  # and its work is free for others at once
        assert lease.ours()


def test_a_shard_that_comes_from_elsewhere_renews_the_patience(tmp_path):
    entry = work_entry(tmp_path)

    def write():  # without a lease
        for slot in reversed(entry.slots(1)):
            time.sleep(0.3)
            entry.commit(shard_of(entry, slot))

    writer = threading.Thread(target=write)
    writer.start()
    assert entry.open(1, follow=True, patience_s=1.2).gather([0], [0]).shape == (1, 4)
    writer.join()


def test_a_corrupt_shard_is_waited_for_until_it_is_made_anew(tmp_path):
    entry = fill(work_entry(tmp_path), 1)
    path = entry.path / Slot(0, 2).name
    path.write_bytes(path.read_bytes()[:-1])
    reader = entry.open(1, follow=True)
    threading.Timer(0.4, lambda: entry.commit(shard_of(entry, Slot(0, 2)))).start()
    assert (reader.gather([0] * ROWS, range(ROWS)).numpy() == everything(entry, 1)).all()
    assert len(entry.quarantined) == 1
    assert reader.waited_s > 0.3


def test_threads_that_wait_share_the_reader_with_those_that_need_not(tmp_path):
    entry = work_entry(tmp_path)
    entry.commit(shard_of(entry, Slot(0, 0)))
    reader = entry.open(1, follow=True, patience_s=20)
    found = []
    waiting = [threading.Thread(target=lambda: found.append(reader.gather([0], [4]).numpy())) for _ in range(3)]
    for thread in waiting:
        thread.start()
    time.sleep(0.2)
    assert (reader.gather([0], [0]).numpy() == everything(entry, 1)[0]).all()
    assert found == []
    entry.commit(shard_of(entry, Slot(0, 1)))
    for thread in waiting:
        thread.join()
    assert all((each == everything(entry, 1)[4]).all() for each in found)
    assert len(found) == 3


def test_opening_for_reading_is_noted_and_nothing_else_is(tmp_path):
    entry = fill(work_entry(tmp_path), 1)
    shards = max(path.stat().st_mtime for path in entry.path.rglob("*.arrow"))
    entry.missing(1)
    entry.verify()
    assert entry.holdings().last_used == shards
    for follow in (True, False):
        time.sleep(0.05)
        entry.open(1, follow=follow)
        assert shards < entry.holdings().last_used == (entry.path / "used").stat().st_mtime


def test_one_who_may_only_read_reads(tmp_path, monkeypatch):
    entry = fill(work_entry(tmp_path), 1)

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "utime", refuse)
    monkeypatch.setattr(os, "link", refuse)
    assert entry.open(1).gather([0], [0]).shape == (1, 4)


def test_a_reader_notes_its_use_again_and_again(tmp_path):
    entry = fill(entry_of(tmp_path), 1)
    reader = entry.open(1)
    os.utime(entry.path / "used", (1.0, 1.0))
    for slot in entry.path.glob("views/*/*.arrow"):
        os.utime(slot, (1.0, 1.0))
    assert entry.holdings().last_used == 1.0
    reader.note_use()
    assert time.time() - entry.holdings().last_used < 10
