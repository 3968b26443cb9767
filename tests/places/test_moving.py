"""Whole folders: moved in one step where there are folders, and discarded anywhere."""

from __future__ import annotations

import secrets

import pytest

from raykd.places import Place, place


@pytest.fixture(params=["folder", "memory"])
def somewhere(request, tmp_path) -> Place:
    return place(tmp_path / "place" if request.param == "folder" else f"memory://{secrets.token_hex(8)}/place")


def filled(somewhere: Place) -> set[str]:
    names = {"a/one", "a/b/two", "a/b/c/three", "ab/other"}
    assert all(somewhere.create(name, name.encode()) for name in names)
    return names


def test_a_folder_is_moved_whole_or_not_at_all(somewhere):
    names = filled(somewhere)
    moved = somewhere.move("a", "x/y/z")
    assert moved == (str(somewhere).startswith("/"))
    after = {f"x/y/z{name[1:]}" if moved and name.startswith("a/") else name for name in names}
    assert somewhere.files().keys() == after
    assert all(somewhere.read(name, limit=99) for name in after)
    assert not somewhere.move("nothing", "x/nothing")


def test_discarding_removes_what_lies_under_a_name_and_nothing_else(somewhere):
    filled(somewhere)
    somewhere.discard("a")
    somewhere.discard("a")
    somewhere.discard("nothing")
    assert somewhere.files().keys() == {"ab/other"}
    assert somewhere.names() == {"ab"}
