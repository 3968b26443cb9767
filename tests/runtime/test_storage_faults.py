"""A storage that fails for the moment, or is away for a while, costs a run time; one that stays away costs it a line.

Faults are put under a complete run: into the calls of the system, and by renaming the storage away.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
from runs import shards, start
from safetensors.torch import load_file

from raykd.models import weights
from raykd.places import retry
from raykd.runtime import Display, Local
from raykd.runtime.runner import Trained
from raykd.storage import Storage

CALLS = (
    "open", "link", "replace", "rename", "stat", "lstat", "write", "fsync", "utime", "unlink", "mkdir", "listdir", "scandir",
)  # fmt: skip


def run(root: Path) -> Trained:
    return Local(Storage(root), Display(quiet=True)).run(tiny.student())[0]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return run(tmp_path_factory.mktemp("undisturbed"))


def entries(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*.arrow")}


def same(found: Trained, expected: Trained) -> bool:
    """Whether network, metrics and what the teacher said are the same to the bit."""
    ours, theirs = Path(found.weights), Path(expected.weights)
    return (
        found.metrics == expected.metrics
        and weights.digest(load_file(ours)) == weights.digest(load_file(theirs))
        and entries(ours.parents[2]) == entries(theirs.parents[2])
    )


class Faults:
    """Calls of the system on paths under a folder; `fails(call)` says whether this one does, with which error."""

    def __init__(self, root: Path, fails: Callable[[str], int], patch: pytest.MonkeyPatch):
        self.root, self.fails, self.injected, self.inside = str(root), fails, 0, threading.local()
        for call in CALLS:
            patch.setattr(os, call, self._failing(call, getattr(os, call)))
        patch.setattr(io, "open", self._failing("open", io.open))
        patch.setattr(builtins, "open", io.open)

    def _failing(self, call: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def called(*given: Any, **settings: Any) -> Any:
            if self._concerned(given) and (number := self.fails(call)):
                self.injected += 1
                path = None if isinstance(given[0], int) else os.fspath(given[0])
                raise OSError(number, os.strerror(number), path)
            return real(*given, **settings)

        return called

    def _concerned(self, given: tuple[Any, ...]) -> bool:
        if not given:
            return False
        if isinstance(given[0], int):  # an open file
            try:
                return str(Path(f"/proc/self/fd/{given[0]}").readlink()).startswith(self.root)
            except OSError:
                return False
        return isinstance(given[0], str | bytes | os.PathLike) and os.fsdecode(given[0]).startswith(self.root)


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(retry, "PAUSE_S", 0.0005)
    monkeypatch.setattr(retry, "LONGEST_S", 0.005)
    monkeypatch.setenv("RAYKD_PATIENCE", "60")
    return


@pytest.mark.usefixtures("_quick")
def test_a_run_comes_to_the_same_though_one_in_seven_calls_of_the_storage_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: Trained
) -> None:
    generator, kinds = random.Random(0), set()

    def fails(call: str) -> int:
        if call in kinds and generator.random() > 1 / 7:
            return 0
        kinds.add(call)  # the first call of every kind fails
        return generator.choice(sorted(retry.TRANSIENT))

    faults = Faults(tmp_path / "storage", fails, monkeypatch)
    done = run(tmp_path / "storage")
    monkeypatch.undo()
    assert faults.injected > 100
    assert {"open", "link", "stat", "fsync", "write"} <= kinds
    assert same(done, undisturbed)
    assert done.counts.teacher_rows == {"teacher": 2 * tiny.rows()}
    assert not list((tmp_path / "storage").rglob("*.corrupt-*"))


@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
def test_what_lasts_ends_a_run_at_the_first_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    Storage(tmp_path / "storage").check()
    faults = Faults(tmp_path / "storage", lambda call: number if call == "link" else 0, monkeypatch)
    with pytest.raises(OSError, match=os.strerror(number)):
        run(tmp_path / "storage")
    assert faults.injected == 1


@pytest.mark.parametrize("moment", ["labeling", "training"])
def test_a_storage_that_stays_away_ends_the_run_with_a_line_and_the_same_command_goes_on_when_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    monkeypatch.setenv("RAYKD_PATIENCE", "1")
    storage, away = tmp_path / "storage", tmp_path / "away"
    first = start("slow", storage, "--local", "--replicas", "8", "--epochs", "8")
    first.wait_for(lambda: reached(storage, moment))
    storage.rename(away)
    first.process.join(60)
    assert first.process.exitcode == 1
    said = [line for line in first.said.splitlines() if line.startswith("raykd: ")]
    assert len(said) == 1
    assert str(storage) in said[0]
    assert "the storage is away" in said[0]
    assert "still after 1 s and" in said[0]
    assert "Traceback" not in first.said
    assert not storage.exists()

    away.rename(storage)
    committed, trained = shards(storage), epochs(storage)
    done = start("slow", storage, "--local", "--replicas", "8", "--epochs", "8").result()
    assert done["teacher_rows"] == {"teacher": (8 - committed) * tiny.rows()}
    assert done["cache_rows"] == (8 - trained) * (tiny.rows() // 32) * 32


@pytest.mark.parametrize("moment", ["labeling", "training"])
def test_a_storage_that_is_renamed_away_for_two_seconds_costs_two_seconds(tmp_path: Path, moment: str) -> None:
    storage, away = tmp_path / "storage", tmp_path / "away"
    os.environ["RAYKD_PATIENCE"], before = "60", os.environ["RAYKD_PATIENCE"]
    try:
        run = start("slow", storage, "--local", "--replicas", "8", "--epochs", "8")
    finally:
        os.environ["RAYKD_PATIENCE"] = before
    run.wait_for(lambda: reached(storage, moment))
    storage.rename(away)
    threading.Event().wait(2)  # what is waited for here is that nothing happens
    assert not storage.exists()
    away.rename(storage)
    done = run.result()
    assert done["teacher_rows"] == {"teacher": 8 * tiny.rows()}
    assert done["cache_rows"] == 8 * (tiny.rows() // 32) * 32
    assert "the storage is away" in run.said
    assert "it is back after" in run.said
    assert not away.exists()


def reached(storage: Path, moment: str) -> bool:
    return shards(storage) >= 3 if moment == "labeling" else epochs(storage) >= 3


def epochs(storage: Path) -> int:
    """Of the student, once its teacher is done."""
    lines = [len(path.read_text().splitlines()) for path in storage.glob("stages/*/metrics.jsonl")]
    return min(lines) if len(lines) == 2 else 0
