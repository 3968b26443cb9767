"""Searches on a real Ray: what is shared, what is isolated, what survives a kill."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import tiny
from test_search import JOBS, of

from raykd import cli
from raykd.identity import fingerprint
from raykd.runtime import Display
from raykd.runtime.cluster import Cluster
from raykd.search.memory import Memory
from raykd.search.search import Found
from raykd.search.tune import Resources, search
from raykd.storage import Storage

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def _ray() -> Iterator[None]:
    # one core, on which whatever waits for another one would wait for ever; the killed search has two
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def found(name: str, folder: Path, *, resources: Resources = Resources(), **settings: Any) -> tuple[Found, Cluster]:
    runner = Cluster(Storage(folder / "storage"), Display(quiet=True))
    runner._own = True  # as on a Ray of the run's own
    settings = {"trials": 4, "scheduler": "none", "searcher": "random", **settings}
    return search(of(name, **settings), runner, resources=resources, state=folder / "state"), runner


@pytest.mark.usefixtures("_ray")
def test_teachers_label_once_and_what_one_search_found_the_next_one_knows(tmp_path: Path) -> None:
    first, runner = found("kd", tmp_path, scheduler="asha", searcher="optuna", trials=3)
    assert runner.counts.teacher_rows == {"teacher": tiny.rows()}
    assert [each.teacher_rows for each in first.tried] == [0] * 3
    assert [each.error for each in first.tried] == [""] * 3
    assert first.tried[0].configuration == {"tau": 2.0, "lr": 0.05}  # the published defaults
    best = first.best
    assert best is not None
    assert best.status == "done"
    assert best.stage is not None
    assert runner.storage.result(best.stage)["metrics"].items() <= best.metrics.items()  # type: ignore[index]
    records = Memory(runner.storage.root).read("kd")
    assert {str(each.configuration["lr"]) for each in records} == {
        str(each.configuration["lr"]) for each in first.tried
    }
    assert len({each.task for each in records}) == 1

    again, runner = found("kd", tmp_path, scheduler="asha", searcher="optuna", trials=3)
    assert again.tried == first.tried  # it was over
    assert not runner.counts.teacher_rows

    second, runner = found("kd", tmp_path, searcher="memory", trials=2, seed=1)
    assert not runner.counts.teacher_rows
    assert not [each for each in second.tried if each.configuration in [other.configuration for other in first.tried]]
    assert len(Memory(runner.storage.root).read("kd")) == 5


@pytest.mark.usefixtures("_ray")
def test_a_trial_that_fails_is_alone_with_its_error(tmp_path: Path) -> None:
    result, _ = found("methods", tmp_path, trials=4, seed=3)
    failed = [each for each in result.tried if each.configuration["method"] == "refused"]
    assert len(failed) == 1
    for each in failed:
        assert each.status == "failed"
        assert "method=refused cannot be written" in each.error
    others = [each for each in result.tried if each not in failed]
    assert {each.status for each in others} == {"done"}
    assert {each.configuration["method"] for each in others} == {"kd", "dkd"}
    for each in others:
        assert ("beta" in each.configuration) == (each.configuration["method"] == "dkd")


@pytest.mark.slow
@pytest.mark.usefixtures("_ray")
def test_a_population_changes_its_knobs_on_the_way_and_can_be_made_again(tmp_path: Path) -> None:
    for seed in range(3):  # whose weights are taken over is the scheduler's to draw, and it may be nobody's
        result, runner = found("mixed", tmp_path, scheduler="pbt", interval=1, trials=4, seed=seed)
        assert [each.error for each in result.tried] == [""] * 4
        assert {each.status for each in result.tried} == {"done"}
        assert {each.epochs for each in result.tried} == {6}
        assert [each.parts[-1][1] for each in result.tried] == [6] * 4
        assert {each.configuration["lr"] for each in result.tried} <= {0.02, 0.05, 0.2}
        if changed := {fingerprint(each.stage) for each in result.tried if len(each.parts) > 1}:
            break
    assert changed
    best = result.best
    assert best is not None
    assert best.stage is not None
    (trained,) = runner.run(best.stage)
    assert {name: best.metrics[name] for name in ("val_top1", "test_top1")}.items() <= trained.metrics.items()
    remembered = {each.fingerprint for each in Memory(runner.storage.root).read("mixed")}
    assert remembered >= {fingerprint(each.stage) for each in result.tried if len(each.parts) == 1}
    assert not remembered & changed  # they are of no configuration


@pytest.mark.slow
@pytest.mark.usefixtures("_ray")
def test_accuracy_against_size_leaves_small_networks_on_the_front(tmp_path: Path) -> None:
    result, _ = found("sized", tmp_path, searcher="optuna", against=("parameters",), trials=5)
    assert len(result.tried) == 5
    front = [(each.metrics["parameters"], each.metrics["val_top1"]) for each in result.front]
    assert front == sorted(front)
    assert front[0][0] == min(each.metrics["parameters"] for each in result.tried)


@pytest.mark.usefixtures("_ray")
def test_what_does_not_fit_on_the_cluster_is_said_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a trial asks for 64 cpus, and the cluster has 1"):
        found("kd", tmp_path, resources=Resources(cpus=64))
    with pytest.raises(ValueError, match="a trial asks for 1 gpus, and the cluster has 0"):
        found("kd", tmp_path, resources=Resources(gpus=1))
    (tmp_path / "state").mkdir(exist_ok=True)
    (tmp_path / "state").chmod(0o777)
    with pytest.raises(ValueError, match="others can write in"):
        found("kd", tmp_path)


def _command(storage: str, state: str, log: str) -> None:
    os.setpgrp()
    with Path(log).open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = ["raykd"]
    words = ["--storage", storage, "--state", state, "--trials", "4", "--searcher", "random", "--json"]
    cli.main(["search", f"{JOBS}:slow", "--lr", "0.1", "--against", "parameters", *words])


def test_a_killed_search_continues_and_repeats_no_finished_trial(tmp_path: Path, processes: Any) -> None:
    words = (str(tmp_path / "storage"), str(tmp_path / "state"))
    stages = tmp_path / "storage" / "stages"

    def done() -> dict[str, float]:
        return {path.parent.name: path.stat().st_mtime_ns for path in stages.glob("*/result.json")}

    killed = processes.Process(target=_command, args=(*words, str(tmp_path / "killed")))
    killed.start()
    end = time.monotonic() + 200
    while len(done()) < 3:  # the teacher and two trials
        assert killed.is_alive(), (tmp_path / "killed").read_text()
        assert time.monotonic() < end
        time.sleep(0.02)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.join()
    before = done()
    assert len(before) < 5
    again = processes.Process(target=_command, args=(*words, str(tmp_path / "again")))
    again.start()
    again.join(200)
    log = (tmp_path / "again").read_text()
    assert again.exitcode == 0, log
    assert "continuing the search" in log
    content = json.loads(log.splitlines()[-1])
    assert [each["status"] for each in content["trials"]] == ["done"] * 4
    assert done().items() >= before.items()  # not written again
    assert content["best"] in content["trials"]
    assert content["best"]["knobs"].keys() == {"tau"}
    assert content["metrics"]["val_top1"] == content["best"]["metrics"]["val_top1"]
    assert [each["teacher_rows"] for each in content["trials"]] == [0] * 4
    assert set(content["front"]) <= set(range(4))
    assert "Pareto front" in log
    assert "4 trials of" in log
    assert len({each["stage"] for each in content["trials"]}) == 4
    assert len(done()) == 5
    assert len(Memory(tmp_path / "storage").read("slow")) == 4
