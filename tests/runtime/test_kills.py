"""A run killed with SIGKILL, in the middle of labeling and again in the middle of training, ends as if it had not been."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
from runs import JOBS, Run, shards, start

REPLICAS = EPOCHS = 12


def started(storage: Path, *words: str) -> Run:
    return start("slow", storage, "--replicas", str(REPLICAS), "--epochs", str(EPOCHS), *words)


def kill_when(storage: Path, reached: Callable[[], bool], *words: str) -> None:
    """Start the run, and kill it once `reached` says so."""
    run = started(storage, *words)
    run.wait_for(reached)
    run.kill()


def epochs(storage: Path) -> int:
    return max((len(path.read_text().splitlines()) for path in storage.glob("stages/*/metrics.jsonl")), default=0)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What comes of the run when nobody kills it."""
    return started(tmp_path_factory.mktemp("undisturbed") / "storage", "--local").result()


@pytest.mark.parametrize(
    "words", [("--local",), pytest.param((), marks=[pytest.mark.ray, pytest.mark.slow])], ids=["local", "ray"]
)
def test_killed_twice_it_finishes_and_computes_no_committed_row_again(
    tmp_path: Path, words: tuple[str, ...], undisturbed: dict[str, Any]
) -> None:
    storage = tmp_path / "killed"
    kill_when(storage, lambda: shards(storage) >= 4, *words)
    committed = shards(storage)
    assert 4 <= committed < REPLICAS
    kill_when(storage, lambda: shards(storage) == REPLICAS and epochs(storage) >= 5, *words)
    trained = epochs(storage)
    assert 5 <= trained < EPOCHS
    done = started(storage, *words).result()
    assert done["teacher_rows"] == {"teacher": 0}
    assert done["cache_rows"] == (EPOCHS - trained) * (tiny.rows() // 32) * 32

    assert undisturbed["teacher_rows"] == {"teacher": REPLICAS * tiny.rows()}
    # the last digit depends on how many threads add up, which Ray decides for its workers
    assert done["metrics"] == pytest.approx(undisturbed["metrics"], abs=1e-6)


def test_the_rest_of_a_killed_labeling_is_what_was_not_committed(tmp_path: Path) -> None:
    storage = tmp_path / "killed"
    kill_when(storage, lambda: shards(storage) >= 3, "--local")
    committed = shards(storage)
    done = started(storage, "--local").result()
    assert done["teacher_rows"] == {"teacher": (REPLICAS - committed) * tiny.rows()}


@pytest.mark.ray
@pytest.mark.slow
def test_a_killed_driver_leaves_no_worker_of_its_cluster_behind(tmp_path: Path) -> None:
    def of_this_run() -> dict[str, str]:
        found = {}
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                if f"RAYKD_MARK={tmp_path}".encode() in path.read_bytes():
                    name = path.with_name("cmdline").read_text().replace("\0", " ")
                    # Ray's two agents of a node may wait for minutes until they give up on the rest
                    if not name.startswith(("ray::DashboardAgent", "ray::RuntimeEnvAgent")):
                        found[path.parent.name] = name
            except OSError:
                continue  # it ended while we looked
        return found

    storage, log = tmp_path / "storage", tmp_path / "log"
    command = [sys.executable, "-m", "raykd", "run", f"{JOBS}:slow", "--storage", str(storage), "--no-baseline"]
    environment = {**os.environ, "RAYKD_MARK": str(tmp_path)}
    end = time.monotonic() + 120
    with (
        log.open("w") as said,
        subprocess.Popen(command, stdout=said, stderr=said, env=environment) as process,
    ):
        while shards(storage) < 2:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end
            time.sleep(0.01)
        assert of_this_run()
        process.send_signal(signal.SIGKILL)
    while (left := of_this_run()) and time.monotonic() < end:
        time.sleep(0.2)
    assert not left
