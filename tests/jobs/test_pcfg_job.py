"""Strings of a grammar: all recipes see the same rows for as many steps, run, and may be searched."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from job_cases import RECIPES, ROOT, module, of
from refusing import Refusing

from raykd import recipes
from raykd.data.tasks import CFG3B, PCFG, Masked
from raykd.identity import fingerprint
from raykd.models import BERT
from raykd.runtime import Display, Local
from raykd.search import space_of
from raykd.search.search import Search
from raykd.search.trial import Trial
from raykd.stage import Stage
from raykd.storage import Storage

TINY: dict[str, Any] = {"start": "j", "rows": 128, "epochs": 10, "heads": 1, "depth": 2, "replicas": 2}
STUDENTS = ("student", "kd", "progressive", "curriculum")


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    found = module("pcfg")
    monkeypatch.setattr(found, "teacher", functools.partial(found.teacher, heads=2, epochs=4))
    monkeypatch.setattr(found, "HELD_OUT", 64)


def lineage(stage: Stage) -> list[Stage]:
    return [*([] if stage.init is None else lineage(stage.init)), stage]  # type: ignore[arg-type]


def test_the_job_has_the_baselines() -> None:
    assert set(of("pcfg")) == {"teacher", *STUDENTS}


@pytest.mark.parametrize("name", STUDENTS)
def test_every_recipe_takes_as_many_steps_on_the_same_rows(name: str) -> None:
    stages = lineage(RECIPES[f"pcfg:{name}"].stage())
    compared = RECIPES["pcfg:student"].stage()
    assert sum(each.budget.trained for each in stages) == compared.budget.trained
    assert stages[-1].budget.end == compared.budget.end
    assert {fingerprint([each.view, each.seed, each.student]) for each in stages} == {
        fingerprint([compared.view, compared.seed, compared.student])
    }


def test_the_published_setting_can_be_said() -> None:
    published: dict[str, Any] = {"start": "s", "rows": 600}
    teacher = RECIPES["pcfg:teacher"].stage(**published, heads=32)
    stage = RECIPES["pcfg:kd"].stage(**published, heads=8)
    for each, width in ((teacher, 256), (stage, 64)):
        assert isinstance(each.student, BERT)
        assert (each.student.depth, each.student.head_width, each.student.width) == (4, 8, width)
        assert each.budget.optimiser.betas == (0.9, 0.95)  # type: ignore[attr-defined]
    source = stage.view.dataset.train
    assert isinstance(source, Masked)
    assert isinstance(source.source, PCFG)
    assert (source.source.grammar, source.rate) == (CFG3B, 0.3)


def test_training_and_test_rows_are_other_draws_and_the_splits_are_as_large_as_they_say() -> None:
    dataset = RECIPES["pcfg:kd"].stage().view.dataset
    assert {name: len(dataset.split(name)) for name in ("train", "validation", "test")} == {  # type: ignore[arg-type]
        "train": 3200, "validation": 500, "test": 500,
    }  # fmt: skip
    ids = [set(dataset.split(name).ids.tolist()) for name in ("train", "validation", "test")]  # type: ignore[arg-type]
    assert len(set().union(*ids)) == sum(map(len, ids))


@pytest.mark.usefixtures("_quick")
def test_every_recipe_runs_and_then_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module("pcfg"), "progressively", _with_one_snapshot)
    stages = [RECIPES[f"pcfg:{name}"].stage(**TINY) for name in STUDENTS]
    stages.append(RECIPES["pcfg:curriculum"].stage(**TINY, schedule="plateau", dim=4, share=0.8))
    trained = Local(Storage(tmp_path), Display(quiet=True), any_teacher=True).run(*stages)
    assert all(each.metrics["test_perplexity"] < 3.2 for each in trained)  # of three letters; no worse than a guess
    again = Refusing(Storage(tmp_path), Display(quiet=True)).run(*stages)
    assert [each.metrics for each in again] == [each.metrics for each in trained]


def _with_one_snapshot(stage: Stage, _: object) -> Stage:
    from raykd.methods.progressive import progressive

    return progressive(stage, (2,))


# --- the benchmark


def test_the_arms_of_the_benchmark_take_as_many_steps_and_are_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    benchmark = recipes.load_file(ROOT / "benchmarks" / "pcfg.py")
    monkeypatch.setattr(module("pcfg"), "HELD_OUT", 64)
    plot = tmp_path / "plot.svg"
    words = ["--start", "j", "--rows", "128", "--replicas", "2", "--epochs", "8", "--heads", "1", "--depth", "1"]
    words += ["--teacher-epochs", "2", "--teacher-heads", "1", "--seeds", "2", "--snapshots", "1"]
    words += ["--only", "labels,one-shot,progressive,extraction,identity,plateau"]
    monkeypatch.setattr("sys.argv", ["pcfg.py", *words, "--storage", str(tmp_path / "storage"), "--plot", str(plot)])
    threads = torch.get_num_threads()
    benchmark.main()
    torch.set_num_threads(threads)
    printed = capsys.readouterr().out.splitlines()
    arms = [line for line in printed[2:] if not line.startswith(" ")]
    assert [line.split()[0] for line in arms] == words[-1].split(",")
    assert all(line.count("%-") == 7 for line in arms)  # a mean and a range in each column
    (costs,) = [line.partition(": ")[2].split(", ") for line in printed[2:] if line.startswith(" ")]
    assert [float(each.split(" / ")[0]) < 1 for each in costs] == [True, False]  # FLOPs of the block, and of the output
    drawn = ElementTree.fromstring(plot.read_text())
    lines = [each.attrib["points"].split() for each in drawn.iter("{http://www.w3.org/2000/svg}polyline")]
    assert [len(points) for points in lines] == [8] * 6
    for points in lines:
        places = [tuple(map(float, point.split(","))) for point in points]
        assert all(50 <= x <= 590 and 50 <= y <= 350 for x, y in places)
        assert [x for x, _ in places] == sorted(x for x, _ in places)


def test_a_curve_is_read_at_the_last_look_before() -> None:
    benchmark = recipes.load_file(ROOT / "benchmarks" / "pcfg.py")
    learned = [(50, 0.1), (100, 0.4), (150, 0.2)]
    assert [benchmark.at(learned, steps) for steps in (50, 99, 100, 400)] == [0.1, 0.1, 0.4, 0.2]
    assert benchmark.spread([0.5, 0.25, 0.75]) == "50.0% (25.0%-75.0%)"


# --- searched


def search(**given: Any) -> Search:
    recipe = RECIPES["pcfg:curriculum"]
    return Search(recipe, space_of(recipe).given(**given), given=given)


def test_shares_and_widths_are_searched_and_every_draw_can_be_written() -> None:
    found = search()
    assert found.defaults == {"share": 0.3, "dim": None, "lr": 0.005}
    found.check()
    for drawn in found.space.samples(0, 20):
        found.space.check(drawn)
        parts = [each.budget.trained for each in lineage(found.stage(drawn))]
        assert sum(parts) == 40
        assert sum(parts[:-1]) == max(round(40 * float(drawn["share"])), 4)  # type: ignore[arg-type]
    dims = {
        each.objective.terms[0].term.divergence.dim for each in lineage(found.stage({**found.defaults, "dim": 4}))[:-1]
    }  # type: ignore[attr-defined]
    assert dims == {4}


@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize("schedule", ["equal", "plateau"])
def test_a_trial_trains_what_its_configuration_says(schedule: str, tmp_path: Path) -> None:
    found, reports = search(**TINY, schedule=schedule), list[float]()
    storage = Storage(tmp_path)
    trial = Trial(found, storage, {"any_teacher": True})
    configuration = {"share": 0.4, "dim": 4, "lr": 0.005}
    stage = trial.run(configuration, lambda each: reports.append(each["epoch"]))
    assert stage == found.stage(configuration)
    # the output's part is what a trial reports, and it ends where the training does
    assert reports[-1] == TINY["epochs"]
    assert all(storage.result(each) is not None for each in lineage(stage))
