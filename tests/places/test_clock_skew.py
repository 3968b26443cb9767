"""Machines whose clocks are wrong: leases are judged by the clock of the place, so nobody loses or steals one.

Each other machine is a process whose clocks are an hour ahead or behind, and which passes for another machine, so that only
time can tell whether its leases are alive.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import drawer  # noqa: F401  the place "drawer://"
import pytest

from raykd.places import Folder, Lease, Place, held, live, place
from raykd.places import lease as leases

HOUR = 3600.0
NAME = "leases/a"
BEAT_S, EXPIRY_S = 0.1, 2.0


def elsewhere(skew: float) -> None:
    """This process becomes one of another machine, whose clock is wrong by so many seconds."""
    real, real_ns = time.time, time.time_ns
    time.time = lambda: real() + skew  # type: ignore[assignment]
    time.time_ns = lambda: real_ns() + int(skew * 1e9)  # type: ignore[assignment]
    leases._machine = lambda: f"skewed by {skew}"  # type: ignore[assignment]


def holder(skew: float, address: str, ready: Any, over: Any, results: Any) -> None:
    elsewhere(skew)
    with Lease.acquire(place(address), NAME, beat_s=BEAT_S) as lease:  # type: ignore[union-attr]
        ready.set()
        over.wait(60)
        results.put(lease.ours())


def thief(skew: float, address: str, seconds: float, results: Any) -> None:
    """Tries to take the lease again and again."""
    elsewhere(skew)
    somewhere, end = place(address), time.monotonic() + seconds
    taken = False
    while time.monotonic() < end:
        taken = taken or Lease.acquire(somewhere, NAME, expiry_s=EXPIRY_S) is not None
        seen = held(somewhere, NAME, expiry_s=EXPIRY_S), live(somewhere, "leases", expiry_s=EXPIRY_S)
        taken = taken or seen != (True, True)
        time.sleep(0.05)
    results.put(taken)


@pytest.fixture(params=["folder", "bucket"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "place") if request.param == "folder" else f"drawer://{tmp_path}/place"


@pytest.mark.parametrize("skew", [HOUR, -HOUR], ids=["ahead", "behind"])
def test_a_machine_with_a_wrong_clock_neither_loses_its_lease_nor_steals(
    address: str, skew: float, processes: Any
) -> None:
    ready, over, results = processes.Event(), processes.Event(), processes.SimpleQueue()
    other = processes.Process(target=holder, args=(skew, address, ready, over, results))
    other.start()
    assert ready.wait(60)
    theirs = processes.SimpleQueue()
    third = processes.Process(target=thief, args=(-skew, address, 1.5 * EXPIRY_S, theirs))
    third.start()
    end = time.monotonic() + 1.5 * EXPIRY_S
    while time.monotonic() < end:  # longer than it lives untouched
        assert Lease.acquire(place(address), NAME, expiry_s=EXPIRY_S) is None
        assert held(place(address), NAME, expiry_s=EXPIRY_S)
        time.sleep(0.05)
    assert theirs.get() is False
    over.set()
    assert results.get() is True
    for process in (other, third):
        process.join()
    assert not held(place(address), NAME)


@pytest.mark.parametrize("skew", [HOUR, -HOUR], ids=["ahead", "behind"])
def test_a_lease_of_one_that_is_gone_expires_for_every_clock(
    address: str, skew: float, processes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    somewhere = place(address)
    lease = Lease.acquire(somewhere, NAME, beat_s=1000)
    assert lease is not None
    results = processes.SimpleQueue()
    taker = processes.Process(target=take, args=(skew, address, results))
    began = time.monotonic()
    taker.start()
    assert results.get() is True
    taker.join()
    assert time.monotonic() - began >= EXPIRY_S / 2
    lease.release()


def take(skew: float, address: str, results: Any) -> None:
    """Takes the lease as soon as it expires."""
    elsewhere(skew)
    somewhere, end = place(address), time.monotonic() + 30
    while (lease := Lease.acquire(somewhere, NAME, expiry_s=EXPIRY_S)) is None and time.monotonic() < end:
        time.sleep(0.05)
    results.put(lease is not None and lease.ours())


def test_a_clock_that_is_days_ahead_sweeps_away_nothing_that_is_being_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    somewhere: Place = Folder(tmp_path)
    young, old = Folder(tmp_path).temporary("young"), Folder(tmp_path).temporary("old")
    for path in (young, old):
        path.write_bytes(b"half")
    two_days_ago = time.time() - 48 * HOUR
    os.utime(old, (two_days_ago, two_days_ago))
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 100 * HOUR)
    somewhere.sweep("")
    assert young.exists()
    assert not old.exists()
