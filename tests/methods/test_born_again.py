"""Born-again networks: generations of one network, each taught by the one before."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file

from raykd import Local
from raykd.identity import fingerprint
from raykd.methods.born_again import BORN_AGAIN, born_again
from raykd.methods.chain import chain
from raykd.methods.kl import KL, ReverseKL
from raykd.models import MLP
from raykd.plan import plan
from raykd.runtime import Display
from raykd.stage import Stage
from raykd.storage import Storage
from raykd.terms import CrossEntropy, Distill


def test_each_generation_is_the_same_network_taught_by_the_one_before() -> None:
    first = tiny.teacher()
    third = born_again(first, 2)
    second = third.teachers["teacher"]
    assert isinstance(second, Stage)
    assert dict(second.teachers) == {"teacher": first}
    for generation in (second, third):
        assert (generation.student, generation.view, generation.budget) == (first.student, first.view, first.budget)
        assert generation.objective == BORN_AGAIN == 1.0 * CrossEntropy() + 1.0 * Distill(KL())
    assert [str(each) for each in (first, second, third)] == [
        "teacher",
        "teacher, generation 1",
        "teacher, generation 2",
    ]


def test_no_further_generation_is_the_stage_itself() -> None:
    assert fingerprint(born_again(tiny.student(), 0)) == fingerprint(tiny.student())


def test_further_generations_go_on_where_others_ended() -> None:
    once, twice = born_again(tiny.student(), 3), born_again(born_again(tiny.student(), 1), 2)
    assert fingerprint(twice) == fingerprint(once)
    assert str(twice) == str(once) == "student, generation 3"


def test_generation_0_may_have_a_teacher_of_its_own_which_the_next_has_no_more() -> None:
    found = born_again(tiny.student(), 1)
    assert dict(found.teachers) == {"teacher": tiny.student()}


def test_each_generation_starts_anew_from_weights_of_its_own() -> None:
    first = replace(tiny.student(), init=tiny.student(seed=5), frozen=("layer1",))
    second = born_again(first, 1)
    assert (second.init, second.frozen, dict(second.inherit)) == (None, (), {})
    seeds, generation = [], born_again(first, 3)
    while "generation" in str(generation):
        seeds.append(generation.seed)
        generation = generation.teachers["teacher"]  # type: ignore[assignment]
    assert seeds == [first.seed + 3, first.seed + 2, first.seed + 1]


def test_another_objective_may_be_given() -> None:
    term = Distill(ReverseKL())
    assert born_again(tiny.teacher(), 1, objective=term).objective == 1.0 * term
    stage = tiny.student()
    assert born_again(stage, 1, objective=stage.objective).objective == stage.objective


def test_it_nests_with_chains() -> None:
    link = MLP((20,), shape=tiny.SHAPE)
    found = chain(born_again(tiny.teacher(), 2), [link])
    above = found.teachers["teacher"]
    assert isinstance(above, Stage)
    assert above.student == link
    assert above.teachers["teacher"] == born_again(tiny.teacher(), 1)
    assert dict(born_again(chain(tiny.student(), [link]), 1).teachers) == {"teacher": chain(tiny.student(), [link])}


def test_a_plan_has_the_generations_in_their_order(tmp_path: Path) -> None:
    steps = [str(step.network) for step in plan([born_again(tiny.student(), 2)], Storage(tmp_path)).steps]
    assert steps == ["teacher", "student", "student, generation 1", "student, generation 2"]


def test_generations_run_and_differ(tmp_path: Path) -> None:
    stages = [born_again(tiny.teacher(epochs=3), generation) for generation in range(3)]
    runner = Local(Storage(tmp_path), Display(quiet=True))
    done = runner.run(*stages)
    assert runner.counts.teacher_rows == {"teacher": 2 * tiny.rows()}
    one, two, three = (load_file(each.weights)["fc.weight"] for each in done)
    assert not torch.equal(one, two)
    assert not torch.equal(two, three)
    assert all(each.metrics["test_top1"] > 0.5 for each in done)


def test_a_negative_number_of_generations_is_refused() -> None:
    with pytest.raises(ValueError, match="generations=-1: 0 or more"):
        born_again(tiny.teacher(), -1)
