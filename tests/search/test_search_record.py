"""What a training leaves to those that come later, whether it went well or not."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_jobs
from search_examples import history

from raykd.identity import fingerprint
from raykd.models import size
from raykd.recipes import Recipe
from raykd.runtime import Local
from raykd.search.memory import Memory
from raykd.search.record import record, task_of
from raykd.storage import Storage
from raykd.training.loop import DivergedError

(A,) = history(1, 1)


@pytest.mark.parametrize(
    "change",
    [
        {"fingerprint": "kd"}, {"recipe": ""}, {"status": "fine"}, {"configuration": {"tau": (1, 2)}}, {"cost": math.nan},
        {"configuration": {"tau": math.nan}}, {"time": math.inf},
    ],
)  # fmt: skip
def test_a_record_that_cannot_be_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"a record (of|with)"):
        replace(A, **change)


RECIPE = Recipe("tiny_jobs.py:kd", tiny_jobs.kd)


def test_a_finished_stage_leaves_what_it_found(tmp_path: Path) -> None:
    storage, stage = Storage(tmp_path), tiny_jobs.kd(tau=3.0)
    (trained,) = Local(storage).run(stage)
    made = record(RECIPE, {"tau": 3.0}, stage, storage, {"rows": 410.0}, cost=2.5)
    assert (made.fingerprint, made.recipe, made.status, made.error) == (fingerprint(stage), "kd", "done", "")
    assert made.configuration == {"tau": 3.0, "epochs": 2, "kind": "sgd", "replicas": 1, "mixed": False}
    assert made.results["val_top1"] == trained.metrics["val_top1"] == max(made.curve)
    assert {"val_nll", "test_top1", "test_nll", "seconds"} <= set(made.results)
    assert made.results["parameters"] == size(stage.student).parameters
    assert made.results["flops"] == size(stage.student).flops
    assert made.results["epochs"] == len(made.curve) == 2
    assert made.cost == 2.5
    Memory(tmp_path).append([made])
    assert Memory(tmp_path).read("kd") == [made]


def test_a_failure_is_a_record_too(tmp_path: Path) -> None:
    stage = tiny.student()
    error = DivergedError("the loss is\nnot finite")
    made = record(RECIPE, {}, stage, Storage(tmp_path), {}, cost=1.0, error=error)
    assert (made.status, made.error, made.curve) == ("failed", "DivergedError: the loss is not finite", ())
    assert made.diverged
    assert "val_top1" not in made.results
    other = record(RECIPE, {}, stage, Storage(tmp_path), {}, cost=1.0, error=OSError("disk full"))
    assert not other.diverged


def test_a_stage_without_a_result_was_stopped_and_counts_with_its_best_epoch(tmp_path: Path) -> None:
    storage, stage = Storage(tmp_path), tiny.student()
    folder = storage.folder(stage)
    folder.mkdir(parents=True)
    curve = ((0.4, 2.0), (0.6, 1.0), (0.5, 0.5))
    epochs = [tiny.epoch(number, val_top1=top1, val_nll=nll, seconds=1.5) for number, (top1, nll) in enumerate(curve)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(epoch) + "\n" for epoch in epochs))
    made = record(RECIPE, {}, stage, storage, {}, cost=5.0)
    assert (made.status, made.curve) == ("stopped", (0.4, 0.6, 0.5))
    assert (made.results["val_top1"], made.results["val_nll"], made.results["seconds"]) == (0.6, 1.0, 4.5)


def test_records_of_equal_features_are_of_one_task() -> None:
    assert replace(A, configuration={}, time=9.0).task == A.task == task_of(A.features)
    noise = {name: value * (1 + 1e-9) for name, value in A.features.items()}
    assert task_of(dict(reversed(noise.items()))) == A.task
    assert task_of({"rows": math.nan}) == task_of({"rows": float("nan")}) != task_of({})
    others = [{**A.features, "rows": 7.0}, {**A.features, "rows": math.nan}, {**A.features, "more": 1.0}]
    assert len({A.task, *map(task_of, others)}) == 4
