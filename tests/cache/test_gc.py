"""Making room: who goes first, who never goes, and what those notice who are reading."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
from cache_examples import KEY, entry_of, everything, fill

from raykd.cache import Entry, SignalCache, Slot
from raykd.cache.gc import collect
from raykd.cache.pins import pin, unpin

HOUR = 3600.0


def used(entry: Entry, seconds_ago: float) -> Entry:
    """An entry whose every file was last touched so long ago."""
    entry.place.create("used", b"")
    then = time.time() - seconds_ago
    for name in entry.place.files():
        os.utime(entry.path / name, (then, then))
    return entry


def entries_of(root: Path, hours: list[float]) -> list[Entry]:
    """Full entries of the same size that were used so many hours ago."""
    return [used(fill(entry_of(root, key={**KEY, "n": n}), 2), h * HOUR) for n, h in enumerate(hours)]


def names(root: Path) -> set[str]:
    return {entry.key_digest for entry in SignalCache(root).entries()}


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("order", list(itertools.permutations([2.0, 3.0, 4.0])))
def test_the_least_recently_used_go_and_only_as_many_as_must(tmp_path, order):
    entries = entries_of(tmp_path, list(order))
    size = entries[0].holdings().bytes
    oldest_first = [entry.key_digest for _, entry in sorted(zip(order, entries, strict=True), key=lambda p: -p[0])]
    for keep in (3, 2, 1, 0):
        found = collect(SignalCache(tmp_path), keep * size)
        assert found.met
        assert found.bytes == keep * size == sum(e.holdings().bytes for e in SignalCache(tmp_path).entries())
        assert names(tmp_path) == set(oldest_first[3 - keep :])
        assert [held.entry for held in found.aside] == ([] if keep == 3 else [oldest_first[2 - keep]])
        assert found.spared == {}


def test_one_byte_less_than_all_costs_an_entry(tmp_path):
    entries = entries_of(tmp_path, [2, 3])
    assert len(collect(SignalCache(tmp_path), 2 * entries[0].holdings().bytes - 1).aside) == 1


def test_whoever_opens_an_entry_makes_it_the_last_to_go(tmp_path):
    old, new = entries_of(tmp_path, [9, 5])
    entry_of(tmp_path, key={**KEY, "n": 0}).open(2)
    found = collect(SignalCache(tmp_path), old.holdings().bytes, grace_s=0)
    assert [held.entry for held in found.aside] == [new.key_digest]


def test_pinned_leased_and_recent_entries_are_never_collected_whatever_the_budget(tmp_path):
    pinned, leased, recent, other = entries_of(tmp_path, [9, 8, 0.5, 2])
    pin(pinned, "paper")
    with leased.lease(Slot(7, 0)):
        found = collect(SignalCache(tmp_path), 0)
    assert [held.entry for held in found.aside] == [other.key_digest]
    assert found.spared.keys() == {pinned.key_digest, leased.key_digest, recent.key_digest}
    assert found.spared[pinned.key_digest] == "pinned by paper"
    assert found.spared[leased.key_digest] == "someone is filling it"
    assert "used 1" in found.spared[recent.key_digest]
    assert not found.met
    assert found.bytes == 3 * pinned.holdings().bytes
    unpin(pinned, "paper")
    assert {held.entry for held in collect(SignalCache(tmp_path), 0).aside} == {pinned.key_digest, leased.key_digest}


def test_the_lease_of_another_process_counts_until_it_is_killed(tmp_path):
    (entry,) = entries_of(tmp_path, [9])
    code = f"""
import sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
from cache_examples import KEY, entry_of
from raykd.cache import Slot
lease = entry_of({str(tmp_path)!r}, key={{**KEY, "n": 0}}).lease(Slot(0, 0))
print(lease is not None, flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "True\n"
        assert collect(SignalCache(tmp_path), 0).spared == {entry.key_digest: "someone is filling it"}
        process.kill()
        process.wait()
        assert collect(SignalCache(tmp_path), 0).met


def test_an_entry_that_was_just_made_is_not_taken_for_an_old_one(tmp_path):
    entries_of(tmp_path, [2])
    empty = entry_of(tmp_path, key={**KEY, "n": "empty"})
    collect(SignalCache(tmp_path), 0)
    assert names(tmp_path) == {empty.key_digest}


def test_a_dry_run_says_what_would_be_done_and_changes_nothing(tmp_path):
    entries_of(tmp_path, [5, 4, 3, 0])
    size = SignalCache(tmp_path).entries()[0].holdings().bytes
    before = contents(tmp_path)
    for grace in (HOUR, 0.0):
        said = collect(SignalCache(tmp_path), size, grace_s=grace, dry_run=True)
        assert contents(tmp_path) == before
    done = collect(SignalCache(tmp_path), size, grace_s=0.0)
    for each in ("aside", "deleted", "waiting"):
        assert [held.entry for held in getattr(said, each)] == [held.entry for held in getattr(done, each)]
        assert [held.bytes for held in getattr(said, each)] == [held.bytes for held in getattr(done, each)]
    assert (said.spared, said.bytes, said.met) == (done.spared, done.bytes, done.met)


def test_what_was_moved_aside_is_deleted_when_the_grace_period_is_over_and_not_before(tmp_path):
    (entry,) = entries_of(tmp_path, [5])
    size = entry.holdings().bytes
    first = collect(SignalCache(tmp_path), 0)
    assert (first.deleted, [held.bytes for held in first.waiting]) == ([], [size])
    assert abs(first.waiting[0].time - time.time() - HOUR) < 60
    assert collect(SignalCache(tmp_path), 0).waiting == first.waiting
    assert len(list(tmp_path.rglob("*.arrow"))) == 6
    last = collect(SignalCache(tmp_path), 0, grace_s=0)
    assert [(held.entry, held.bytes) for held in last.deleted] == [(entry.key_digest, size)]
    assert last.waiting == []
    assert not list(tmp_path.rglob("*.arrow"))
    assert list((tmp_path / "v1" / ".trash").iterdir()) == []


def test_without_grace_an_entry_is_gone_at_once(tmp_path):
    entries_of(tmp_path, [0.1, 0.2])
    found = collect(SignalCache(tmp_path), 0, grace_s=0)
    assert len(found.deleted) == 2
    assert not list(tmp_path.rglob("*.arrow"))


def test_a_reader_that_is_open_meanwhile_still_reads_right(tmp_path):
    (entry,) = entries_of(tmp_path, [5])
    reader = entry.open(2)
    used(entry, 5 * HOUR)
    collect(SignalCache(tmp_path), 0, grace_s=HOUR)
    collect(SignalCache(tmp_path), 0, grace_s=0)
    assert not list(tmp_path.rglob("*.arrow"))
    replicas, positions = np.divmod(np.arange(2 * entry.rows), entry.rows)
    assert np.array_equal(reader.gather(replicas, positions).numpy(), everything(entry, 2))


def test_what_was_collected_can_be_filled_anew_while_its_old_shards_wait(tmp_path):
    entries_of(tmp_path, [5])
    collect(SignalCache(tmp_path), 0)
    entry = entry_of(tmp_path, key={**KEY, "n": 0})
    assert len(entry.missing(2)) == 6
    fill(entry, 2)
    assert collect(SignalCache(tmp_path), 10**9, grace_s=0).deleted
    assert entry.verify().shards == 6


def test_files_of_others_in_the_trash_are_left_alone(tmp_path):
    entries_of(tmp_path, [5])
    collect(SignalCache(tmp_path), 0)
    (tmp_path / "v1" / ".trash" / "mine").touch()
    assert len(collect(SignalCache(tmp_path), 0, grace_s=0).deleted) == 1
    assert (tmp_path / "v1" / ".trash" / "mine").exists()


@pytest.mark.parametrize(("budget", "grace"), [(-1, 0.0), (0, -1.0)])
def test_a_negative_budget_or_grace_period_is_refused(tmp_path, budget, grace):
    with pytest.raises(ValueError, match="0 or more"):
        collect(SignalCache(tmp_path), budget, grace_s=grace)


def test_an_empty_cache_fits_anything(tmp_path):
    assert collect(SignalCache(tmp_path / "none"), 0).met


GRACE = 0.4


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of a cache in a bucket."""
    monkeypatch.setenv("RAYKD_STAGING", str(tmp_path))
    url = f"memory://bucket-{tmp_path.name}/cache"
    yield url
    fsspec.filesystem("memory").store.clear()


def test_in_a_bucket_an_entry_goes_in_two_steps_too(bucket):
    entry = fill(entry_of(bucket), 2)
    reader = entry.open(2)
    assert collect(SignalCache(bucket), 0, grace_s=60).spared
    time.sleep(GRACE)
    first = collect(SignalCache(bucket), 0, grace_s=GRACE)
    assert SignalCache(bucket).entries() == []
    assert [held.bytes for held in first.waiting] == [held.bytes for held in first.aside]
    assert entry.verify().shards == 6
    time.sleep(GRACE)
    assert collect(SignalCache(bucket), 0, grace_s=GRACE).deleted == first.waiting
    assert SignalCache(bucket).place.files("v1") == {}
    replicas, positions = np.divmod(np.arange(2 * entry.rows), entry.rows)
    assert np.array_equal(reader.gather(replicas, positions).numpy(), everything(entry, 2))


def test_in_a_bucket_whoever_asks_for_an_entry_in_time_has_it_back_with_its_shards(bucket):
    fill(entry_of(bucket), 2)
    time.sleep(GRACE)
    collect(SignalCache(bucket), 0, grace_s=GRACE)
    assert entry_of(bucket).missing(2) == []
    time.sleep(GRACE)
    found = collect(SignalCache(bucket), 10**9, grace_s=GRACE)
    assert [held.bytes for held in found.deleted] == [0]
    assert entry_of(bucket).verify().shards == 6
    assert SignalCache(bucket).place.names("v1/.trash") == set()
