"""Language models of text: all recipes see the same rows for as many steps, run, and then are there; files of one's own too."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from job_cases import RECIPES, ROOT, graph, module, of
from refusing import Refusing

from raykd import recipes, tokens
from raykd.cache.codecs import Positions, TopKU8
from raykd.data import Text
from raykd.order import Order
from raykd.runtime import Display, Local
from raykd.stage import Stage
from raykd.storage import Storage

STUDENTS = ("student", "kd", "curriculum")
TINY: dict[str, Any] = {"rows": 64, "epochs": 3}


@pytest.fixture
def files(tmp_path: Path) -> str:
    for i in range(2):
        (tmp_path / f"{i}.txt").write_text("".join(f"{word} goes to {word + i}; " for word in range(1200)))
    return str(tmp_path / "*.txt")


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module("text"), "teacher", functools.partial(module("text").teacher, epochs=2))


def lineage(stage: Stage) -> list[Stage]:
    return [*([] if stage.init is None else lineage(stage.init)), stage]  # type: ignore[arg-type]


def test_the_job_has_the_baselines() -> None:
    assert set(of("text")) == {"teacher", *STUDENTS}


@pytest.mark.parametrize("name", STUDENTS)
def test_every_recipe_takes_as_many_steps_on_the_same_rows(name: str) -> None:
    stages = lineage(RECIPES[f"text:{name}"].stage())
    compared = RECIPES["text:student"].stage()
    assert sum(each.budget.trained for each in stages) == compared.budget.trained
    assert {each.view for each in stages} == {compared.view}
    assert {Order.of(each).steps for each in stages} == {Order.of(compared).steps}


def test_the_default_text_is_python_and_no_file_of_it_is_both_to_train_and_to_test_on() -> None:
    dataset = RECIPES["text:kd"].stage().view.dataset
    assert isinstance(dataset.train, Text)
    assert isinstance(dataset.test, Text)
    names = [{path.name for path in source.paths()} for source in (dataset.train, dataset.test)]
    assert not names[0] & names[1]
    first = dataset.train.load().inputs(torch.zeros(1, dtype=torch.int64).numpy())
    assert dataset.train.decode(tokens.tokens(first)[0]).startswith("# Author: Steven J. Bethard")  # argparse.py
    assert 500_000 < sum(path.stat().st_size for path in dataset.train.paths()) < 1_500_000
    assert dataset.classes == 256


def test_the_teacher_has_seen_no_more_rows_than_the_student(files: str) -> None:
    stage = RECIPES["text:kd"].stage(files=files, rows=100)
    (teacher,) = stage.teachers.values()
    assert isinstance(teacher, Stage)
    assert teacher.view == stage.view
    assert len(stage.view.dataset.split("train")) == 100


def test_a_top_k_cache_keeps_the_rest_at_the_temperature_that_is_asked_for(files: str) -> None:
    stage = RECIPES["text:kd"].stage(files=files, tau=3.0, k=5)
    (kept,) = stage.kept["teacher"]
    assert kept.codec == Positions(TopKU8(5, (1.0, 3.0)))
    for name in ("dense_f16", "features", "auto", "off"):
        assert RECIPES["text:kd"].stage(files=files, cache=name).cache != stage.cache
    with pytest.raises(ValueError, match="no codec 'topk'"):
        RECIPES["text:kd"].stage(files=files, cache="topk")


@pytest.mark.usefixtures("_quick")
def test_every_recipe_runs_and_then_is_there(files: str, tmp_path: Path) -> None:
    stages = [RECIPES[f"text:{name}"].stage(files=files, **TINY) for name in STUDENTS]
    trained = Local(Storage(tmp_path / "storage"), Display(quiet=True), any_teacher=True).run(*stages)
    for each in trained:
        assert each.metrics["val_perplexity"] < 256
        assert each.metrics["test_perplexity"] == pytest.approx(torch.tensor(each.metrics["test_nll"]).exp().item())
    assert {"curriculum/block1", "curriculum/block2"} <= {str(each) for each in graph(stages[-1])}
    again = Refusing(Storage(tmp_path / "storage"), Display(quiet=True)).run(*stages)
    assert [each.metrics for each in again] == [each.metrics for each in trained]


def test_the_benchmark_prints_what_a_token_takes_and_what_it_costs(
    files: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = recipes.load_file(ROOT / "benchmarks" / "text.py")
    monkeypatch.setattr(module("text"), "teacher", functools.partial(module("text").teacher, epochs=1))
    words = ["text.py", "--files", files, "--rows", "320", "--epochs", "1", "--storage", str(tmp_path / "storage")]
    monkeypatch.setattr(sys, "argv", words)
    bench.main()
    lines = {line[:18].strip(): line[18:].split() for line in capsys.readouterr().out.splitlines()[3:]}
    sizes = {name: float(words[0]) for name, words in lines.items() if words[0] != "-"}
    # what the codecs take (of each of the k two bytes that name it, and its code), and in few rows some more: ids,
    # checksums, the tables of a file
    for name, least in {
        "dense_f16": 512,
        "features": 128,
        "topk_u8, k = 64": 64 * 3,
        "topk_u8, k = 16": 16 * 3,
    }.items():
        assert least < sizes[name] < 1.2 * least + 16, name
    assert lines["dense_f16"][2] == "+0.0000"
    assert abs(float(lines["features"][2])) < 0.1 * float(lines["features"][1])
