"""A run killed with SIGKILL, in the middle of labeling and again in the middle of training, ends as if it had not been."""

from __future__ import annotations

import json
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

JOBS = str(Path(__file__).parents[1] / "tiny_jobs.py")
REPLICAS, EPOCHS = 12, 12


def command(storage: Path, *words: str) -> list[str]:
    knobs = ["--replicas", str(REPLICAS), "--epochs", str(EPOCHS)]
    return [
        sys.executable,
        "-m",
        "raykd",
        "run",
        f"{JOBS}:slow",
        *knobs,
        "--storage",
        str(storage),
        "--no-baseline",
        *words,
    ]


def finish(storage: Path, *words: str) -> dict[str, Any]:
    done = subprocess.run(command(storage, "--json", *words), capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def kill_when(storage: Path, reached: Callable[[], bool], *words: str) -> None:
    """Start the run, and kill it once `reached` says so."""
    storage.mkdir(exist_ok=True)
    with (
        (storage / "log").open("w") as log,
        subprocess.Popen(command(storage, *words), stdout=log, stderr=log) as process,
    ):
        give_up = time.monotonic() + 120
        while not reached():
            assert process.poll() is None, f"it ended too early: {(storage / 'log').read_text()}"
            assert time.monotonic() < give_up
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    time.sleep(3)  # Ray's own processes notice and end


def shards(storage: Path) -> int:
    return len(list(storage.glob("cache/v1/*/*/views/*/*.arrow")))


def epochs(storage: Path) -> int:
    return max((len(path.read_text().splitlines()) for path in storage.glob("stages/*/metrics.jsonl")), default=0)


@pytest.mark.parametrize("words", [("--local",), pytest.param((), marks=pytest.mark.ray)], ids=["local", "ray"])
def test_killed_twice_it_finishes_and_computes_no_committed_row_again(tmp_path: Path, words: tuple[str, ...]) -> None:
    storage = tmp_path / "killed"
    kill_when(storage, lambda: shards(storage) >= 4, *words)
    committed = shards(storage)
    assert 4 <= committed < REPLICAS
    kill_when(storage, lambda: shards(storage) == REPLICAS and epochs(storage) >= 5, *words)
    trained = epochs(storage)
    assert 5 <= trained < EPOCHS
    done = finish(storage, *words)
    assert done["teacher_rows"] == {"teacher": 0}
    assert done["cache_rows"] == (EPOCHS - trained) * (tiny.rows() // 32) * 32

    undisturbed = finish(tmp_path / "undisturbed", "--local")
    assert undisturbed["teacher_rows"] == {"teacher": REPLICAS * tiny.rows()}
    # the last digit depends on how many threads add up, which Ray decides for its workers
    assert done["metrics"] == pytest.approx(undisturbed["metrics"], abs=1e-6)


def test_the_rest_of_a_killed_labeling_is_what_was_not_committed(tmp_path: Path) -> None:
    kill_when(tmp_path, lambda: shards(tmp_path) >= 3, "--local")
    committed = shards(tmp_path)
    done = finish(tmp_path, "--local")
    assert done["teacher_rows"] == {"teacher": (REPLICAS - committed) * tiny.rows()}


@pytest.mark.ray
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

    os.environ["RAYKD_MARK"] = str(tmp_path)
    try:
        kill_when(tmp_path, lambda: shards(tmp_path) >= 2)
    finally:
        del os.environ["RAYKD_MARK"]
    end = time.monotonic() + 60
    while (left := of_this_run()) and time.monotonic() < end:
        time.sleep(0.5)
    assert not left
