"""One trial in one process: what it reports, and trainings whose knobs change on the way."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import tiny
import torch
from refusing import Refusing
from safetensors.torch import load_file
from test_search import of

from raykd.identity import fingerprint
from raykd.runtime import Display, Local
from raykd.search.space import Configuration
from raykd.search.trial import Trial, joined, latency_ms, merged, read_parts, written_parts
from raykd.storage import Storage
from raykd.training import metrics

A: Configuration = {"tau": 2.0, "lr": 0.05}
B: Configuration = {"tau": 5.0, "lr": 0.2}


def test_each_epoch_is_reported_with_the_best_so_far_and_the_end_with_everything(tmp_path: Path) -> None:
    storage, reports = Storage(tmp_path), list[Mapping[str, float]]()
    stage = Trial(of("kd"), storage, {}).run(A, lambda found: reports.append(dict(found)))
    assert stage == of("kd").stage(A)
    lines = metrics.read(storage.folder(stage) / "metrics.jsonl")
    assert [each["epoch"] for each in reports] == [1, 2, 3, 4, 4]
    for done, each in enumerate(reports[:-1], 1):
        assert each["val_top1"] == max(line["val_top1"] for line in lines[:done])
        assert "test_top1" not in each
    result = storage.result(stage)
    assert result is not None
    assert reports[-1].items() >= result["metrics"].items()
    assert reports[0]["parameters"] == 64 * 16 + 16 + 16 * 10 + 10
    assert reports[0]["latency_ms"] > 0
    assert reports[-1]["teacher_rows"] == tiny.rows()  # nobody had labeled them


def test_what_a_stage_needs_is_made_without_it_and_then_its_trial_asks_nobody(tmp_path: Path) -> None:
    search, storage = of("kd"), Storage(tmp_path)
    runner = Local(storage, Display(quiet=True))
    runner.prepare(search.default)
    assert runner.counts.teacher_rows == {"teacher": tiny.rows()}
    assert storage.result(search.default.teachers["teacher"]) is not None
    assert storage.result(search.default) is None
    reports = list[Mapping[str, float]]()
    Trial(search, storage, {}).run(search.defaults, lambda found: reports.append(dict(found)))
    assert {each["teacher_rows"] for each in reports} == {0}


def test_what_exists_is_reported_once_and_not_done_again(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    Trial(of("kd"), storage, {}).run(A, lambda _: None)
    reports = list[Mapping[str, float]]()
    Trial(of("kd"), storage, {}).run(A, lambda found: reports.append(dict(found)))
    assert [(each["epoch"], each["teacher_rows"]) for each in reports] == [(4, 0)]


def test_parts_of_equal_knobs_are_the_training_itself_bit_for_bit(tmp_path: Path) -> None:
    search = of("kd")
    assert joined([(A, 1), (A, 3), (A, 4)], search.stage) == search.stage(A)
    assert fingerprint(joined([(A, 4)], search.stage)) == fingerprint(search.stage(A))
    trial, reports = Trial(search, Storage(tmp_path / "parts"), {}), list[Mapping[str, float]]()
    for until in (1, 3, 4):
        trial.train_part([(A, until)], lambda found: reports.append(dict(found)))
    (whole,) = Local(Storage(tmp_path / "whole"), Display(quiet=True)).run(search.stage(A))
    weights = load_file(trial.storage.weights(search.stage(A)))
    assert all(torch.equal(weights[name], value) for name, value in load_file(whole.weights).items())
    assert [each["epoch"] for each in reports] == [1, 3, 4]
    assert reports[-1]["test_top1"] == whole.metrics["test_top1"]


def test_other_knobs_go_on_from_the_last_weights_with_the_rate_of_the_whole_training(tmp_path: Path) -> None:
    search, storage = of("kd"), Storage(tmp_path)
    stage = joined([(A, 2), (B, 4)], search.stage)
    first = stage.init
    assert first == joined([(A, 2)], search.stage)
    assert (stage.budget.start, stage.budget.end, stage.budget.keep) == (2, 4, search.stage(B).budget.keep)
    assert stage.objective == search.stage(B).objective
    trial = Trial(search, storage, {})
    trial.train_part([(A, 2)], lambda _: None)
    trial.train_part([(A, 2), (B, 4)], lambda _: None)
    (trained,) = Refusing(storage, Display(quiet=True)).run(stage)
    rates = [line["lr"] for line in metrics.read(storage.folder(trained.stage) / "metrics.jsonl")]
    (whole,) = Local(storage, Display(quiet=True)).run(search.stage(B))
    assert rates == [line["lr"] for line in metrics.read(storage.folder(whole.stage) / "metrics.jsonl")][2:]


def test_a_lineage_is_read_as_it_was_written() -> None:
    parts = [(A, 1), (B, 3), ({**B, "tau": 7.0}, 4)]
    assert read_parts(written_parts(parts)) == parts
    assert merged([(A, 1), (A, 2), (B, 3), (B, 4)]) == [(A, 2), (B, 4)]
    assert merged(parts) == parts


def test_a_wider_network_takes_longer() -> None:
    narrow, wide = (
        of("sized").stage({"width": 4, "lr": 0.1}).student,
        of("sized").stage({"width": 2**14, "lr": 0.1}).student,
    )
    assert 0 < latency_ms(narrow) < latency_ms(wide)


def test_a_trial_raises_what_the_recipe_raises(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be written"):
        Trial(of("methods"), Storage(tmp_path), {}).run({"method": "refused", "tau": 2.0}, lambda _: None)
