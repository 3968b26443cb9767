import errno
import os
import time

import pytest

from raykd.places import Folder
from raykd.places.folder import DAY


def test_the_first_to_create_wins_and_its_bytes_stay(tmp_path):
    path = tmp_path / "a" / "b" / "name"
    assert Folder(tmp_path).create("a/b/name", b"first")
    assert not Folder(tmp_path).create("a/b/name", b"second")
    assert path.read_bytes() == b"first"
    assert [p.name for p in path.parent.iterdir()] == ["name"]


@pytest.mark.parametrize("call", ["write", "fsync", "link", "open"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_failing_disk_leaves_nothing_and_the_error_names_the_file(tmp_path, monkeypatch, call, number):
    path = tmp_path / "name"

    def fail(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match="cannot commit 5 bytes") as caught:
        Folder(tmp_path).create("name", b"bytes")
    monkeypatch.undo()
    assert caught.value.errno == number
    assert caught.value.filename == str(path)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_half_way_leaves_nothing(tmp_path, monkeypatch):
    write, calls = os.write, []

    def half(descriptor, data):
        calls.append(len(data))
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data[: len(data) // 2])

    monkeypatch.setattr(os, "write", half)
    with pytest.raises(OSError, match="No space left"):
        Folder(tmp_path).create("name", bytes(1000))
    assert calls == [1000, 500, 250]
    assert list(tmp_path.iterdir()) == []


def test_short_writes_are_continued(tmp_path, monkeypatch):
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:7]))
    data = bytes(range(256))
    assert Folder(tmp_path).create("name", data)
    assert (tmp_path / "name").read_bytes() == data


def test_a_folder_that_cannot_be_made_is_an_error_and_not_a_lost_race(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="cannot commit"):
        Folder(tmp_path).create("file/name", b"bytes")


def test_only_regular_files_of_a_possible_size_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")  # an open would wait for a writer for ever
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    (tmp_path / "long").write_bytes(bytes(11))
    for name, reason in {"pipe": "regular", "link": "regular", "long": "11 bytes, more than the 10"}.items():
        with pytest.raises(ValueError, match=reason):
            Folder(tmp_path).read(name, limit=10)
    with pytest.raises(ValueError, match="regular"):
        Folder(tmp_path).read("", limit=10)
    with pytest.raises(FileNotFoundError):
        Folder(tmp_path).read("absent", limit=10)
    assert Folder(tmp_path).read("long", limit=11) == bytes(11)


def test_only_old_temporary_files_are_swept(tmp_path):
    old, young, final = tmp_path / ".shard.1-a.tmp", tmp_path / ".shard.2-b.tmp", tmp_path / "shard.arrow"
    for path in (old, young, final):
        path.write_bytes(b"")
    for path in (old, final):
        os.utime(path, (time.time() - 2 * DAY,) * 2)
    Folder(tmp_path).sweep("")
    Folder(tmp_path).sweep("absent")
    assert sorted(p.name for p in tmp_path.iterdir()) == [young.name, final.name]
