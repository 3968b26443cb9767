"""Pins keep an entry, and a name finds one entry or says which there are."""

from __future__ import annotations

import pytest
from cache_examples import KEY, entry_of

from raykd.cache import SignalCache
from raykd.cache.pins import find, pin, pins, unpin


def test_an_entry_is_pinned_as_long_as_anybody_pins_it(tmp_path):
    entry = entry_of(tmp_path)
    assert pins(entry) == []
    assert pin(entry, "paper-2")
    assert not pin(entry, "paper-2")
    assert pin(entry, "ann")
    assert pins(entry) == ["ann", "paper-2"]
    unpin(entry, "paper-2")
    assert pins(entry) == ["ann"]


def test_a_pin_that_is_not_there_is_refused_with_those_that_are(tmp_path):
    entry = entry_of(tmp_path)
    with pytest.raises(ValueError, match="nobody pins it"):
        unpin(entry, "ann")
    pin(entry, "bob")
    with pytest.raises(ValueError, match="'ann': it is pinned as bob"):
        unpin(entry, "ann")


@pytest.mark.parametrize("name", ["", ".", "..", "../../entry", "a/b", "a b", "-x" * 60, "ä", "a\n"])
def test_a_name_that_is_no_name_is_refused_and_writes_nothing(tmp_path, name):
    entry = entry_of(tmp_path)
    with pytest.raises(ValueError, match="letters, digits"):
        pin(entry, name)
    assert not entry.place.files("refs")


def test_files_that_are_no_pins_pin_nothing(tmp_path):
    entry = entry_of(tmp_path)
    (entry.path / "refs").mkdir()
    (entry.path / "refs" / ".hidden.json").touch()
    (entry.path / "refs" / "note.txt").touch()
    assert pins(entry) == []


def test_an_entry_is_found_by_as_many_digits_as_tell_it_from_the_others(tmp_path):
    cache = SignalCache(tmp_path)
    names = sorted(entry_of(tmp_path, key={**KEY, "n": n}).key_digest for n in range(20))
    for name in names:
        assert find(cache, name).key_digest == name
    twins = [name for name in names if name[0] == names[0][0]]
    while len(twins) < 2:  # 20 names begin with one of 16 digits, so some two share it
        twins = next([m for m in names if m[0] == n[0]] for n in names if sum(m[0] == n[0] for m in names) > 1)
    with pytest.raises(ValueError, match=f"{len(twins)} entries begin with '{twins[0][0]}'.*{twins[0][:12]}"):
        find(cache, twins[0][0])
    for wrong in ("", "zz", names[0] + "0"):
        with pytest.raises(ValueError, match="no entry of"):
            find(cache, wrong)
    with pytest.raises(ValueError, match="there are none"):
        find(SignalCache(tmp_path / "empty"), "ab")
