"""SimKD: the loss against its formula, the stage it makes of another, and a training of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import together
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from raykd.budget import SGD, Budget
from raykd.cite import bibliography
from raykd.data import Dataset, Digits, View
from raykd.methods.simkd import FeatureMSE, simkd
from raykd.models import CNN, MLP, VGG, Reusing, size, weights
from raykd.objective import STUDENT, Context
from raykd.plan import plan
from raykd.runtime import Display, Local, evaluation
from raykd.signals import Signal
from raykd.stage import Pretrained, Stage
from raykd.storage import Storage
from raykd.terms import CrossEntropy, Distill
from raykd.training.learner import build

VIEW = View(Dataset(Digits(), validation=0.2, holdout=0.2, limit=320))
PROJECTED, LAST = Signal("projected"), Signal("stage3")


def teacher() -> Stage:
    budget = Budget(4, batch_size=32, optimiser=SGD(lr=0.1))
    return Stage(CNN(4, shape=tiny.SHAPE), 1.0 * CrossEntropy(), VIEW, budget=budget, label="teacher")


def plain(epochs: int = 2) -> Stage:
    budget = Budget(epochs, batch_size=32, optimiser=SGD(lr=0.05))
    return Stage(CNN(2, shape=tiny.SHAPE), 1.0 * CrossEntropy(), VIEW, {"big": teacher()}, budget=budget)


def local(root: Path) -> Local:
    return Local(Storage(root), Display(quiet=True), any_teacher=True)


def compute(student: Tensor, teacher: Tensor) -> Tensor:
    shapes = {STUDENT: {PROJECTED: tuple(student.shape[1:])}, "a": {LAST: tuple(teacher.shape[1:])}}
    built = FeatureMSE().build(Context(shapes, ("a",), classes=3, rows=10))
    rows = len(student)
    return built(student, teacher, torch.zeros(rows, dtype=torch.long), torch.full((rows,), 4.0))


@pytest.mark.parametrize("sides", [(4, 4), (2, 4), (8, 2), (1, 4)])
def test_the_loss_is_the_mean_squared_difference_at_the_smaller_size(sides: tuple[int, int]) -> None:
    ours, theirs = (torch.randn(3, 5, side, side) for side in sides)
    small = min(sides)
    expected = []
    for row in range(3):
        squares = []
        for c in range(5):
            for i in range(small):
                for j in range(small):
                    cells = []
                    for maps in (ours, theirs):
                        step = maps.shape[2] // small
                        cell = maps[row, c, i * step : (i + 1) * step, j * step : (j + 1) * step]
                        cells.append(float(cell.double().mean()))
                    squares.append((cells[0] - cells[1]) ** 2)
        expected.append(sum(squares) / len(squares))
    torch.testing.assert_close(compute(ours, theirs).tolist(), expected, rtol=1e-5, atol=1e-6)


def test_it_is_torchs_mse_of_vectors_and_zero_from_oneself() -> None:
    ours, theirs = torch.randn(4, 9), torch.randn(4, 9)
    torch.testing.assert_close(compute(ours, theirs).mean(), F.mse_loss(ours, theirs))
    assert (compute(ours, ours.clone()) == 0).all()


@pytest.mark.parametrize("shapes", [((5, 4, 4), (6, 4, 4)), ((5, 4, 4), (5,)), ((5,), (6,))])
def test_activations_of_different_widths_are_refused(shapes: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(ValueError, match=r"of one width, and these are .*FitNet adapts"):
        compute(*(torch.zeros(2, *shape) for shape in shapes))


def test_a_stage_becomes_one_with_the_teachers_classifier_and_is_otherwise_as_it_was() -> None:
    stage = replace(plain(), seed=7, label="mine")
    found = simkd(stage)
    assert found.student == Reusing(stage.student, teacher().student)
    assert found.objective == 1.0 * Distill(FeatureMSE("projected", "stage3"))
    assert dict(found.inherit) == {"classifier": ("big", "fc")}
    assert found.frozen == ("classifier",)
    assert found.needs == {STUDENT: {PROJECTED}, "big": {LAST}}
    same = ("view", "teachers", "init", "budget", "seed", "cache", "label")
    assert all(getattr(found, name) == getattr(stage, name) for name in same)


def test_it_is_compared_with_the_student_as_it_was() -> None:
    stage = replace(plain(), seed=7, label="mine", cache="off")
    assert simkd(stage).alone() == stage.alone()
    assert simkd(stage).alone().student == stage.student


def test_taps_and_reduction_are_handed_on() -> None:
    stage = replace(plain(), student=VGG(8, shape=tiny.SHAPE))
    found = simkd(stage, tap="stage5", reduction=4)
    assert found.student == Reusing(stage.student, teacher().student, "stage5", "stage3", reduction=4)
    paths = simkd(plain(), tap="stage3.2", teacher_tap="stage3.2")
    assert paths.needs == {STUDENT: {PROJECTED}, "big": {Signal("stage3.2")}}


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        (lambda: replace(plain(), teachers={}), "of one teacher, and .* has 0"),
        (lambda: replace(plain(), teachers={"a": teacher(), "b": teacher()}), "of one teacher, and .* has 2"),
        (lambda: replace(plain(), frozen=("stage1",)), "inherits or freezes parts of cnn2"),
        (lambda: replace(plain(), student=MLP((8,), shape=tiny.SHAPE)), "unknown tap 'stage3' of mlp8"),
    ],
)
def test_a_stage_that_cannot_be_one_is_refused(stage: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        simkd(stage())  # type: ignore[operator]


def test_both_parts_of_the_method_are_cited() -> None:
    (cited,) = [pieces for source, pieces in bibliography(simkd(plain())).items() if "Reused Teacher" in source][:1]
    assert cited
    assert {piece for pieces in bibliography(simkd(plain())).values() for piece in pieces} >= {"FeatureMSE", "Reusing"}


def test_the_plan_counts_the_projector_and_what_the_teacher_must_say(tmp_path: Path) -> None:
    stage = simkd(plain())
    made = plan([stage], Storage(tmp_path))
    assert [step.network for step in made.steps] == [teacher(), stage]
    assert made.teacher_rows == {"big": 320}
    assert (
        made.steps[-1].flops == 3 * size(stage.student, ("projected",)).flops * 320 * 2
    )  # the classifier is not asked
    assert (
        made.as_json()["steps"][-1]["parameters"]
        == size(stage.student).parameters
        > size(CNN(2, shape=tiny.SHAPE)).parameters
    )


def test_a_trained_student_answers_with_the_teachers_classifier_bit_for_bit(tmp_path: Path) -> None:
    stage = simkd(plain())
    done = local(tmp_path).run(stage)[0]
    theirs = load_file(Storage(tmp_path).weights(teacher()))
    ours = load_file(done.weights)
    assert torch.equal(ours["classifier.weight"], theirs["fc.weight"])
    assert torch.equal(ours["classifier.bias"], theirs["fc.bias"])
    start = build(stage, Storage(tmp_path)).student.body.state_dict()
    learned = [name for name in start if name.endswith("weight") and not name.startswith("classifier")]
    assert all(not torch.equal(start[name], ours[name]) for name in learned)
    assert torch.equal(start["classifier.weight"], theirs["fc.weight"])
    again = evaluation(stage, tmp_path, weights=None, precision="float32")
    assert {name: done.metrics[name] for name in again} == again
    assert "agreement" in done.metrics


def test_two_processes_keep_the_classifier_as_well(tmp_path: Path) -> None:
    stage = simkd(plain(epochs=1))
    local(tmp_path).run(stage)
    folder = Storage(tmp_path).folder(stage)
    folder.rename(folder.with_name("alone"))
    together.train(tmp_path, stage)
    ours, theirs = load_file(folder / "last.safetensors"), load_file(Storage(tmp_path).weights(teacher()))
    assert torch.equal(ours["classifier.weight"], theirs["fc.weight"])
    alone = load_file(folder.with_name("alone") / "last.safetensors")
    assert not torch.equal(ours["projector.1.weight"], alone["projector.1.weight"])  # batch norms see half a batch


def test_the_mean_loss_of_a_step_is_the_error_of_the_maps(tmp_path: Path) -> None:
    budget = replace(plain().budget, epochs=1, batch_size=320)
    stage = simkd(replace(plain(), budget=budget))
    local(tmp_path).run(stage)
    learner = build(stage, Storage(tmp_path)).train()  # as it was at the one step
    big = teacher().student.build().eval()
    weights.load_into(big, Storage(tmp_path).weights(teacher()))
    rows = VIEW.dataset.split("train")
    inputs = rows.inputs(torch.arange(320).numpy())
    with torch.no_grad():
        ours = learner.student(inputs, ("projected",))["projected"]
        theirs = big(inputs, ("stage3",))["stage3"]
    line = (Storage(tmp_path).folder(stage) / "metrics.jsonl").read_text()
    found = float(line.split('"loss": ')[1].split(",")[0])
    assert found == pytest.approx(float((ours - theirs).double().square().mean()), rel=1e-3)  # the cache is float16


def test_the_student_learns_to_see_what_the_teacher_sees(tmp_path: Path) -> None:
    stage = simkd(plain(epochs=6))
    local(tmp_path).run(stage)
    lines = (Storage(tmp_path).folder(stage) / "metrics.jsonl").read_text().splitlines()
    losses = [float(line.split('"loss": ')[1].split(",")[0]) for line in lines]
    assert losses == sorted(losses, reverse=True)


def test_a_training_that_was_stopped_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    long = simkd(plain(epochs=3))
    short = replace(long, budget=replace(long.budget, until=1))
    local(tmp_path / "undisturbed").run(long)
    local(tmp_path / "stopped").run(short)
    local(tmp_path / "stopped").run(long)
    one, other = (
        load_file(Storage(tmp_path / name).folder(long) / "last.safetensors") for name in ("undisturbed", "stopped")
    )
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_what_it_yields_is_a_network_that_may_teach(tmp_path: Path) -> None:
    done = local(tmp_path).run(simkd(plain()))[0]
    given = Pretrained(done.stage.student, done.weights)
    stage = replace(plain(), objective=1.0 * Distill(FeatureMSE("stage3", "stage3")), teachers={"wise": given})
    assert local(tmp_path).run(stage)[0].counts.teacher_rows == {"wise": 320}
