"""Resolving a selection: what is made, what is taken, and that neither depends on how many are tried at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

import raykd
from raykd.answers import Tally
from raykd.budget import Budget
from raykd.identity import fingerprint
from raykd.methods.auto_chain import auto_chain
from raykd.models import MLP
from raykd.runtime import Display, Local
from raykd.runtime.runner import Trained
from raykd.runtime.selecting import chosen, compared, resolve
from raykd.selection import Selection
from raykd.stage import Stage
from raykd.storage import Storage, write_json
from raykd.training.job import TrainingJob
from raykd.training.loop import Epoch

SEVERAL = Selection(tuple(tiny.student(seed=seed) for seed in range(5)), epsilon=0.05)
BRIEF = Budget(1, batch_size=32)
SMALL = replace(tiny.student(replicas=1), student=MLP((4,), shape=tiny.SHAPE), budget=BRIEF)


class Told(Local):
    """A runner that trains nothing: candidates have the values that it is told."""

    values: Sequence[float]

    def run(self, *stages: Stage) -> list[Trained]:
        return [Trained(stage, "", self._result(stage)["metrics"], self.counts) for stage in stages]

    def _result(self, stage: Stage) -> dict[str, dict[str, float]]:
        value = self.values[stage.seed] if stage.teachers else 0.5
        result = {"weights": "none", "metrics": {"val_top1": value, "val_nll": 1 - value}, "seconds": 1.0}
        write_json(self.storage.folder(stage) / "result.json", result)
        return result  # type: ignore[return-value]

    @property
    def made(self) -> set[int]:
        """The candidates that were made, by their place."""
        return {i for i, each in enumerate(SEVERAL.candidates) if self.storage.result(each) is not None}


def told(values: Sequence[float], root: Path) -> Told:
    runner = Told(Storage(root), Display(quiet=True))
    runner.values = values
    return runner


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=5, max_size=5), st.integers(1, 6))
def test_what_is_taken_does_not_depend_on_how_many_are_tried_at_once(
    tmp_path_factory: pytest.TempPathFactory, values: list[float], at_once: int
) -> None:
    expected = next((i for i in range(4) if values[i + 1] - values[i] < 0.05), 4)
    runner = told(values, tmp_path_factory.mktemp("told"))
    assert resolve(SEVERAL, runner, speculative=at_once).stage == SEVERAL.candidates[expected]
    assert chosen(SEVERAL, runner.storage) == SEVERAL.candidates[expected]
    least = min(expected + 2, 5)
    assert runner.made.issuperset(range(least))
    assert len(runner.made) < least + at_once  # no more in vain than were tried at once
    assert at_once > 1 or len(runner.made) == least


def test_the_candidates_that_were_made_are_compared_and_what_they_share_is_paid_once(tmp_path: Path) -> None:
    # as one stage after the other gains .1, .1, .01
    runner = told([0.5, 0.6, 0.7, 0.71, 0.9], tmp_path)
    teacher = tiny.teacher()
    result = {"weights": "none", "metrics": {}, "seconds": 10.0}
    write_json(runner.storage.folder(teacher) / "result.json", result)
    resolve(SEVERAL, runner)
    found = compared(SEVERAL, runner.storage)
    assert [each.taken for each in found] == [False, False, True, False]  # the last was made, and rejected
    assert [each.value for each in found] == [0.5, 0.6, 0.7, 0.71]
    assert found[0].gain is None
    assert [each.gain for each in found[1:]] == pytest.approx([0.1, 0.1, 0.01])
    assert [each.seconds for each in found] == [11.0, 1.0, 1.0, 1.0]
    assert compared(SEVERAL, Storage(tmp_path / "elsewhere")) == []


def test_with_one_candidate_there_is_nothing_to_compare_and_what_goes_beside_is_made_too(tmp_path: Path) -> None:
    runner = told([0.5], tmp_path)
    stage = SEVERAL.candidates[0]
    assert resolve(Selection((stage,)), runner, beside=[stage.alone()]).stage == stage
    assert runner.storage.result(stage.alone()) is not None


def test_a_mistake_in_a_candidate_that_may_never_be_made_is_found_before_any_work(tmp_path: Path) -> None:
    missing = raykd.Pretrained(tiny.teacher().student, "/no/such/weights.safetensors")
    runner = told([0.5, 0.4, 0.3], tmp_path)
    with pytest.raises(ValueError, match="/no/such/weights"):
        resolve(Selection((SMALL, replace(SMALL, seed=1), replace(SMALL, teachers={"teacher": missing}))), runner)
    assert not list(tmp_path.rglob("result.json"))


def test_a_chain_is_resolved_by_training_and_what_exists_is_not_done_again(tmp_path: Path) -> None:
    selection = auto_chain(SMALL, 1, epsilon=1.0)  # no gain is as large
    runner = Local(Storage(tmp_path), Display(quiet=True))
    done = resolve(selection, runner)
    assert done.stage == SMALL
    assert len(list(tmp_path.glob("stages/*/result.json"))) == 4  # the teacher, two students, the link that was in vain
    # asked by the student and by the link for the same, and the link by its student
    assert runner.counts.teacher_rows == {"teacher": 2 * tiny.rows()}
    (first, second) = compared(selection, runner.storage)
    assert (first.taken, second.taken) == (True, False)
    assert [len(each.made) for each in (first, second)] == [1, 2]
    assert second.seconds > 0

    again = Local(Storage(tmp_path), Display(quiet=True))
    assert resolve(selection, again).metrics == done.metrics
    assert "train" not in again.counts.seconds


class Counting(Local):
    """A runner that notes what it trains."""

    def __init__(self, root: Path):
        super().__init__(Storage(root), Display(quiet=True), any_teacher=True)
        self.trained: list[str] = []

    def train(self, job: TrainingJob, on_epoch: Callable[[Epoch], None]) -> Tally:
        self.trained.append(fingerprint(job.stage))
        return super().train(job, on_epoch)


@pytest.mark.parametrize("at_once", [1, 3])
def test_links_that_nested_candidates_share_are_trained_once(tmp_path: Path, at_once: int) -> None:
    wide = replace(tiny.teacher(epochs=1), student=MLP((48,), shape=tiny.SHAPE))
    stage = replace(SMALL, teachers={"teacher": wide})
    written = auto_chain(stage, 3, epsilon=0.0, spacing="nested")
    selection = replace(written, metric="val_nll")
    runner = Counting(tmp_path)
    resolve(selection, runner, speculative=at_once)
    assert len(runner.trained) == len(set(runner.trained))
    made = [each.stage for each in compared(selection, runner.storage)]
    distinct = {fingerprint(each) for candidate in made for each in _all(candidate)}
    assert set(runner.trained) == distinct
    # the teacher, a student for each candidate, and a link for each but the first: none is there twice
    assert len(distinct) == 1 + len(made) + (len(made) - 1)
    apart = [each for candidate in made for each in _all(candidate)]
    assert len(apart) > len(distinct)  # one after the other, without sharing, it would have been so many


def _all(stage: Stage) -> list[Stage]:
    above = [each for teacher in stage.teachers.values() if isinstance(teacher, Stage) for each in _all(teacher)]
    return [*above, stage]


def test_run_takes_a_selection_from_python(tmp_path: Path) -> None:
    done = raykd.run(auto_chain(SMALL, 1), storage=tmp_path, local=True, quiet=True)
    assert fingerprint(done.stage) in {fingerprint(each) for each in auto_chain(SMALL, 1).candidates}


def test_the_command_line_selects_and_shows_the_candidates(raykd: Any, tmp_path: Path) -> None:
    target = f"{Path(__file__).parents[1] / 'tiny_jobs.py'}:chained"
    planned = raykd("plan", target, "--json").json
    assert [each["label"] for each in planned["candidates"]] == ["chained", "chained, 1 link", "chained, 2 links"]
    assert len(planned["steps"]) == 8  # the student alone, the teacher, and 1 + 2 + 3 more
    assert raykd("eval", target).code == 2  # nothing was selected yet
    done = raykd("run", target, "--json", "--local")
    assert done.code == 0, done.err
    found = done.json
    assert [each["links"] for each in found["candidates"]][:2] == [0, 1]
    (taken,) = [each for each in found["candidates"] if each["taken"]]
    assert (taken["stage"], taken["label"]) == (found["stage"], found["label"])
    assert taken["value"] == found["metrics"]["val_top1"]
    assert all(len(each["networks"]) == len(each["parameters"]) == each["links"] + 1 for each in found["candidates"])
    for word in ("candidates", "gain", "taken", "student distilled", "retention"):
        assert word in done.out
    again = raykd("run", target, "--json", "--local").json
    assert again["candidates"] == found["candidates"]
    assert again["metrics"] == found["metrics"]
    assert "train" not in again["seconds"]
    assert raykd("eval", target, "--json").json["stage"] == found["stage"]
    assert "HPM-KD" in raykd("cite", target).out
