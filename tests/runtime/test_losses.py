"""What Ray loses of its own while teachers label: it is gone on from, as long as that comes further."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_cache
from ray.exceptions import ActorDiedError, RayTaskError, WorkerCrashedError

from raykd.labeling.labeler import Labeled, Labeler, Labeling
from raykd.labeling.placement import Pool
from raykd.runtime import Display, cluster
from raykd.runtime.cluster import Cluster
from raykd.runtime.runner import Missing
from raykd.shares import Node
from raykd.storage import Storage
from raykd.training.worker import RESTARTS


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """On a machine that is made up."""
    monkeypatch.setattr(cluster, "_nodes", lambda: [Node({"CPU": 2})])
    monkeypatch.setattr(cluster, "_environment", lambda threads: {})
    return Cluster(Storage(tmp_path), Display(quiet=True))


def to_label(runner: Cluster) -> tuple[Labeling, Missing]:
    view, kept = tiny.student(replicas=4).view, tiny.student().kept["teacher"]
    labeling = Labeling("teacher", tiny_cache.teacher(runner.storage.root), view, kept, runner.storage)
    return labeling, {slot: [0] for slot in labeling.missing()[0]}


def pool_that_breaks(monkeypatch: pytest.MonkeyPatch, *errors: Exception, after: int) -> list[int]:
    """Pools that label so many slots that nobody had, then break with the next of the errors; how many were begun."""
    left, begun = list(errors), list[int]()

    def fill(found: list[Pool], scratch: Path) -> Iterator[tuple[Labeling, Labeled]]:
        begun.append(len(begun))
        done, (pool,) = 0, found
        labeler = Labeler(pool.labelings, cluster.device())
        for work in pool.work:
            if left and done == after:
                raise left.pop(0)
            for each in labeler.label(work):
                done += each.rows > 0
                yield pool.labelings[each.teacher], each

    monkeypatch.setattr(cluster, "fill", fill)
    return begun


def test_labeling_goes_on_with_what_is_missing(runner: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    labeling, missing = to_label(runner)
    begun = pool_that_breaks(monkeypatch, *[ActorDiedError(), WorkerCrashedError(), ActorDiedError()], after=1)
    done = [each for _, each in runner.label([labeling], missing, beside=None)]
    assert len(begun) == 4
    assert sum(each.rows for each in done) == 4 * tiny.rows()  # none of them twice
    assert labeling.missing()[0] == []
    assert runner.counts.phases["label"]["retries"] == 3


def test_losses_that_come_no_further_end_it_with_one_line(runner: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    labeling, missing = to_label(runner)
    begun = pool_that_breaks(monkeypatch, *[ActorDiedError()] * 9, after=0)
    with pytest.raises(
        ConnectionError, match=r"^Ray lost a part of the run \(ActorDiedError\): .* The same command goes on"
    ):
        list(runner.label([labeling], missing, beside=None))
    assert len(begun) == RESTARTS + 1


@pytest.mark.parametrize(
    "fault", [RayTaskError("label", "traceback", TypeError("x")).as_instanceof_cause(), KeyError("x")]
)
def test_a_fault_of_code_ends_it_at_once(runner: Cluster, monkeypatch: pytest.MonkeyPatch, fault: Exception) -> None:
    labeling, missing = to_label(runner)
    begun = pool_that_breaks(monkeypatch, fault, after=1)
    with pytest.raises(type(fault)):
        list(runner.label([labeling], missing, beside=None))
    assert len(begun) == 1


def test_an_actor_whose_code_fails_when_it_starts_is_no_loss(runner: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    labeling, missing = to_label(runner)
    fault: Any = ActorDiedError(RayTaskError("__init__", "traceback", TypeError("x")))
    begun = pool_that_breaks(monkeypatch, fault, after=0)
    with pytest.raises(ActorDiedError):
        list(runner.label([labeling], missing, beside=None))
    assert len(begun) == 1
