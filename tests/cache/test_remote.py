"""An entry in a bucket is an entry: filled, followed, verified, quarantined; read by way of copies on this node."""

import logging
import multiprocessing
import os
import pickle
import secrets
import threading

import drawer  # noqa: F401
import numpy as np
import pytest
from cache_examples import KEY, entry_of, everything, fill, ids_of, read, rounded, said, shard_of
from s3_server import bucket

from raykd.cache import ForeignEntry, IncompleteEntry, SignalCache, Slot


@pytest.fixture
def staging(tmp_path, monkeypatch):
    monkeypatch.setenv("RAYKD_STAGING", str(tmp_path / "staging"))
    return tmp_path / "staging" / f"raykd-{os.getuid()}"


@pytest.fixture(params=["memory", "drawer", "s3"])
def root(request, tmp_path, staging, monkeypatch):
    if request.param == "s3":
        with bucket(monkeypatch) as url:
            yield url
    else:
        yield f"memory://{secrets.token_hex(8)}" if request.param == "memory" else f"drawer://{tmp_path}/bucket"


def damage(entry, slot):
    data = bytearray(entry.place.read(slot.name, limit=1 << 20))
    data[len(data) // 2] ^= 1
    entry.place.remove(slot.name)
    entry.place.create(slot.name, data)


def copies(staging):
    return sorted(path for path in staging.rglob("*") if path.is_file() and path.name != ".lock")


def test_an_entry_is_filled_and_read_back(root):
    entry = entry_of(root)
    assert entry.missing(2) == entry.absent(2) == entry.slots(2)
    with pytest.raises(IncompleteEntry, match=f"{root}.*6 of 6 shards"):
        entry.open(2)
    assert (read(fill(entry, 2), 2) == everything(entry, 2)).all()
    assert entry_of(root).missing(2) == []
    names = {"entry.json", "used", *(slot.name for slot in entry.slots(2))}
    assert set(entry.place.files()) == names
    assert str(entry.place) == f"{root}/v1/{entry.key_digest[:2]}/{entry.key_digest}"
    with pytest.raises(ValueError, match=f"{root}.* is no folder"):
        _ = entry.path


def test_its_files_are_those_of_a_folder(root, tmp_path):
    remote, local = fill(entry_of(root), 2), fill(entry_of(tmp_path / "local"), 2)
    for slot in local.slots(2):
        assert remote.place.read(slot.name, limit=1 << 20) == (local.path / slot.name).read_bytes()


def test_a_slot_is_written_once(root):
    entry = entry_of(root)
    assert entry.commit(shard_of(entry, Slot(0, 1)))
    first = entry.place.read(Slot(0, 1).name, limit=1 << 20)
    assert not entry.commit(shard_of(entry, Slot(0, 1), shift=1))
    assert not entry.place.create(Slot(0, 1).name, b"other")
    assert entry.place.read(Slot(0, 1).name, limit=1 << 20) == first


def test_entries_are_listed_verified_and_dated(root, caplog):
    entry = fill(entry_of(root), 2)
    other = entry_of(root, width=5)
    foreign = entry_of(root, width=6)
    foreign.place.remove("entry.json")
    foreign.place.create("entry.json", b"{")
    listed = {each.key_digest: each for each in SignalCache(root).entries()}
    assert listed.keys() == {entry.key_digest, other.key_digest}
    assert str(foreign.place) in caplog.text
    holdings = listed[entry.key_digest].holdings()
    assert (holdings.shards, holdings.complete) == ({0: 3, 1: 3}, [0, 1])
    assert abs(holdings.last_used - entry.place.now()) < 5
    report = listed[entry.key_digest].verify()
    assert (report.shards, report.rows, report.bytes, report.corrupt) == (6, 20, holdings.bytes, [])
    with pytest.raises(ForeignEntry, match="move the folder away"):
        entry_of(root, width=6)


def test_a_corrupt_shard_is_quarantined_in_the_bucket_and_made_anew(root, staging, caplog):
    entry = fill(entry_of(root), 1)
    damage(entry, Slot(0, 1))
    assert entry.missing(1) == [Slot(0, 1)]
    assert entry.quarantined[0].startswith(f"{entry.place}/views/00000/00000001.arrow.corrupt-")
    assert f"{entry.place}/views/00000/00000001.arrow is corrupt" in caplog.text
    assert not entry.place.exists(Slot(0, 1).name)
    assert len(copies(staging)) == 2
    assert (read(fill(entry, 1), 1) == everything(entry, 1)).all()


def test_a_copy_that_went_bad_on_this_node_is_fetched_again_and_the_bucket_left_alone(root, staging, caplog):
    entry = fill(entry_of(root), 1)
    assert (read(entry, 1) == everything(entry, 1)).all()
    for path in copies(staging):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    caplog.set_level(logging.WARNING)
    assert (read(entry_of(root), 1) == everything(entry, 1)).all()
    assert caplog.text == ""
    assert len(entry.place.files("views")) == 3


def test_what_the_bucket_lost_is_missing_although_a_copy_is_here(root):
    entry = fill(entry_of(root), 1)
    entry.open(1)
    entry.place.remove(Slot(0, 2).name)
    assert entry.missing(1) == entry.absent(1) == [Slot(0, 2)]
    with pytest.raises(IncompleteEntry):
        entry.open(1)


def test_leases_and_following_work_as_in_a_folder(root):
    entry, other = entry_of(root), entry_of(root)
    with entry.lease(Slot(0, 0)):
        assert other.lease(Slot(0, 0)) is None
        assert other.busy(Slot(0, 0))
        assert other.working()
    assert not other.working()
    reader = entry.open(1, follow=True, patience_s=20)
    threading.Timer(0.2, fill, (other, 1)).start()
    assert (reader.gather([0] * 10, range(10)).numpy() == everything(entry, 1)).all()
    assert reader.waited_s > 0.1


def test_an_entry_travels_to_another_process(root):
    entry = fill(entry_of(root), 1)
    twin = pickle.loads(pickle.dumps(entry))
    assert twin.missing(2) == entry.missing(2)
    assert twin.place == entry.place


def compete(root, number, barrier, results):
    entry = SignalCache(root).entry(KEY, ids_N=ids_of(96), shape=(4,), rows_per_shard=8 + number)
    barrier.wait()
    results.put((number, [slot for slot in entry.slots(2) if entry.commit(shard_of(entry, slot, shift=number))]))


def test_of_several_processes_exactly_one_commits_each_slot(tmp_path, staging):
    processes = multiprocessing.get_context("forkserver")
    root, barrier, results = f"drawer://{tmp_path}/bucket", processes.Barrier(3), processes.SimpleQueue()
    writers = [processes.Process(target=compete, args=(root, number, barrier, results)) for number in range(3)]
    for writer in writers:
        writer.start()
    wins = [results.get() for _ in writers]
    for writer in writers:
        writer.join()
    entry = entry_of(root, rows=96)
    assert sorted(slot for _, slots in wins for slot in slots) == entry.slots(2)
    values = read(entry, 2).reshape(2, 96, 4)
    for number, slots in wins:
        for slot in slots:
            part = entry.positions(slot)
            right = said(ids_of(96)[part.start : part.stop], slot.replica, 4) + np.float32(number)
            assert (values[slot.replica, part.start : part.stop] == rounded(right)).all()
