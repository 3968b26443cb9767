"""Damage as a disk does it, in the file and unseen by its status: `benchmarks/fuzz.py`, small."""

import os
import random

import pytest
from cache_examples import entry_of, everything, fill, read

from raykd.cache import IncompleteEntry, Slot

PAGE, SECTOR = 4096, 512


def work_entry(root):
    return entry_of(root, rows=250, width=300, rows_per_shard=64)


def rot(path, data):
    """Other bytes in the same file, of the same size and time."""
    status = path.stat()
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_ino == status.st_ino


def flipped(good, old, generator):
    bad = bytearray(good)
    bad[generator.randrange(len(bad))] ^= 1 << generator.randrange(8)
    return bytes(bad)


def duplicated_page(good, old, generator):
    a, b = generator.sample(range(0, len(good) - PAGE, PAGE), 2)
    return good[:a] + good[b : b + PAGE] + good[a + PAGE :]


def stale_sector(good, old, generator):
    start = generator.randrange(0, len(good) - SECTOR, SECTOR)
    return good[:start] + old[start : start + SECTOR] + good[start + SECTOR :]


def opens(entry):
    with pytest.raises(IncompleteEntry):
        entry.open(2)
    return entry.absent(2)


def verifies(entry):
    entry.verify()
    return entry.absent(2)


@pytest.mark.parametrize("damage", [flipped, duplicated_page, stale_sector])
@pytest.mark.parametrize("ask", [lambda entry: entry.missing(2), opens, verifies])
def test_half_of_the_shards_rot_and_exactly_these_are_found(tmp_path, damage, ask):
    generator = random.Random(0)
    entry = fill(work_entry(tmp_path), 2)
    slots = entry.slots(2)
    for _ in range(5):
        rotten = sorted(generator.sample(slots, 4))
        for slot in rotten:
            path = entry.path / slot.name
            old = (entry.path / Slot(1 - slot.replica, slot.index).name).read_bytes()
            rot(path, damage(path.read_bytes(), old, generator))
        later = work_entry(tmp_path)
        assert ask(later) == rotten
        assert len(later.quarantined) == 4
        assert (read(fill(entry, 2), 2) == everything(entry, 2)).all()


def test_whoever_has_read_a_shard_verifies_it_anew(tmp_path):
    entry = fill(work_entry(tmp_path), 1)
    assert entry.missing(1) == []
    path = entry.path / Slot(0, 2).name
    rot(path, flipped(path.read_bytes(), b"", random.Random(0)))
    assert [name.partition(".corrupt-")[0] for name in entry.verify().corrupt] == [str(path)]
    assert entry.missing(1) == [Slot(0, 2)]
