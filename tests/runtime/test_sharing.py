"""Several runs on one storage at once: what has a name is done once, and no run waits for one that is gone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
from runs import Run, shards, start

REPLICAS = 12


def started(storage: Path, *words: str) -> Run:
    return start("slow", storage, "--replicas", str(REPLICAS), "--epochs", str(REPLICAS), *words)


def teacher_rows(results: list[dict[str, Any]]) -> int:
    return sum(found["teacher_rows"]["teacher"] for found in results)


def test_six_runs_at_once_compute_every_row_once_and_each_trains_its_own_student(tmp_path: Path) -> None:
    storage = tmp_path / "storage"
    runs = [started(storage, "--local", "--tau", str(tau)) for tau in range(1, 7)]
    results = [run.result() for run in runs]
    assert teacher_rows(results) == REPLICAS * tiny.rows()
    assert shards(storage) == REPLICAS
    assert sum(found["preflight_rows"].get("teacher", 0) for found in results) == 512
    assert len({found["network"] for found in results}) == 6
    assert len(list(storage.glob("stages/*/result.json"))) == 7  # six students and one teacher
    assert not list(storage.rglob("*.corrupt-*"))


def test_two_equal_runs_train_each_stage_once(tmp_path: Path) -> None:
    storage = tmp_path / "storage"
    one, two = (run.result() for run in [started(storage, "--local"), started(storage, "--local")])
    assert teacher_rows([one, two]) == REPLICAS * tiny.rows()
    assert one["network"] == two["network"]
    assert one["metrics"] == two["metrics"]
    assert min(one["cache_rows"], two["cache_rows"]) == 0  # the other one trained


@pytest.mark.parametrize(
    "words", [("--local",), pytest.param((), marks=[pytest.mark.ray, pytest.mark.slow])], ids=["local", "ray"]
)
def test_a_run_takes_over_from_one_that_is_killed(tmp_path: Path, words: tuple[str, ...]) -> None:
    storage = tmp_path / "storage"
    first = started(storage, *words)
    first.wait_for(lambda: shards(storage) >= 3)
    second = started(storage, *words)
    first.wait_for(lambda: shards(storage) >= 6)
    first.kill()
    found = second.result()
    assert shards(storage) == REPLICAS
    assert 0 < found["teacher_rows"]["teacher"] <= (REPLICAS - 3) * tiny.rows()
