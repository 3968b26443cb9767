"""Leases: one holder at a time, and none for long after its holder is gone. Real processes, really killed."""

import json
import os
import pickle
import secrets
import signal
import threading
import time
from pathlib import Path

import pytest

from raykd.places import Folder, Lease, Status, held, live, place
from raykd.places import lease as leases

NAME = "leases/00000-00000003"


@pytest.fixture(params=["folder", "memory"])
def somewhere(request, tmp_path):
    return place(tmp_path if request.param == "folder" else f"memory://{secrets.token_hex(8)}")


def elsewhere(lease):
    """The same lease as one that a process of another machine holds."""
    text = json.dumps({**json.loads(lease.text), "machine": "another"}).encode()
    lease.release()
    assert lease.place.create(lease.name, text)


def test_one_holds_it_until_it_is_released(somewhere):
    with Lease.acquire(somewhere, NAME, "test") as lease:
        assert held(somewhere, NAME)
        assert live(somewhere, "leases")
        assert lease.ours()
        assert Lease.acquire(somewhere, NAME) is None
        assert Lease.acquire(somewhere, "leases/another") is not None
    assert not held(somewhere, NAME)
    lease.release()
    again = Lease.acquire(somewhere, NAME)
    lease.release()
    assert again.ours()
    again.release()


def test_nothing_is_held_where_nothing_is(somewhere):
    assert not held(somewhere, NAME)
    assert not live(somewhere, "leases")


def test_it_is_released_when_the_work_fails(somewhere):
    with pytest.raises(RuntimeError), Lease.acquire(somewhere, NAME):
        raise RuntimeError
    assert not live(somewhere, "leases")


def test_it_outlives_its_expiry_while_its_holder_lives(somewhere):
    lease = Lease.acquire(somewhere, NAME, beat_s=0.05)
    elsewhere_too = Lease.acquire(somewhere, "leases/b", beat_s=0.05)
    time.sleep(0.5)
    assert held(somewhere, NAME, expiry_s=0.3)
    assert Lease.acquire(somewhere, NAME, expiry_s=0.3) is None
    assert [thread.name for thread in threading.enumerate()].count("leases") == 1
    lease.release()
    elsewhere_too.release()


def test_one_that_is_not_touched_expires_and_is_taken_over(somewhere):
    elsewhere(Lease.acquire(somewhere, NAME))
    assert held(somewhere, NAME)
    time.sleep(0.3)
    assert held(somewhere, NAME)
    assert not held(somewhere, NAME, expiry_s=0.2)
    assert not live(somewhere, "leases", expiry_s=0.2)
    with Lease.acquire(somewhere, NAME, expiry_s=0.2) as lease:
        assert lease.ours()
        assert list(somewhere.files()) == [NAME]


def test_one_taken_over_is_not_released_or_kept_alive_by_its_old_owner(somewhere, monkeypatch):
    old = Lease.acquire(somewhere, NAME, beat_s=0.02)
    monkeypatch.setattr(leases, "_gone", lambda text: True)  # as another machine thinks after a long pause of this one
    new = Lease.acquire(somewhere, NAME, beat_s=100)
    monkeypatch.undo()
    assert new.ours()
    assert not old.ours()
    before = somewhere.status(NAME).modified
    time.sleep(0.2)
    assert somewhere.status(NAME).modified - before < 0.1
    old.release()
    assert new.ours()
    new.release()
    assert not somewhere.exists(NAME)


class Skewed(Folder):
    """A file server whose clock is an hour behind this machine's."""

    def now(self) -> float:
        return super().now() - 3600

    def status(self, name: str) -> Status | None:
        found = super().status(name)
        return found and Status(found.size, found.modified - 3600)


def test_a_machine_with_a_wrong_clock_judges_by_the_clock_of_the_place(tmp_path):
    somewhere = Skewed(tmp_path)
    elsewhere(Lease.acquire(somewhere, NAME))
    assert held(somewhere, NAME)
    assert Lease.acquire(somewhere, NAME) is None
    os.utime(tmp_path / NAME, (time.time() - 31,) * 2)
    assert not held(somewhere, NAME)
    with Lease.acquire(somewhere, NAME) as lease:
        assert lease.ours()


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"3", b"{}", b"\xff", bytes(10_000), b'{"machine": 1, "pid": [], "start": 0}']
)
def test_what_is_no_lease_of_ours_counts_until_it_expires(tmp_path, text):
    Folder(tmp_path).create(NAME, text)
    assert Lease.acquire(Folder(tmp_path), NAME) is None
    os.utime(tmp_path / NAME, (time.time() - 31,) * 2)
    with Lease.acquire(Folder(tmp_path), NAME):
        pass


