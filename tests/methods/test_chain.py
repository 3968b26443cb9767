"""TAKD: who teaches whom, what a chain shares with other chains, and what a link does not inherit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file

from raykd import Local
from raykd.budget import SGD, Budget
from raykd.identity import fingerprint
from raykd.methods.auto_chain import auto_chain
from raykd.methods.chain import chain
from raykd.methods.kl import KL
from raykd.models import CNN, MLP, ResNet
from raykd.models.pruning import parts
from raykd.plan import plan
from raykd.runtime import Display
from raykd.signals import LOGITS
from raykd.stage import Stage
from raykd.storage import Storage
from raykd.terms import Constant, Distill
from raykd.training.learner import build

LARGE, SMALL = MLP((24,), shape=tiny.SHAPE), MLP((20,), shape=tiny.SHAPE)


def test_each_link_is_taught_by_the_one_before_and_the_student_by_the_last() -> None:
    stage = tiny.student()
    last = chain(stage, [LARGE, SMALL])
    small = last.teachers["teacher"]
    assert isinstance(small, Stage)
    large = small.teachers["teacher"]
    assert isinstance(large, Stage)
    assert large.teachers["teacher"] == stage.teachers["teacher"]
    assert [each.architecture for each in (large, small, last)] == [LARGE, SMALL, stage.student]
    for link in (large, small):
        assert (link.objective, link.view, link.budget, link.seed) == (
            stage.objective, stage.view, stage.budget, stage.seed,
        )  # fmt: skip
    assert [str(each) for each in (large, small, last)] == ["student/link 1", "student/link 2", "student"]


def test_no_links_are_the_stage_itself() -> None:
    assert fingerprint(chain(tiny.student(), [])) == fingerprint(tiny.student())


def test_inserting_one_link_after_the_other_is_inserting_all_at_once() -> None:
    once = chain(tiny.student(), [LARGE, SMALL])
    twice = chain(chain(tiny.student(), [LARGE]), [SMALL])
    assert fingerprint(twice) == fingerprint(once)
    assert str(twice.teachers["teacher"]) == "student/link 2"


def test_chains_share_the_links_that_begin_them() -> None:
    one, other = chain(tiny.student(), [LARGE]), chain(tiny.student(), [LARGE, SMALL])
    small = other.teachers["teacher"]
    assert isinstance(small, Stage)
    assert fingerprint(one.teachers["teacher"]) == fingerprint(small.teachers["teacher"])


def test_links_may_have_budgets_of_their_own() -> None:
    budgets = [Budget(1), Budget(2)]
    last = chain(tiny.student(), [LARGE, SMALL], budgets=budgets)
    small = last.teachers["teacher"]
    assert isinstance(small, Stage)
    large = small.teachers["teacher"]
    assert isinstance(large, Stage)
    assert [large.budget, small.budget, last.budget] == [*budgets, tiny.student().budget]


def test_the_links_take_the_place_of_one_of_several_teachers_and_the_others_teach_all() -> None:
    other = tiny.teacher(width=8)
    stage = replace(tiny.student(), teachers={"a": tiny.teacher(), "b": other})
    last = chain(stage, [LARGE], teacher="a")
    link = last.teachers["a"]
    assert isinstance(link, Stage)
    assert (link.teachers["a"], link.teachers["b"], last.teachers["b"]) == (tiny.teacher(), other, other)


def test_where_the_student_starts_is_not_for_the_links() -> None:
    before = tiny.student(seed=3)
    stage = replace(tiny.student(), init=before, frozen=("layer1",))
    last = chain(stage, [LARGE])
    link = last.teachers["teacher"]
    assert isinstance(link, Stage)
    assert (link.init, link.frozen, dict(link.inherit)) == (None, (), {})
    assert (last.init, last.frozen) == (before, ("layer1",))


def test_chains_nest_in_each_other() -> None:
    inner = chain(tiny.student(), [LARGE])
    outer = chain(replace(tiny.student(tau=4.0), teachers={"teacher": inner}), [SMALL])
    small = outer.teachers["teacher"]
    assert isinstance(small, Stage)
    assert small.teachers["teacher"] == inner


def test_a_plan_has_the_links_in_their_order(tmp_path: Path) -> None:
    steps = plan([chain(tiny.student(), [LARGE, SMALL])], Storage(tmp_path)).steps
    assert [str(step.network) for step in steps] == ["teacher", "student/link 1", "student/link 2", "student"]
    asked = [step.fillings[0].missing for step in steps[1:]]
    assert asked == [tiny.rows() * tiny.student().view.replicas] * 3


def test_a_chain_runs_and_each_teacher_is_asked_once(tmp_path: Path) -> None:
    runner = Local(Storage(tmp_path), Display(quiet=True))
    stage = replace(tiny.student(), budget=replace(tiny.student().budget, optimiser=SGD(lr=0.2)))
    (done,) = runner.run(chain(stage, [LARGE, SMALL]))
    assert runner.counts.teacher_rows == {"teacher": 3 * 2 * tiny.rows()}
    assert done.metrics["test_top1"] > 0.5
    again = Local(Storage(tmp_path), Display(quiet=True))
    again.run(chain(stage, [LARGE]))
    assert again.counts.teacher_rows == {}  # the only new student has a teacher that was asked for another link


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda: chain(tiny.teacher(), [LARGE]), "teacher has no teachers: one, or the name of one, would be right"),
        (
            lambda: chain(replace(tiny.student(), teachers={"a": tiny.teacher(), "b": tiny.teacher(width=8)}), [LARGE]),
            "student has the teachers a, b: one, or the name of one, would be right",
        ),
        (
            lambda: chain(tiny.student(), [LARGE], teacher="tutor"),
            "the teachers teacher: one called 'tutor' would be right",
        ),
        (lambda: chain(tiny.student(), [LARGE], budgets=[Budget(1)] * 2), "2 budgets for 1 links: one for each"),
        (lambda: chain(tiny.student(), [MLP((4,), shape=(5,))]), r"shape \(5,\), and the dataset has"),
        (lambda: chain(tiny.student(), [MLP((4,), shape=tiny.SHAPE, classes=3)]), "has 3 classes"),
    ],
)
def test_a_mistake_is_refused_when_it_is_written(write: object, words: str) -> None:
    with pytest.raises(ValueError, match=words) as refusal:
        write()  # type: ignore[operator]
    assert "\n" not in str(refusal.value)


def test_an_objective_that_names_its_teacher_is_about_each_links_own() -> None:
    objective = 1.0 * Distill(KL(), temperature=Constant(2.0), teachers=("teacher",))
    budget = Budget(1, optimiser=SGD(lr=0.1))
    stage = Stage(SMALL, objective, tiny.student().view, {"teacher": tiny.teacher()}, budget=budget)
    last = chain(stage, [LARGE])
    assert last.needs["teacher"] == {LOGITS}
    assert last.teachers["teacher"].label == ""


def test_an_automatic_chain_is_asked_for_by_its_name() -> None:
    stage = replace(tiny.student(), student=MLP((4,), shape=tiny.SHAPE))
    assert chain(stage, "auto") == auto_chain(stage)
    found = chain(stage, students="auto", epsilon=0.5, most=1, relative=True, spacing="nested", teacher="teacher")
    assert found == auto_chain(stage, 1, epsilon=0.5, relative=True, spacing="nested", teacher="teacher")


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda: chain(tiny.student(), "two"), "students='two': \"auto\" without budgets and parts, or a list"),  # type: ignore[call-overload]
        (lambda: chain(tiny.student(), "auto", budgets=[Budget(1)]), "students='auto'"),  # type: ignore[call-overload]
        (lambda: chain(tiny.student(), "auto", parts=parts), "students='auto'"),  # type: ignore[call-overload]
        (
            lambda: chain(tiny.student(), [LARGE], epsilon=0.1, most=2),  # type: ignore[call-overload]
            'epsilon, most of a chain of given networks: students="auto" would be right',
        ),
        (lambda: chain(tiny.student(), [SMALL], parts=parts), "mlp20 is no shallower copy of mlp32"),
    ],
)
def test_what_only_the_other_kind_of_chain_takes_is_refused(write: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        write()


def test_links_start_as_the_parts_of_their_teachers_that_are_named(tmp_path: Path) -> None:
    """Bit for bit, of a teacher that was trained, in a family with blocks."""
    above = replace(
        tiny.teacher(epochs=1),
        student=ResNet(26, shape=tiny.SHAPE),
        budget=Budget(1, batch_size=64, optimiser=SGD(0.1)),
    )
    stage = replace(
        tiny.student(replicas=1), student=CNN(2, shape=tiny.SHAPE), teachers={"teacher": above}, budget=above.budget
    )
    last = chain(stage, [ResNet(20, shape=tiny.SHAPE), ResNet(14, shape=tiny.SHAPE)], parts=parts)
    second = last.teachers["teacher"]
    assert isinstance(second, Stage)
    first = second.teachers["teacher"]
    assert isinstance(first, Stage)
    assert dict(last.inherit) == {}
    storage = Storage(tmp_path)
    Local(storage, Display(quiet=True), any_teacher=True).run(first)
    for link, teacher in ((first, above), (second, first)):  # each starts from the one above it, as that was trained
        theirs = load_file(storage.weights(teacher))
        ours = build(link, storage).student.body.state_dict()
        found = set()
        for path, source in parts(link.student, teacher.student).items():
            for name in (each for each in ours if each.startswith(f"{path}.")):
                assert torch.equal(ours[name], theirs[source + name.removeprefix(path)]), name
                found.add(name)
        assert found == set(ours)


def test_what_a_link_starts_as_is_part_of_what_it_is() -> None:
    deep = replace(tiny.teacher(), student=MLP((16, 16, 16), shape=tiny.SHAPE))
    stage = replace(tiny.student(), student=MLP((4,), shape=tiny.SHAPE), teachers={"teacher": deep})
    sizes = [MLP((16, 16), shape=tiny.SHAPE)]
    assert fingerprint(chain(stage, sizes)) != fingerprint(chain(stage, sizes, parts=parts))
    pruned = chain(chain(stage, sizes, parts=parts), [MLP((16,), shape=tiny.SHAPE)], parts=parts)
    assert fingerprint(pruned) == fingerprint(chain(stage, [*sizes, MLP((16,), shape=tiny.SHAPE)], parts=parts))
