"""Several runs on one storage at once: what has a name is done once, and no run waits for one that is gone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import tiny

JOBS = str(Path(__file__).parents[1] / "tiny_jobs.py")
REPLICAS = 12


def start(storage: Path, *words: str) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-m",
        "raykd",
        "run",
        f"{JOBS}:slow",
        "--replicas",
        str(REPLICAS),
        "--epochs",
        str(REPLICAS),
    ]
    command += ["--storage", str(storage), "--no-baseline", "--json", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def result(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    return json.loads(out.splitlines()[-1])


def shards(storage: Path) -> int:
    return len(list(storage.glob("cache/v1/*/*/views/*/*.arrow")))


def teacher_rows(results: list[dict[str, Any]]) -> int:
    return sum(found["teacher_rows"]["teacher"] for found in results)


def test_six_runs_at_once_compute_every_row_once_and_each_trains_its_own_student(tmp_path: Path) -> None:
    runs = [start(tmp_path, "--local", "--tau", str(tau)) for tau in range(1, 7)]
    results = [result(run) for run in runs]
    assert teacher_rows(results) == REPLICAS * tiny.rows()
    assert shards(tmp_path) == REPLICAS
    assert sum(found["preflight_rows"].get("teacher", 0) for found in results) == 512
    assert len({found["network"] for found in results}) == 6
    assert len(list(tmp_path.glob("stages/*/result.json"))) == 7  # six students and one teacher
    assert not list(tmp_path.rglob("*.corrupt-*"))


def test_two_equal_runs_train_each_stage_once(tmp_path: Path) -> None:
    one, two = (result(run) for run in [start(tmp_path, "--local"), start(tmp_path, "--local")])
    assert teacher_rows([one, two]) == REPLICAS * tiny.rows()
    assert one["network"] == two["network"]
    assert one["metrics"] == two["metrics"]
    assert min(one["cache_rows"], two["cache_rows"]) == 0  # the other one trained


@pytest.mark.parametrize("words", [("--local",), pytest.param((), marks=pytest.mark.ray)], ids=["local", "ray"])
def test_a_run_takes_over_from_one_that_is_killed(tmp_path: Path, words: tuple[str, ...]) -> None:
    first = start(tmp_path, *words)
    end = time.monotonic() + 100
    while shards(tmp_path) < 3:
        assert time.monotonic() < end
        assert first.poll() is None
        time.sleep(0.02)
    second = start(tmp_path, *words)
    while shards(tmp_path) < 6:
        assert time.monotonic() < end
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    found = result(second)
    assert shards(tmp_path) == REPLICAS
    assert 0 < found["teacher_rows"]["teacher"] <= (REPLICAS - 3) * tiny.rows()
