"""SMSKD: what a further stage computes, whom it reads, where it starts, and what its switches change."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tiny
import torch
from laws import random_batch

from raykd import Local
from raykd.budget import Budget
from raykd.identity import fingerprint
from raykd.methods.classroom import classroom
from raykd.methods.kl import KL, ReverseKL
from raykd.methods.smskd import Doubt, Trust, anchored
from raykd.models.weights import load
from raykd.objective import Context
from raykd.plan import plan
from raykd.runtime import Display
from raykd.signals import LOGITS
from raykd.storage import Storage
from raykd.terms import Constant, CrossEntropy, Distill

SECOND = CrossEntropy() + Distill(ReverseKL(), temperature=Constant(2.0))


def test_no_further_objective_is_the_base_method() -> None:
    assert anchored(tiny.student(), []) is not None
    assert fingerprint(anchored(tiny.student(), [])) == fingerprint(tiny.student())


def test_a_stage_continues_from_the_one_before_which_is_its_reference() -> None:
    first = tiny.student()
    third = anchored(first, [SECOND, 1.0 * CrossEntropy() + Distill(KL())])
    second = third.init
    assert second == third.teachers["reference"]
    assert second is not None
    assert second.init == second.teachers["reference"] == first
    assert set(third.teachers) == {"teacher", "reference"}
    assert [str(each) for each in (first, second, third)] == ["student", "student, stage 2", "student, stage 3"]


def test_anchoring_step_by_step_is_anchoring_at_once() -> None:
    other = 1.0 * CrossEntropy() + Distill(KL())
    once = anchored(tiny.student(), [SECOND, other])
    assert fingerprint(anchored(anchored(tiny.student(), [SECOND]), [other])) == fingerprint(once)


def test_without_a_reference_it_is_sequential_fine_tuning() -> None:
    first = tiny.student()
    found = anchored(first, [SECOND], reference=0.0)
    assert fingerprint(found) == fingerprint(replace(first, objective=SECOND.about(("teacher",)), init=first))
    assert set(found.teachers) == {"teacher"}


@pytest.mark.parametrize(("weighting", "sign"), [(Doubt, -1), (Trust, 1), (None, 0)])
@pytest.mark.parametrize("weight", [1.0, 0.5])
def test_the_loss_is_the_published_one(weighting: type[Doubt] | None, sign: int, weight: float) -> None:
    """By loops, in double precision."""
    batch, tau = random_batch(), 4.0
    batch = replace(batch, teachers={"teacher": batch.teachers["a"], "reference": batch.teachers["b"]})
    objective = anchored(tiny.student(), [SECOND], reference=weight, weighting=weighting, tau=tau).objective
    names = ("teacher", "reference")
    context = Context({name: {LOGITS: (5,)} for name in ("student", *names)}, names, classes=5, rows=9)
    found_B = objective.build(context)(batch).sum(0)
    for row in range(6):
        z = {name: each[LOGITS][row].detach().double() for name, each in batch.teachers.items()}
        z["student"] = batch.student[LOGITS][row].detach().double()
        label = batch.labels_B[row]

        def kl(p: torch.Tensor, q: torch.Tensor, tau: float) -> torch.Tensor:
            p, q = (p / tau).log_softmax(0), (q / tau).log_softmax(0)
            return tau**2 * (p.exp() * (p - q)).sum()

        certain = z["teacher"].softmax(0)[label]
        w = {-1: 1 - certain, 1: certain, 0: torch.tensor(1.0)}[sign]
        expected = -z["student"].log_softmax(0)[label] + kl(z["student"], z["teacher"], 2.0)
        expected = expected + weight * w * kl(z["reference"], z["student"], tau)
        torch.testing.assert_close(found_B[row].double(), expected, rtol=1e-4, atol=1e-5)


def test_the_weight_lies_between_0_and_1_and_the_directions_are_opposite() -> None:
    batch = random_batch(rows=64)
    doubt_B, trust_B = Doubt(("a",))(batch, ("b",)), Trust(("a",))(batch, ("b",))
    assert ((doubt_B >= 0) & (doubt_B <= 1)).all()
    torch.testing.assert_close(doubt_B + trust_B, torch.ones(1, 64))
    both_B = Trust(("a", "b"))(batch, ("c",))
    torch.testing.assert_close(both_B, (trust_B + Trust(("b",))(batch, ("c",))) / 2)


def test_the_reference_stays_and_the_student_moves_on(tmp_path) -> None:
    first = tiny.student(epochs=2)
    budget = replace(first.budget, epochs=1, keep="last")
    second = anchored(first, [SECOND], budget=budget)
    runner = Local(Storage(tmp_path), Display(quiet=True))
    (before,) = runner.run(first)
    weights = load(before.weights, first.student)
    (after,) = runner.run(second)
    assert all(torch.equal(value, weights[name]) for name, value in load(before.weights, first.student).items())
    assert any(not torch.equal(value, weights[name]) for name, value in load(after.weights, first.student).items())
    assert runner.counts.teacher_rows["reference"] == tiny.rows()  # of one epoch
    assert second.budget == budget


def test_a_plan_has_the_stages_in_their_order(tmp_path) -> None:
    third = anchored(tiny.student(), [SECOND, SECOND])
    steps = [str(step.network) for step in plan([third], Storage(tmp_path)).steps]
    assert steps == ["teacher", "student", "student, stage 2", "student, stage 3"]


def test_classroomkd_runs_inside_a_stage_of_it(tmp_path) -> None:
    peer = replace(tiny.teacher(epochs=1, width=8), label="peer")
    first = replace(tiny.student(epochs=1), teachers={"teacher": tiny.teacher(), "peer": peer})
    (found,) = Local(Storage(tmp_path), Display(quiet=True)).run(anchored(first, [classroom(), SECOND]))
    assert "val_top1" in found.metrics
    assert set(found.stage.needs) == {"student", "teacher", "peer", "reference"}


def test_a_stage_without_teachers_is_refused() -> None:
    with pytest.raises(ValueError, match="has no teachers: what anchors a stage"):
        anchored(tiny.teacher(), [1.0 * CrossEntropy()])


def test_budgets_may_differ_and_are_the_stages_own_otherwise() -> None:
    short = Budget(1)
    assert anchored(tiny.student(), [SECOND], budget=short).budget == short
    assert anchored(tiny.student(), [SECOND]).budget == tiny.student().budget
