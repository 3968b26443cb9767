"""Progressive distillation: snapshots of one teacher's training, one after the other, for one training of the student."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file

from raykd import Local
from raykd.budget import SGD, Budget
from raykd.identity import fingerprint
from raykd.methods.chain import chain
from raykd.methods.progressive import continued, progressive
from raykd.methods.smskd import anchored
from raykd.models import MLP
from raykd.plan import plan
from raykd.runtime import Display
from raykd.stage import Pretrained, Stage
from raykd.storage import Storage
from raykd.terms import CrossEntropy


def parents(stage: Stage) -> list[Stage]:
    """The stage and those that it goes on from, the first one first."""
    before = [] if stage.init is None else parents(stage.init)  # type: ignore[arg-type]
    return [*before, stage]


def teacher_of(stage: Stage) -> Stage:
    found = stage.teachers["teacher"]
    assert isinstance(found, Stage)
    return found


def epochs_of(root: Path, stage: Stage) -> list[int]:
    lines = (Storage(root).folder(stage) / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["epoch"] for line in lines]


def test_each_part_has_the_next_snapshot_and_the_last_the_finished_teacher() -> None:
    stage = tiny.student(epochs=7)
    links = parents(progressive(stage, (1, 3)))
    assert [teacher_of(link).budget.until for link in links] == [1, 3, None]
    assert [teacher_of(link).budget.keep for link in links] == ["last", "last", "best"]
    assert teacher_of(links[-1]) == tiny.teacher()
    for link in links:
        assert replace(teacher_of(link), budget=tiny.teacher().budget) == tiny.teacher()
        assert (link.student, link.objective, link.view, link.seed) == (
            stage.student, stage.objective, stage.view, stage.seed,
        )  # fmt: skip
    assert [str(link) for link in links] == ["student/link 1", "student/link 2", "student"]
    assert [str(teacher_of(link)) for link in links] == ["teacher, epoch 1", "teacher, epoch 3", "teacher"]


def test_the_parts_together_are_the_students_budget() -> None:
    stage = tiny.student(epochs=7)
    links = parents(progressive(stage, (1, 3)))
    assert [link.budget.trained for link in links] == [3, 2, 2]
    assert tuple(link.budget for link in links) == stage.budget.parts(3)
    given = parents(progressive(stage, (1, 3), parts=(1, 1, 5)))
    assert tuple(link.budget for link in given) == stage.budget.parts((1, 1, 5))


def test_no_snapshots_are_the_stage_itself() -> None:
    assert fingerprint(progressive(tiny.student(), ())) == fingerprint(tiny.student())


def test_what_the_stage_starts_from_and_inherits_is_for_the_first_part() -> None:
    before = tiny.student(seed=3)
    same = replace(tiny.student(), student=tiny.teacher().student)
    stage = replace(same, init=replace(before, student=same.student), inherit={"fc": ("teacher", "fc")})
    first, second = parents(progressive(stage, (2,)))[-2:]
    assert first.init == stage.init
    assert dict(first.inherit) == dict(stage.inherit)
    assert dict(second.inherit) == {}
    fixed = parents(progressive(replace(stage, frozen=("fc",)), (2,)))[-1]
    assert dict(fixed.inherit) == dict(stage.inherit)  # a frozen part is the one of the teacher at hand
    assert dict(continued(fixed).inherit) == dict(stage.inherit)


def test_one_of_several_teachers_is_followed_and_the_others_teach_all_parts() -> None:
    other = tiny.teacher(width=8)
    stage = replace(tiny.student(), teachers={"a": tiny.teacher(), "b": other})
    links = parents(progressive(stage, (2,), teacher="a"))
    assert all(link.teachers["b"] == other for link in links)
    assert [link.teachers["a"].budget.until for link in links] == [2, None]  # type: ignore[union-attr]


def test_a_plan_trains_the_teacher_once_in_parts(tmp_path: Path) -> None:
    steps = plan([tiny.student().alone(), progressive(tiny.student(), (1, 3))], Storage(tmp_path)).steps
    assert [str(step.network) for step in steps] == [
        "student alone", "teacher, epoch 1", "teacher, epoch 3", "teacher", "student/link 1", "student/link 2", "student",
    ]  # fmt: skip


def test_the_teacher_and_the_student_are_trained_for_as_many_epochs_as_without(tmp_path: Path) -> None:
    stage = tiny.student(epochs=6)
    found = progressive(stage, (1, 3))
    runner = Local(Storage(tmp_path), Display(quiet=True))
    trained: list[tuple[str, int]] = []
    train = runner.train

    def counting(job: Any, on_epoch: Any) -> Any:
        def count(epoch: Any) -> None:
            trained.append((job.stage.label, epoch["epoch"]))
            on_epoch(epoch)

        return train(job, count)

    runner.train = counting  # type: ignore[method-assign]
    runner.run(found)
    assert trained == [
        ("teacher, epoch 1", 0), ("teacher, epoch 3", 1), ("teacher, epoch 3", 2), ("teacher", 3),
        ("student/link 1", 0), ("student/link 1", 1), ("student/link 2", 2), ("student/link 2", 3),
        ("student", 4), ("student", 5),
    ]  # fmt: skip
    alone = Local(Storage(tmp_path / "alone"), Display(quiet=True)).run(tiny.teacher())[0]
    finished = load_file(Storage(tmp_path).weights(tiny.teacher()))
    assert all(torch.equal(value, finished[name]) for name, value in load_file(alone.weights).items())
    assert epochs_of(tmp_path, found) == [4, 5]
    rows = tiny.rows() * stage.view.replicas
    assert runner.counts.teacher_rows == {"teacher": 3 * rows}


def test_with_labels_only_the_parts_are_one_training(tmp_path: Path) -> None:
    # without momentum, and about labels: then it does not matter who would teach
    objective = 1.0 * CrossEntropy()
    budget = Budget(5, batch_size=32, optimiser=SGD(lr=0.1, momentum=0.0), keep="last")
    stage = replace(tiny.student(), objective=objective, budget=budget)
    runner = Local(Storage(tmp_path), Display(quiet=True))
    whole, parts = runner.run(stage, progressive(stage, (1, 2), parts=(1, 3, 1)))
    assert runner.counts.teacher_rows == {}
    first, second = load_file(whole.weights), load_file(parts.weights)
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_it_nests_with_chains_and_anchors() -> None:
    link = MLP((20,), shape=tiny.SHAPE)
    follows = progressive(chain(tiny.student(), [link]), (2,))  # the link's training is followed
    assert [teacher_of(each).student for each in parents(follows)] == [link, link]
    assert teacher_of(parents(follows)[0]).budget.until == 2
    last = chain(progressive(tiny.student(), (2,)), [link])  # the link is taught by the finished teacher
    assert teacher_of(teacher_of(last)) == tiny.teacher()
    assert last.init == progressive(tiny.student(), (2,)).init
    third = anchored(progressive(tiny.student(), (2,)), [tiny.student(tau=4.0).objective])
    assert third.init == progressive(tiny.student(), (2,))


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda: progressive(tiny.teacher(), (2,)), "teacher has no teachers"),
        (lambda: progressive(tiny.student(), (4,)), r"epochs=\(4,\) of teacher: rising, and between 0 and 4"),
        (lambda: progressive(tiny.student(), (0,)), r"epochs=\(0,\) of teacher"),
        (lambda: progressive(tiny.student(), (2, 2)), r"epochs=\(2, 2\) of teacher"),
        (lambda: progressive(tiny.student(), (3, 1)), r"epochs=\(3, 1\) of teacher"),
        (lambda: progressive(tiny.student(epochs=2), (1, 2)), "parts of 1, 1, 0 epochs"),
        (lambda: progressive(tiny.student(), (1, 2), parts=(2, 2)), "2 parts for 2 snapshots and the finished teacher"),
        (lambda: progressive(tiny.student(), (1,), parts=(3, 2)), "parts of 3, 2 epochs"),
        (
            lambda: progressive(
                replace(tiny.student(), teachers={"teacher": Pretrained(tiny.teacher().student, "file")}), (1,)
            ),
            "teacher of student is a file",
        ),
    ],
)
def test_a_mistake_is_refused_when_it_is_written(write: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words) as refusal:
        write()
    assert "\n" not in str(refusal.value)
