"""Functions of stages inside each other, and terms of several kinds beside each other: written, and run for real."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import tiny
from safetensors.torch import load_file

from raykd.methods.born_again import born_again
from raykd.methods.chain import chain
from raykd.methods.classroom import classroom
from raykd.methods.correlation import CC
from raykd.methods.dgkd import densely, dgkd
from raykd.methods.extraction import extracted
from raykd.methods.fitnet import FitNet
from raykd.methods.kl import KL
from raykd.methods.mutual import live_mutual, mutual, peer
from raykd.methods.progressive import progressive
from raykd.methods.rkd import RKD
from raykd.methods.simkd import simkd
from raykd.methods.smskd import REFERENCE, anchored
from raykd.models import CNN, MLP
from raykd.plan import plan
from raykd.runtime import Display, Local, Trained
from raykd.stage import Stage
from raykd.storage import Storage
from raykd.terms import Constant, CrossEntropy, Distill

SECOND = CrossEntropy() + Distill(KL(), temperature=Constant(3.0))
LINK = MLP((24,), shape=tiny.SHAPE)
QUICK = tiny.teacher().budget


def run(stage: Stage, folder: Path) -> Trained:
    """Makes it real; what comes of it has learned something: one class in ten is chance."""
    (trained,) = Local(Storage(folder), Display(quiet=True)).run(stage)
    assert trained.metrics["test_top1"] > 0.2
    assert all(tensor.isfinite().all() for tensor in load_file(trained.weights).values())
    return trained


def labels(stage: Stage, folder: Path) -> list[str]:
    """What is made, in its order."""
    return [str(step.network) for step in plan([stage], Storage(folder)).steps]


def test_a_chain_can_be_anchored(tmp_path: Path) -> None:
    last = anchored(chain(tiny.student(), [LINK]), [SECOND])
    assert labels(last, tmp_path) == ["teacher", "student/link 1", "student", "student, stage 2"]
    assert str(last.teachers["teacher"]) == "student/link 1"
    assert last.teachers[REFERENCE] == last.init
    run(last, tmp_path)


def test_what_is_anchored_can_be_the_end_of_a_chain(tmp_path: Path) -> None:
    first = tiny.student()
    inside = chain(anchored(first, [SECOND]), [LINK], teacher="teacher")
    link = inside.teachers["teacher"]
    assert isinstance(link, Stage)
    assert link.student == LINK
    assert inside.init == first  # which learned from the teacher, not from the link
    run(inside, tmp_path)


def test_progressive_distillation_can_be_anchored(tmp_path: Path) -> None:
    last = anchored(progressive(tiny.student(epochs=4), [2]), [SECOND], budget=replace(tiny.student().budget, epochs=1))
    assert labels(last, tmp_path) == ["teacher, epoch 2", "teacher", "student/link 1", "student", "student, stage 2"]
    run(last, tmp_path)
    assert sum(1 for _ in tmp_path.glob("stages/*/result.json")) == 5


def test_what_is_extracted_can_be_anchored_and_what_is_anchored_extracted(tmp_path: Path) -> None:
    after = anchored(extracted(tiny.student()), [SECOND], budget=QUICK)
    assert labels(after, tmp_path) == ["teacher", "student/layer1", "student", "student, stage 2"]
    assert after.teachers[REFERENCE] == after.init == extracted(tiny.student())
    run(after, tmp_path)
    before = extracted(anchored(tiny.student(), [SECOND]), teacher="teacher")
    assert labels(before, tmp_path) == ["teacher", "student", "student, stage 2/layer1", "student, stage 2"]
    run(before, tmp_path)


def test_the_end_of_a_chain_is_extracted_from_the_link_above_and_a_link_from_its_teacher(tmp_path: Path) -> None:
    last = extracted(chain(tiny.student(), [LINK]))
    assert labels(last, tmp_path) == ["teacher", "student/link 1", "student/layer1", "student"]
    assert all(str(each.teachers["teacher"]) == "student/link 1" for each in (last, last.init))  # type: ignore[union-attr]
    run(last, tmp_path)
    link = last.teachers["teacher"]
    assert isinstance(link, Stage)
    run(replace(last, teachers={"teacher": extracted(link)}), tmp_path)


def test_a_students_own_layers_are_extracted_before_its_teachers_classifier_judges_them(tmp_path: Path) -> None:
    first = simkd(convolutional(budget=replace(QUICK, epochs=8)))
    taps = ("stage1", "stage2")
    trained = run(extracted(first, taps, teacher_layers=taps, epochs=(1, 1, 6)), tmp_path)
    teacher = load_file(Storage(tmp_path).weights(convolutional().teachers["teacher"]))
    assert (load_file(trained.weights)["classifier.weight"] == teacher["fc.weight"]).all()


def test_classroomkd_is_a_stage_between_others(tmp_path: Path) -> None:
    mentors = {"teacher": tiny.teacher(), "peer": replace(tiny.teacher(epochs=1, width=8), label="peer")}
    first = replace(tiny.student(epochs=1), teachers=mentors)
    last = anchored(first, [classroom(), classroom(per="batch"), SECOND])
    run(last, tmp_path)
    for stage in (last, last.init):
        assert isinstance(stage, Stage)
        assert set(stage.needs) == {"student", "teacher", "peer", REFERENCE}


def convolutional(**changes: object) -> Stage:
    """A student and a teacher that have maps."""
    teacher = replace(tiny.teacher(epochs=2), student=CNN(8, shape=tiny.SHAPE))
    return replace(tiny.student(epochs=2), student=CNN(4, shape=tiny.SHAPE), teachers={"teacher": teacher}, **changes)  # type: ignore[arg-type]


def test_features_and_logits_are_summed_in_one_stage(tmp_path: Path) -> None:
    both = SECOND + 2.0 * Distill(FitNet("stage2")) + 0.5 * Distill(RKD()) + 0.02 * Distill(CC())
    trained = run(convolutional(objective=both), tmp_path)
    lines = Path(trained.weights).with_name("metrics.jsonl").read_text().splitlines()
    assert all(str(term.term) in lines[-1] for term in both.terms)
    assert len(trained.stage.kept["teacher"]) == 3  # logits, a map, and one vector for both relations


def test_one_stage_of_features_and_the_next_of_logits_leaves_the_adapter_behind(tmp_path: Path) -> None:
    last = anchored(convolutional(objective=CrossEntropy() + Distill(FitNet("stage2"))), [SECOND])
    trained = run(last, tmp_path)
    assert load_file(trained.weights).keys() == CNN(4, shape=tiny.SHAPE).build().body.state_dict().keys()


def test_simkds_student_can_be_anchored_and_its_classifier_stays_the_teachers(tmp_path: Path) -> None:
    first = simkd(convolutional())
    trained = run(anchored(first, [first.objective]), tmp_path)
    teacher = load_file(Storage(tmp_path).weights(convolutional().teachers["teacher"]))
    found = load_file(trained.weights)
    for part in ("weight", "bias"):
        assert (found[f"classifier.{part}"] == teacher[f"fc.{part}"]).all()


def test_the_best_of_a_cohort_teaches_densely_guided_links(tmp_path: Path) -> None:
    alone = replace(tiny.student(), objective=1.0 * CrossEntropy(), teachers={}, budget=QUICK)
    first = peer(live_mutual(alone, [LINK]), 1)
    last = densely(replace(alone, objective=dgkd(), teachers={"teacher": first}), [LINK])
    assert set(last.teachers) == {"teacher", "link 1"}
    run(last, tmp_path)


def test_a_student_of_a_round_is_born_again(tmp_path: Path) -> None:
    alone = replace(tiny.student(), objective=1.0 * CrossEntropy(), teachers={}, budget=QUICK)
    rounds = mutual({"one": alone, "other": replace(alone, seed=1)}, 2)
    run(born_again(rounds["one"], 1), tmp_path)
