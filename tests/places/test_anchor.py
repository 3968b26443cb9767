"""A storage that is away is not an empty one, and is never made anew by those who work on it."""

from __future__ import annotations

import pickle
import threading
import time
from pathlib import Path

import pytest

from raykd.models import weights
from raykd.places import Folder, Lease, Unavailable, anchor, make_folder
from raykd.storage import Storage, exists, read_json, write_json

CALLS = {
    "read": lambda root: Folder(root).read("a/one", limit=9),
    "status": lambda root: Folder(root / "a").status("one"),
    "names": lambda root: Folder(root).names("a"),
    "files": lambda root: Folder(root).files("a"),
    "create": lambda root: Folder(root).create("b/two", b"2"),
    "rename": lambda root: Folder(root).rename("a/one", "a/three"),
    "remove": lambda root: Folder(root).remove("a/one"),
    "touch": lambda root: Folder(root).touch("a/one"),
    "discard": lambda root: Folder(root).discard("a"),
    "move": lambda root: Folder(root).move("a", "c/a"),
    "now": lambda root: Folder(root / "a").now(),
    "local": lambda root: Folder(root).local("a/one", lambda path: None, limit=9),
    "lease": lambda root: Lease.acquire(Folder(root), "leases/a"),
    "read_json": lambda root: read_json(root / "a" / "one.json"),
    "write_json": lambda root: write_json(root / "b" / "two.json", {}),
    "exists": lambda root: exists(root / "a" / "one"),
    "weights": lambda root: weights.metadata(str(root / "a" / "one")),
    "save": lambda root: weights.save(str(root / "b" / "two"), {}, {}),
    "make_folder": lambda root: make_folder(root / "b" / "c"),
}


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    found = Storage(tmp_path / "storage")
    found.check()
    Folder(found.root).create("a/one", b"1")
    return found


@pytest.mark.parametrize("unmounted", [False, True], ids=["renamed", "unmounted"])
@pytest.mark.parametrize("name", CALLS)
def test_nothing_is_found_missing_and_nothing_is_made_while_a_storage_is_away(
    storage: Storage, name: str, unmounted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYKD_PATIENCE", "0.1")
    away = storage.root.with_name("away")
    with storage.held():
        storage.root.rename(away)
        if unmounted:  # what is left is the folder that it was mounted on
            storage.root.mkdir()
        with pytest.raises(OSError, match="the storage is away") as caught:
            CALLS[name](storage.root)
        assert "\n" not in str(caught.value)
        assert not storage.root.exists() or not list(storage.root.iterdir())
        assert (away / "a" / "one").read_bytes() == b"1"


@pytest.mark.parametrize("name", ["read", "create", "status", "lease", "write_json", "exists"])
def test_who_works_on_a_storage_waits_until_it_is_back(
    storage: Storage, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYKD_PATIENCE", "30")
    away = storage.root.with_name("away")
    storage.root.rename(away)

    def back() -> None:
        time.sleep(0.3)
        away.rename(storage.root)

    with anchor.holding(storage.root):
        threading.Thread(target=back).start()
        found = CALLS[name](storage.root)
    if isinstance(found, Lease):
        found.release()
    assert {"read": b"1", "create": True, "exists": True}.get(name, found) == found
    assert not away.exists()


def test_a_copy_that_travels_holds_the_anchor_where_it_arrives(storage: Storage) -> None:
    with storage.held():
        travelling = pickle.dumps(storage)
    assert not anchor.holds(storage.root)
    arrived = pickle.loads(travelling)
    assert arrived == storage
    assert anchor.holds(storage.root)
    storage.root.rename(storage.root.with_name("away"))
    with pytest.raises(OSError, match="the storage is away"):
        anchor.require(storage.root / "a")
    anchor._held.clear()
    pickle.loads(pickle.dumps(storage))
    assert not anchor.holds(storage.root)


def test_a_run_within_a_run_does_not_make_a_storage_that_went_away(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYKD_PATIENCE", "0.1")
    with storage.held():
        with storage.held():
            pass
        assert anchor.holds(storage.root)
        storage.root.rename(storage.root.with_name("away"))
        with pytest.raises(Unavailable, match="the storage is away"), storage.held():
            pass
        assert not storage.root.exists()
    storage.check()  # afterwards it may be a new one
    assert storage.root.exists()


def test_who_holds_nothing_sees_what_there_is(storage: Storage, tmp_path: Path) -> None:
    storage.root.rename(tmp_path / "away")
    assert Folder(storage.root).names("a") == set()
    assert read_json(storage.root / "a" / "one.json") is None
    assert Folder(storage.root).create("a/one", b"1")
    with storage.held():
        assert Folder(storage.root).status("nothing") is None
        assert Folder(tmp_path / "elsewhere").status("nothing") is None


def test_a_lease_survives_its_storage_being_away(storage: Storage) -> None:
    away = storage.root.with_name("away")
    with storage.held():
        lease = Lease.acquire(Folder(storage.root), "leases/a", beat_s=0.05)
        assert lease is not None
        storage.root.rename(away)
        time.sleep(0.3)
        away.rename(storage.root)
        before = (storage.root / "leases/a").stat().st_mtime
        time.sleep(0.3)
        assert (storage.root / "leases/a").stat().st_mtime > before
        lease.release()
    assert not (storage.root / "leases/a").exists()


def test_a_second_check_writes_nothing(storage: Storage) -> None:
    before = (storage.root / anchor.NAME).stat()
    storage.check()
    assert (storage.root / anchor.NAME).stat() == before
    assert anchor.NAME in {path.name for path in storage.root.iterdir()}
