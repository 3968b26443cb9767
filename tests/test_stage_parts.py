"""Parts of a student: those that start as a teacher's, and those that stay as they start."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file
from torch import Tensor

from raykd.budget import SGD, AdamW, Budget
from raykd.data import Dataset, Digits, View
from raykd.identity import fingerprint
from raykd.models import CNN, MLP
from raykd.plan import plan
from raykd.runtime import Display, Local
from raykd.stage import Pretrained, Stage
from raykd.storage import Storage
from raykd.terms import CrossEntropy
from raykd.training.learner import build

VIEW = View(Dataset(Digits(), validation=0.2, holdout=0.2, limit=160))
BUDGET = Budget(2, batch_size=32, optimiser=SGD(lr=0.1))


def teacher(width: int = 3) -> Stage:
    return Stage(CNN(width, shape=tiny.SHAPE), 1.0 * CrossEntropy(), VIEW, budget=BUDGET, label="teacher")


def student(**changes: object) -> Stage:
    """Another network of the same kind, whose objective reads no teacher."""
    stage = replace(teacher(), teachers={"big": teacher()}, seed=5, label="student")
    return replace(stage, **changes)  # type: ignore[arg-type]


def local(root: Path) -> Local:
    return Local(Storage(root), Display(quiet=True), any_teacher=True)


def start(root: Path, stage: Stage) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in build(stage, Storage(root)).student.body.state_dict().items()}


def within(path: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if name.startswith(f"{path}.")}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> set[str]:
    return {name for name in one if torch.equal(one[name], other[name])}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"frozen": ("stage4",)}, "cnn3 has no part 'stage4': it has stage1, pool1, .*fc"),
        ({"frozen": ("stage1.7",)}, "no part 'stage1.7'"),
        ({"inherit": {"head": ("big", "fc")}}, "cnn3 has no part 'head': it has stage1"),
        ({"inherit": {"fc": ("big", "classifier")}}, "cnn3 has no part 'classifier'"),
        ({"inherit": {"fc": ("tutor", "fc")}}, "'fc' inherits from 'tutor': this stage has the teachers big"),
        (
            {"inherit": {"fc": ("big", "fc")}, "teachers": {"big": teacher(5)}},
            r"'fc' of cnn3 cannot be 'fc' of big \(cnn5\): they differ at weight, \(10, 12\) and \(10, 20\)",
        ),
        ({"inherit": {"stage1": ("big", "stage2")}}, "'stage1' of cnn3 cannot be 'stage2' of big"),
        ({"inherit": {"stage1": ("big", "fc")}}, "they differ at"),
    ],
)
def test_parts_that_are_not_there_or_do_not_fit_are_refused_when_the_stage_is_written(
    changes: dict[str, object], words: str
) -> None:
    with pytest.raises(ValueError, match=words) as refusal:
        student(**changes)
    assert "\n" not in str(refusal.value)


def test_parts_are_identity_and_travel_with_the_stage() -> None:
    stage = student(inherit={"fc": ("big", "fc")}, frozen=("fc",))
    others = [student(), student(frozen=("fc",)), student(inherit={"fc": ("big", "fc")}), student(frozen=("stage1",))]
    assert len({fingerprint(each) for each in [stage, *others]}) == 5
    travelled = pickle.loads(pickle.dumps(stage))
    assert fingerprint(travelled) == fingerprint(stage)
    assert (dict(travelled.inherit), travelled.frozen) == ({"fc": ("big", "fc")}, ("fc",))
    first = student(inherit={"fc": ("big", "fc"), "stage1": ("big", "stage1")})
    second = student(inherit={"stage1": ("big", "stage1"), "fc": ("big", "fc")})
    assert fingerprint(first) == fingerprint(second)


def test_a_teacher_that_only_bequeaths_is_made_before_and_says_nothing(tmp_path: Path) -> None:
    stage = student(inherit={"fc": ("big", "fc")})
    made = plan([stage], Storage(tmp_path))
    assert [step.network for step in made.steps] == [teacher(), stage]
    assert made.teacher_rows == {}
    assert [step.network for step in plan([student()], Storage(tmp_path)).steps] == [student()]
    assert local(tmp_path).run(stage)[0].counts.teacher_rows == {}


@pytest.mark.parametrize("kind", ["trained", "given"])
def test_an_inherited_part_starts_as_the_teachers_and_the_rest_as_it_would(tmp_path: Path, kind: str) -> None:
    local(tmp_path).run(teacher())
    theirs = load_file(Storage(tmp_path).weights(teacher()))
    big = teacher() if kind == "trained" else Pretrained(teacher().student, Storage(tmp_path).weights(teacher()))
    without = start(tmp_path, student(teachers={"big": big}))
    found = start(tmp_path, student(teachers={"big": big}, inherit={"fc": ("big", "fc"), "stage2": ("big", "stage2")}))
    inherited = {*within("fc", found), *within("stage2", found)}
    assert all(torch.equal(found[name], theirs[name]) for name in inherited)
    assert all(torch.equal(found[name], without[name]) for name in found.keys() - inherited)
    assert not torch.equal(found["fc.weight"], without["fc.weight"])


def test_a_part_may_start_as_another_part_and_a_network_as_another_network(tmp_path: Path) -> None:
    local(tmp_path).run(teacher())
    theirs = load_file(Storage(tmp_path).weights(teacher()))
    whole = start(tmp_path, student(inherit={"": ("big", "")}))
    assert same(whole, theirs) == whole.keys()
    mlp = replace(teacher(), student=MLP((16, 16, 16), shape=tiny.SHAPE))
    local(tmp_path).run(mlp)
    deep = replace(mlp, seed=5, teachers={"big": mlp}, inherit={"layer3": ("big", "layer2")})
    theirs = load_file(Storage(tmp_path).weights(mlp))
    assert torch.equal(start(tmp_path, deep)["layer3.0.weight"], theirs["layer2.0.weight"])


def test_what_is_inherited_comes_after_what_the_stage_starts_from(tmp_path: Path) -> None:
    other = replace(teacher(), seed=9)
    local(tmp_path).run(teacher(), other)
    found = start(tmp_path, student(init=other, inherit={"fc": ("big", "fc")}))
    theirs, init = (load_file(Storage(tmp_path).weights(each)) for each in (teacher(), other))
    assert same(found, theirs) >= {"fc.weight", "fc.bias"}
    assert same(found, init) >= found.keys() - {"fc.weight", "fc.bias"}


def test_an_inherited_part_that_is_not_frozen_is_trained(tmp_path: Path) -> None:
    done = local(tmp_path).run(student(inherit={"fc": ("big", "fc")}))[0]
    theirs = load_file(Storage(tmp_path).weights(teacher()))
    assert not torch.equal(load_file(done.weights)["fc.weight"], theirs["fc.weight"])


@pytest.mark.parametrize("optimiser", [SGD(lr=0.1, weight_decay=0.01), AdamW(weight_decay=0.1)], ids=["sgd", "adamw"])
@pytest.mark.parametrize("ema", [None, 0.5])
def test_a_frozen_part_stays_as_it_starts_to_the_bit_with_its_batch_norm(
    tmp_path: Path, optimiser: SGD | AdamW, ema: float | None
) -> None:
    budget = replace(BUDGET, optimiser=optimiser, ema=ema, clip=1.0)
    stage = student(frozen=("stage1", "fc"), budget=budget)
    before, after = start(tmp_path, stage), load_file(local(tmp_path).run(stage)[0].weights)
    frozen = {*within("stage1", before), *within("fc", before)}
    assert {"stage1.1.running_mean", "stage1.1.num_batches_tracked", "fc.weight"} <= frozen
    assert same(before, after) == frozen


def test_what_is_frozen_is_evaluated_and_gets_no_gradient_whatever_is_trained_around_it(tmp_path: Path) -> None:
    learner = build(student(frozen=("stage2",)), Storage(tmp_path))
    for _ in range(2):
        learner.train()
        modes = {name: module.training for name, module in learner.student.body.named_modules() if name}
        assert modes == {name: name.partition(".")[0] != "stage2" for name in modes}
        learner.student.eval()  # as validation does
        learner.student.train()
    wants = {name: parameter.requires_grad for name, parameter in learner.student.body.named_parameters()}
    assert wants == {name: not name.startswith("stage2.") for name in wants}


def test_gradients_flow_through_what_is_frozen(tmp_path: Path) -> None:
    network = build(student(frozen=("fc", "stage3")), Storage(tmp_path)).train().student
    network(torch.rand(4, *tiny.SHAPE))["logits"].square().sum().backward()
    assert network.body.stage1[0].weight.grad.abs().sum() > 0
    assert network.body.fc.weight.grad is None


def test_a_frozen_part_is_frozen_after_a_resume_too(tmp_path: Path) -> None:
    long = student(frozen=("stage1", "fc"), inherit={"fc": ("big", "fc")}, budget=replace(BUDGET, epochs=3))
    short = replace(long, budget=replace(long.budget, until=1))
    local(tmp_path / "whole").run(long)
    local(tmp_path / "parts").run(short)
    local(tmp_path / "parts").run(long)
    one, other = (load_file(Storage(tmp_path / name).folder(long) / "last.safetensors") for name in ("whole", "parts"))
    assert same(one, other) == one.keys()
    theirs = load_file(Storage(tmp_path / "parts").weights(teacher()))
    assert torch.equal(other["fc.weight"], theirs["fc.weight"])


def test_nothing_trained_is_a_copy_with_the_inherited_parts(tmp_path: Path) -> None:
    stage = student(inherit={"fc": ("big", "fc")}, budget=replace(BUDGET, until=0))
    found = load_file(local(tmp_path).run(stage)[0].weights)
    expected = start(tmp_path, stage)
    assert same(found, expected) == expected.keys()
    theirs = load_file(Storage(tmp_path).weights(teacher()))
    assert torch.equal(found["fc.weight"], theirs["fc.weight"])


def test_alone_has_no_teachers_parts_and_trains_everything() -> None:
    alone = student(inherit={"fc": ("big", "fc")}, frozen=("stage1",)).alone()
    assert (dict(alone.inherit), alone.frozen, dict(alone.teachers)) == ({}, (), {})
