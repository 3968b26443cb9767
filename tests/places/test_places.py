"""The family of places: laws that a folder and every kind of bucket keep."""

import os
import pickle
import secrets
import time

import drawer  # noqa: F401
import pytest
from s3_server import bucket

from raykd.places import Bucket, Folder, place

KINDS = ["folder", "memory", "drawer", "s3"]


@pytest.fixture(params=KINDS)
def somewhere(request, tmp_path, monkeypatch):
    monkeypatch.setenv("RAYKD_STAGING", str(tmp_path / "staging"))
    addresses = {
        "folder": str(tmp_path / "place"),
        "memory": f"memory://{secrets.token_hex(8)}/place",
        "drawer": f"drawer://{tmp_path}/place",
    }
    if request.param in addresses:
        yield place(addresses[request.param])
    else:
        with bucket(monkeypatch) as url:
            yield place(f"{url}/place")


def test_the_address_says_which_kind_it_is(tmp_path):
    assert place(tmp_path) == place(str(tmp_path)) == place(f"file://{tmp_path}") == place(f"local://{tmp_path}")
    assert isinstance(place(tmp_path), Folder)
    assert place("memory://a/b/") == Bucket("memory://a/b")


def test_nothing_is_there_and_nothing_made_before_the_first_create(somewhere, tmp_path):
    assert somewhere.names() == set()
    assert somewhere.files("a/b") == {}
    assert somewhere.status("a") is None
    assert not somewhere.exists("a")
    assert not somewhere.touch("a")
    assert not somewhere.rename("a", "b")
    somewhere.remove("a")
    somewhere.sweep("a")
    with pytest.raises(FileNotFoundError):
        somewhere.read("a", limit=10)
    with pytest.raises(FileNotFoundError):
        somewhere.local("a", lambda file: None, limit=10)
    assert list(tmp_path.iterdir()) == []


def test_the_first_to_create_wins_and_its_bytes_stay(somewhere):
    assert somewhere.create("a/b/name", b"first")
    assert not somewhere.create("a/b/name", bytearray(b"second"))
    assert somewhere.read("a/b/name", limit=5) == b"first"
    assert somewhere.exists("a/b/name")
    assert somewhere.create("a/b/empty", b"")
    assert somewhere.status("a/b/empty").size == 0


def test_names_are_those_directly_under_and_files_all_of_them(somewhere):
    for name in ("x", "a/y", "a/b/z", "ab/w"):
        somewhere.create(name, name.encode())
    assert somewhere.names() == {"x", "a", "ab"}
    assert somewhere.names("a") == {"y", "b"}
    assert somewhere.names("a/b") == {"z"}
    assert {name: status.size for name, status in somewhere.files().items()} == {
        "x": 1, "a/y": 3, "a/b/z": 5, "ab/w": 4,
    }  # fmt: skip
    assert set(somewhere.files("a")) == {"a/y", "a/b/z"}


def test_a_place_below_sees_the_same_files_under_shorter_names(somewhere):
    somewhere.inner("a/b").create("c", b"1")
    assert somewhere.read("a/b/c", limit=1) == b"1"
    assert set(somewhere.inner("a").files()) == {"b/c"}
    assert set(somewhere.inner("a").files("b")) == {"b/c"}
    assert str(somewhere.inner("a")) == f"{somewhere}/a"


def test_more_bytes_than_there_could_be_are_not_read(somewhere):
    somewhere.create("long", bytes(11))
    for call in (somewhere.read, lambda name, limit: somewhere.local(name, lambda file: None, limit=limit)):
        with pytest.raises(ValueError, match="11 bytes, more than the 10"):
            call("long", limit=10)


def test_a_renamed_file_keeps_its_bytes_and_a_removed_one_is_gone(somewhere):
    somewhere.create("a/old", b"bytes")
    assert somewhere.rename("a/old", "a/new")
    assert not somewhere.rename("a/old", "a/newer")
    assert set(somewhere.files()) == {"a/new"}
    assert somewhere.read("a/new", limit=5) == b"bytes"
    somewhere.remove("a/new")
    assert somewhere.files() == {}
    assert somewhere.create("a/old", b"again")


def test_touching_makes_a_file_as_new_as_now_by_the_places_own_clock(somewhere):
    somewhere.create("a", b"bytes")
    first = somewhere.status("a").modified
    assert abs(somewhere.now() - first) < 2
    time.sleep(1.1 if str(somewhere).startswith("s3") else 0.05)  # S3 tells whole seconds
    assert somewhere.touch("a")
    assert first < somewhere.status("a").modified <= somewhere.now()
    assert somewhere.read("a", limit=5) == b"bytes"
    assert set(somewhere.files()) == {"a"}


def test_a_local_file_has_the_bytes_and_has_passed_the_check(somewhere):
    somewhere.create("a", b"bytes")
    seen = []
    path = somewhere.local("a", lambda file: seen.append(file.read_bytes()), limit=5)
    assert path.read_bytes() == b"bytes"
    assert seen == [b"bytes"]
    assert somewhere.local("a", lambda file: None, limit=5) == path


def test_what_fails_the_check_is_refused(somewhere):
    def refuse(file):
        raise ValueError("no good")

    somewhere.create("a", b"bytes")
    for _ in range(2):
        with pytest.raises(ValueError, match="no good"):
            somewhere.local("a", refuse, limit=5)
    assert somewhere.local("a", lambda file: None, limit=5).read_bytes() == b"bytes"


def test_a_place_travels(somewhere):
    somewhere.create("a", b"1")
    twin = pickle.loads(pickle.dumps(somewhere))
    assert twin == somewhere
    assert twin.read("a", limit=1) == b"1"


def test_a_folder_that_cannot_be_written_still_tells_a_time(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    assert abs(Folder(tmp_path / "file" / "below").now() - time.time()) < 2


def test_an_unfinished_file_of_a_folder_is_no_file(tmp_path):
    folder = Folder(tmp_path)
    folder.temporary("a").write_bytes(b"half")
    assert folder.files() == {}
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="regular"):
        folder.local("pipe", lambda file: None, limit=10)
