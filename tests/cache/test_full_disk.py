"""A disk that is full: an error that names the file, nothing torn, nothing left behind; and all is well once there is room."""

import errno
import os
import subprocess

import numpy as np
import pytest
from cache_examples import entry_of, everything, fill, read, shard_of

from raykd.cache import Slot


@pytest.fixture
def tiny(tmp_path):
    """A file system of 256 kB."""
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", tmp_path], capture_output=True, text=True
    )
    if mount.returncode:
        pytest.skip(f"cannot mount a tmpfs: {mount.stderr.strip()}")
    yield tmp_path
    subprocess.run(["umount", "-l", tmp_path], check=True)


def test_a_commit_to_a_full_disk_names_the_file_and_leaves_nothing(tiny):
    entry = entry_of(tiny, rows=400, width=256, rows_per_shard=40)
    committed = []
    with pytest.raises(OSError, match=r"cannot commit .* bytes: No space left on device") as caught:  # noqa: PT012
        for slot in entry.slots(2):
            entry.commit(shard_of(entry, slot))
            committed.append(slot)
    failed = entry.slots(2)[len(committed)]
    assert committed
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(entry.path / failed.name)
    assert list(tiny.rglob(".*")) == []
    assert entry.missing(2) == entry.slots(2)[len(committed) :]
    assert entry.quarantined == []
    subprocess.run(["mount", "-o", "remount,size=4m", tiny], check=True)
    assert (read(fill(entry, 2), 2) == everything(entry, 2)).all()


def test_a_full_disk_still_lets_others_read(tiny):
    entry = fill(entry_of(tiny, rows=40, width=16, rows_per_shard=8), 1)
    with pytest.raises(OSError, match="No space"), (tiny / "rest").open("wb", buffering=0) as file:  # noqa: PT012
        while True:
            file.write(bytes(4096))
    assert (entry.open(1).gather([0] * 40, range(40)).numpy() == everything(entry, 1)).all()
    with pytest.raises(OSError, match="leases"):
        entry.lease(Slot(1, 0))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS])
def test_any_error_of_a_commit_names_the_file(tmp_path, monkeypatch, number):
    entry = entry_of(tmp_path)
    shard = shard_of(entry, Slot(0, 0))

    def fail(descriptor, data):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "write", fail)
    with pytest.raises(OSError, match=os.strerror(number)) as caught:
        entry.commit(shard)
    monkeypatch.undo()
    assert caught.value.filename == str(entry.path / Slot(0, 0).name)
    assert [path.name for path in entry.path.rglob("*") if path.is_file()] == ["entry.json"]
    assert entry.commit(shard)
    assert np.array_equal(entry.shards.read(Slot(0, 0)).ids_R, shard.ids_R)