def test_a_thief_that_finds_another_lease_than_it_judged_puts_it_back(tmp_path, monkeypatch):
    somewhere = Folder(tmp_path)
    elsewhere(Lease.acquire(somewhere, NAME))
    os.utime(tmp_path / NAME, (time.time() - 31,) * 2)
    rename = Folder.rename

    def late(self, name, new):  # between its look and its rename another thief was there
        monkeypatch.setattr(Folder, "rename", rename)
        quick.append(Lease.acquire(somewhere, NAME))
        return rename(self, name, new)

    quick: list[Lease] = []
    monkeypatch.setattr(Folder, "rename", late)
    assert Lease.acquire(somewhere, NAME) is None
    assert quick[0].ours()
    assert list(somewhere.files()) == [NAME]
    quick[0].release()


def compete(root, barrier, results):
    barrier.wait()
    lease = Lease.acquire(Folder(Path(root)), NAME)
    results.put(lease is not None)
    barrier.wait()
    if lease:
        lease.release()


@pytest.mark.parametrize(("number", "stale"), [(4, False), (2, True)])
def test_of_several_processes_exactly_one_gets_it(tmp_path, processes, number, stale):
    for round_ in range(3):
        root = tmp_path / str(round_)
        if stale:
            elsewhere(Lease.acquire(Folder(root), NAME))
            os.utime(root / NAME, (time.time() - 31,) * 2)
        barrier, results = processes.Barrier(number), processes.SimpleQueue()
        workers = [processes.Process(target=compete, args=(root, barrier, results)) for _ in range(number)]
        for worker in workers:
            worker.start()
        assert sum(results.get() for _ in workers) == 1
        for worker in workers:
            worker.join()
        assert not (root / NAME).exists()


def hold(root, ready):
    with Lease.acquire(Folder(Path(root)), NAME):
        ready.set()
        time.sleep(60)


@pytest.mark.parametrize("reaped", [True, False])
def test_a_killed_holder_has_lost_it_at_once_on_its_own_machine(tmp_path, processes, reaped):
    ready = processes.Event()
    holder = processes.Process(target=hold, args=(tmp_path, ready))
    holder.start()
    ready.wait()
    assert Lease.acquire(Folder(tmp_path), NAME) is None
    os.kill(holder.pid, signal.SIGKILL)
    if reaped:
        holder.join()
    deadline = time.monotonic() + 5
    while (lease := Lease.acquire(Folder(tmp_path), NAME)) is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert lease.ours()
    lease.release()
    holder.join()


def test_a_killed_holder_of_another_machine_has_lost_it_when_it_expires(tmp_path, processes, monkeypatch):
    ready = processes.Event()
    holder = processes.Process(target=hold, args=(tmp_path, ready))
    holder.start()
    ready.wait()
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    monkeypatch.setattr(leases, "_machine", lambda: "another")
    assert Lease.acquire(Folder(tmp_path), NAME) is None
    time.sleep(0.3)
    with Lease.acquire(Folder(tmp_path), NAME, expiry_s=0.2):
        pass


def test_a_pid_that_is_used_again_is_another_process(tmp_path):
    lease = Lease.acquire(Folder(tmp_path), NAME)
    text = json.loads(lease.text)
    lease.release()
    Folder(tmp_path).create(NAME, json.dumps({**text, "start": text["start"] - 1}).encode())
    assert not held(Folder(tmp_path), NAME)


def test_a_fork_inherits_nothing(tmp_path):
    lease = Lease.acquire(Folder(tmp_path), NAME, beat_s=0.05)
    child = os.fork()
    if child == 0:
        try:
            lease.release()
            other = Lease.acquire(Folder(tmp_path), "leases/child", beat_s=0.05)
            time.sleep(0.3)
            fine = other is not None and held(Folder(tmp_path), "leases/child", expiry_s=0.2) and lease.ours()
        finally:
            os._exit(0 if fine else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert held(Folder(tmp_path), NAME)
    assert not held(Folder(tmp_path), "leases/child")
    lease.release()


def test_it_cannot_be_pickled(tmp_path):
    with Lease.acquire(Folder(tmp_path), NAME) as lease, pytest.raises(TypeError, match="acquires its own"):
        pickle.dumps(lease)


def test_a_storage_that_fails_for_a_while_costs_a_beat_and_no_more(tmp_path, monkeypatch):
    lease = Lease.acquire(Folder(tmp_path), NAME, beat_s=0.05)

    def fail(self, name):
        raise RuntimeError("a connection of some library was reset")

    monkeypatch.setattr(Folder, "touch", fail)
    time.sleep(0.2)
    monkeypatch.undo()
    before = (tmp_path / NAME).stat().st_mtime
    time.sleep(0.2)
    assert (tmp_path / NAME).stat().st_mtime > before
    lease.release()


def test_a_touch_that_writes_does_not_bring_back_what_is_released_meanwhile(tmp_path, monkeypatch):
    begun, ended = threading.Event(), threading.Event()

    def write(self, name):  # as a bucket does
        text = (self.root / name).read_bytes()
        begun.set()
        time.sleep(0.2)
        (self.root / name).write_bytes(text)
        ended.set()
        return True

    monkeypatch.setattr(Folder, "touch", write)
    lease = Lease.acquire(Folder(tmp_path), NAME, beat_s=0.05)
    assert begun.wait(10)
    lease.release()
    assert ended.wait(10)
    assert not held(Folder(tmp_path), NAME)
