"""A run leaves a record, once, of the same task as a search over the same recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from test_search import JOBS, of

from raykd.identity import fingerprint
from raykd.runtime import Display, Local
from raykd.search.memory import Memory
from raykd.search.meta import features
from raykd.search.record import task_of
from raykd.storage import Storage


def test_a_run_is_remembered_once(raykd: Any, tmp_path: Path) -> None:
    words = ("run", f"{JOBS}:kd", "--local", "--no-baseline", "--json", "--epochs", "2")
    one = raykd(*words, "--tau", "3")
    assert one.code == 0, one.err
    memory = Memory(tmp_path / "storage")
    (record,) = memory.read("kd")
    assert record.fingerprint == one.json["stage"]
    assert record.configuration == {"tau": 3.0, "lr": 0.05, "width": 16, "epochs": 2, "seed": 0}
    assert record.results["val_top1"] == one.json["metrics"]["val_top1"]
    assert record.results["test_nll"] == one.json["metrics"]["test_nll"]
    assert len(record.curve) == 2
    assert record.status == "done"
    assert record.cost > 0
    raykd(*words, "--tau", "3")
    assert memory.read("kd") == [record]

    raykd(*words, "--tau", "5")
    assert {each.configuration["tau"] for each in memory.read("kd")} == {3.0, 5.0}
    assert len({each.task for each in memory.read("kd")}) == 1  # the temperature is searched, so it is not the task
    raykd(*words[:-1], "3", "--tau", "5")
    assert len({each.task for each in memory.read("kd")}) == 2  # the epochs are not


def test_the_task_of_a_run_is_that_of_a_search(raykd: Any, tmp_path: Path) -> None:
    storage = Storage(tmp_path / "storage")
    raykd("run", f"{JOBS}:kd", "--local", "--no-baseline", "--lr", "0.1", "--tau", "4")
    search = of("kd")
    Local(storage, Display(quiet=True)).prepare(search.default)
    (record,) = Memory(storage.root).read("kd")
    assert record.task == task_of(features(search.default, storage))
    assert record.fingerprint == fingerprint(search.stage({"tau": 4.0, "lr": 0.1}))
