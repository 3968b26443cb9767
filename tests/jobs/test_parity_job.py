"""Sparse parity: all recipes see the same new rows for as many steps, and run."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
from job_cases import RECIPES, graph, module, of
from refusing import Refusing

from raykd.budget import Plateau
from raykd.data import Parity
from raykd.order import Order
from raykd.runtime import Display, Local
from raykd.search import space_of
from raykd.search.search import Search
from raykd.search.trial import Trial
from raykd.stage import Stage
from raykd.storage import Storage
from raykd.training import metrics

TINY: dict[str, Any] = {"d": 8, "k": 2, "epochs": 10, "rows": 1600}
STUDENTS = ("student", "kd", "progressive", "curriculum")


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    found = module("parity")
    monkeypatch.setattr(found, "teacher", functools.partial(found.teacher, width=128, epochs=10))


def lineage(stage: Stage) -> list[Stage]:
    return [*([] if stage.init is None else lineage(stage.init)), stage]  # type: ignore[arg-type]


def test_the_job_has_the_baselines() -> None:
    assert set(of("parity")) == {"teacher", *STUDENTS}


@pytest.mark.parametrize("name", STUDENTS)
def test_every_recipe_takes_as_many_steps_on_the_same_rows_and_no_row_comes_again(name: str) -> None:
    stages = lineage(RECIPES[f"parity:{name}"].stage())
    compared = RECIPES["parity:student"].stage()
    assert sum(each.budget.trained for each in stages) == compared.budget.trained
    assert stages[-1].budget.end == compared.budget.end
    for each in stages:
        assert each.view == compared.view
        order = Order.of(each)
        replicas = [order.replica(epoch) for epoch in range(each.budget.start, each.budget.end)]
        assert replicas == list(range(each.budget.start, each.budget.end))
        assert order.steps * order.batch_size == order.rows == 3200


def test_the_splits_are_as_large_as_they_say() -> None:
    dataset = RECIPES["parity:kd"].stage(rows=3200).view.dataset
    assert {name: len(dataset.split(name)) for name in ("train", "validation", "test")} == {  # type: ignore[arg-type]
        "train": 3200, "validation": 1000, "test": 1000,
    }  # fmt: skip
    assert isinstance(dataset.train, Parity)
    assert isinstance(dataset.test, Parity)
    assert dataset.train.support == dataset.test.support


@pytest.mark.usefixtures("_quick")
def test_every_recipe_runs_and_then_is_there(tmp_path: Path) -> None:
    stages = [RECIPES[f"parity:{name}"].stage(**TINY, width=32) for name in STUDENTS]
    runner = Local(Storage(tmp_path), Display(quiet=True), any_teacher=True)
    trained = runner.run(*stages)
    assert trained[-1].metrics["test_top1"] > 0.9  # two of eight signs are soon found
    assert any(str(each) == "curriculum/layer1" for each in graph(stages[-1]))
    again = Refusing(Storage(tmp_path), Display(quiet=True)).run(*stages)
    assert [each.metrics for each in again] == [each.metrics for each in trained]


def search(**given: Any) -> Search:
    recipe = RECIPES["parity:curriculum"]
    return Search(recipe, space_of(recipe), given=given)


def test_shares_and_widths_are_searched_and_every_draw_can_be_written() -> None:
    found = search()
    assert found.defaults == {"share": 0.1, "dim": None}
    found.check()
    for drawn in found.space.samples(0, 20):
        found.space.check(drawn)
        first, last = lineage(found.stage(drawn))
        assert first.budget.trained == round(100 * float(drawn["share"]))  # type: ignore[arg-type]
        assert first.budget.trained + last.budget.trained == 100
        assert first.objective.terms[0].term.divergence.dim == (drawn["dim"] or 100)  # type: ignore[attr-defined]


@pytest.mark.usefixtures("_quick")
def test_a_trial_trains_what_its_configuration_says(tmp_path: Path) -> None:
    found, storage, reports = search(**TINY, width=32), Storage(tmp_path), list[float]()
    configuration = {"share": 0.2, "dim": 8}
    stage = Trial(found, storage, {"any_teacher": True}).run(configuration, lambda each: reports.append(each["epoch"]))
    assert stage == found.stage(configuration)
    assert reports[-1] == 10


@pytest.mark.usefixtures("_quick")
def test_by_plateau_a_layer_leaves_the_output_what_it_does_not_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module("parity"), "PLATEAU", Plateau(floor=1, patience=1, tolerance=0.9))
    stage = RECIPES["parity:curriculum"].stage(**TINY, width=32, share=0.5, schedule="plateau")
    Local(Storage(tmp_path), Display(quiet=True), any_teacher=True).run(stage)
    ran = [metrics.read(Storage(tmp_path).folder(each) / "metrics.jsonl") for each in lineage(stage)]
    assert [[line["epoch"] for line in lines] for lines in ran] == [[0, 1], list(range(2, 10))]
