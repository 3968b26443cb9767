"""DGKD: every larger model teaches each smaller one, and one of them is dropped at each step."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from laws import NAMES, random_batch

from raykd import Local
from raykd.batch import Batch, Progress
from raykd.budget import SGD
from raykd.identity import fingerprint
from raykd.methods.chain import chain
from raykd.methods.dgkd import DropOne, densely, dgkd
from raykd.methods.kl import KL
from raykd.models import MLP
from raykd.objective import Context
from raykd.plan import plan
from raykd.runtime import Display
from raykd.signals import LOGITS
from raykd.stage import Stage
from raykd.storage import Storage
from raykd.terms import CrossEntropy, Distill

LARGE, SMALL = MLP((24,), shape=tiny.SHAPE), MLP((20,), shape=tiny.SHAPE)


def stage() -> Stage:
    budget = replace(tiny.student().budget, optimiser=SGD(lr=0.2))
    return replace(tiny.student(), objective=dgkd(tau=2.0), budget=budget)


def at(batch: Batch, epoch: int, step: int) -> Batch:
    return replace(batch, progress=Progress(epoch, 10, step, 50))


def test_every_larger_model_teaches_each_smaller_one() -> None:
    last = densely(stage(), [LARGE, SMALL])
    one, two = last.teachers["link 1"], last.teachers["link 2"]
    assert isinstance(one, Stage)
    assert isinstance(two, Stage)
    assert dict(one.teachers) == {"teacher": tiny.teacher()}
    assert dict(two.teachers) == {"teacher": tiny.teacher(), "link 1": one}
    assert dict(last.teachers) == {"teacher": tiny.teacher(), "link 1": one, "link 2": two}
    assert [each.architecture for each in (one, two, last)] == [LARGE, SMALL, stage().student]
    assert {(each.objective, each.view, each.budget) for each in (one, two)} == {
        (stage().objective, stage().view, stage().budget)
    }
    assert [str(each) for each in (one, two, last)] == ["student/link 1", "student/link 2", "student"]


def test_no_links_are_the_stage_itself_and_one_link_of_one_teacher_differs_from_a_chain() -> None:
    assert fingerprint(densely(stage(), [])) == fingerprint(stage())
    dense, single = densely(stage(), [LARGE]), chain(stage(), [LARGE])
    assert fingerprint(dense.teachers["link 1"]) == fingerprint(single.teachers["teacher"])
    assert set(single.teachers) == {"teacher"}


def test_inserting_one_link_after_the_other_is_inserting_all_at_once() -> None:
    once = densely(stage(), [LARGE, SMALL])
    assert fingerprint(densely(densely(stage(), [LARGE]), [SMALL])) == fingerprint(once)


def test_all_but_one_count_evenly_and_together_1() -> None:
    for step in range(20):
        weight_T1 = DropOne()(at(random_batch(), 0, step), NAMES)
        assert sorted(weight_T1[:, 0].tolist()) == [0.0, 0.5, 0.5]


def test_a_single_teacher_is_never_dropped() -> None:
    assert all(DropOne()(at(random_batch(), 0, step), ("a",)).tolist() == [[1.0]] for step in range(20))


def dropped(seed: int, epoch: int, step: int, names: tuple[str, ...] = NAMES) -> str:
    weight_T1 = DropOne(seed)(at(random_batch(), epoch, step), names)
    return names[int(weight_T1[:, 0].argmin())]


def test_who_is_dropped_is_a_function_of_seed_epoch_and_step_in_any_order_of_names() -> None:
    coordinates = [(seed, epoch, step) for seed in range(2) for epoch in range(3) for step in range(10)]
    found = [dropped(*each) for each in coordinates]
    assert found == [dropped(*each) for each in coordinates]
    assert found == [dropped(*each, ("c", "a", "b")) for each in coordinates]
    rows = random_batch(rows=2)
    assert torch.equal(DropOne()(rows, NAMES), DropOne()(random_batch(rows=6), NAMES))  # on any worker
    for fixed in range(3):  # none of the three is without effect
        groups: dict[object, set[str]] = {}
        for each, name in zip(coordinates, found, strict=True):
            groups.setdefault(each[:fixed] + each[fixed + 1 :], set()).add(name)
        assert any(len(names) > 1 for names in groups.values())


def test_each_is_dropped_as_often_as_the_others() -> None:
    found = [dropped(0, epoch, step) for epoch in range(20) for step in range(50)]
    shares = [found.count(name) / len(found) for name in NAMES]
    # five standard errors of a share of a third in 1,000 draws
    assert all(abs(share - 1 / 3) < 5 * (2 / 9 / 1000) ** 0.5 for share in shares)


@pytest.mark.parametrize("alpha", [0.9, 0.4])
def test_the_loss_is_the_labels_and_the_mean_of_who_is_left(alpha: float) -> None:
    """By loops, in double precision."""
    batch, tau = at(random_batch(), 3, 7), 3.0
    context = Context({name: {LOGITS: (5,)} for name in ("student", *NAMES)}, NAMES, classes=5, rows=9)
    found_B = dgkd(tau=tau, alpha=alpha).build(context)(batch).sum(0)
    left = [name for name in NAMES if name != dropped(0, 3, 7)]
    for row in range(6):
        z = batch.student[LOGITS][row].detach().double()
        expected = -(1 - alpha) * z.log_softmax(0)[batch.labels_B[row]]
        for name in left:
            p = (batch.teachers[name][LOGITS][row].double() / tau).softmax(0)
            q = (z / tau).softmax(0)
            expected = expected + alpha / 2 * tau**2 * (p * (p / q).log()).sum()
        torch.testing.assert_close(found_B[row].double(), expected, rtol=1e-4, atol=1e-5)


def test_a_plan_has_the_links_in_their_order_and_asks_each_once(tmp_path: Path) -> None:
    steps = plan([densely(stage(), [LARGE, SMALL])], Storage(tmp_path)).steps
    assert [str(step.network) for step in steps] == ["teacher", "student/link 1", "student/link 2", "student"]
    asked = [[filling.name for filling in step.fillings] for step in steps]
    assert asked == [[], ["teacher"], ["link 1", "teacher"], ["link 1", "link 2", "teacher"]]


def test_it_runs_and_what_a_teacher_said_serves_all_that_it_teaches(tmp_path: Path) -> None:
    runner = Local(Storage(tmp_path), Display(quiet=True))
    (done,) = runner.run(densely(stage(), [LARGE, SMALL]))
    rows = tiny.rows() * stage().view.replicas
    assert runner.counts.teacher_rows == {"teacher": rows, "link 1": rows, "link 2": rows}
    assert done.metrics["test_top1"] > 0.5


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda: densely(tiny.teacher(), [LARGE]), "teacher has no teachers: links stand between them"),
        (
            lambda: densely(
                replace(stage(), objective=CrossEntropy() + Distill(KL(), teachers=("teacher",))), [LARGE, SMALL]
            ),
            "does not read link 1, link 2: name no teachers in it",
        ),
    ],
)
def test_a_mistake_is_refused_when_it_is_written(write: object, words: str) -> None:
    with pytest.raises(ValueError, match=words) as refusal:
        write()  # type: ignore[operator]
    assert "\n" not in str(refusal.value)
