"""What the driver of a search remembers of trials that went wrong."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from test_search import of

from raykd.runtime import Display, Local
from raykd.search.memory import Memory
from raykd.search.search import Found
from raykd.search.watch import Watch, in_order
from raykd.storage import Storage

TRACE = "ray::_trial\n  File ...\nraykd.training.loop.DivergedError: stage searched: the loss is not finite: lower the rate\n"


def test_a_configuration_that_diverged_is_remembered_as_bad(tmp_path: Path) -> None:
    search, runner = of("kd"), Local(Storage(tmp_path), Display(quiet=True))
    watch = Watch(search, runner, {"rows": 640.0}, memory=True)
    result = SimpleNamespace(config={"tau": 2.0, "lr": 0.5}, metrics=None, error=RuntimeError(TRACE), path="a")
    tried = watch.tried(0, result)
    assert tried.status == "failed"
    assert tried.error == "DivergedError: stage searched: the loss is not finite: lower the rate"
    watch.remember(Found(search, (tried,)))
    (record,) = Memory(tmp_path).read("kd")
    assert record.diverged
    assert record.configuration["lr"] == 0.5
    watch.remember(Found(search, (tried,)))
    assert Memory(tmp_path).read("kd") == [record]


def test_trials_are_in_the_order_in_which_they_began() -> None:
    results = [
        SimpleNamespace(metrics=metrics, path=path)
        for metrics, path in (({"began": 3.0}, "a"), (None, "b"), ({"began": 1.0}, "c"), ({}, "d"))
    ]
    assert [each.path for each in in_order(results)] == ["c", "a", "b", "d"]
