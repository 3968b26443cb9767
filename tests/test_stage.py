"""Stages as values, and the mistakes that are found when they are written."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch

from raykd.budget import SGD, AdamW, Budget, Cosine, Steps
from raykd.data import Arrays, Dataset, View
from raykd.identity import fingerprint
from raykd.methods.kl import KL
from raykd.models import CNN, MLP, weights
from raykd.objective import STUDENT
from raykd.signals import LOGITS
from raykd.stage import Pretrained, Stage
from raykd.terms import CrossEntropy, Distill


def test_equal_stages_are_one_stage_and_labels_are_for_people() -> None:
    assert fingerprint(tiny.student()) == fingerprint(tiny.student())
    assert fingerprint(tiny.student()) == fingerprint(replace(tiny.student(), label="another"))
    assert fingerprint(tiny.student()) == fingerprint(pickle.loads(pickle.dumps(tiny.student())))
    assert fingerprint(tiny.student()) != fingerprint(tiny.student(tau=3.0))
    assert fingerprint(tiny.student()) != fingerprint(tiny.student(seed=1))
    assert fingerprint(tiny.student()) != fingerprint(tiny.student(replicas=3))


def test_the_order_in_which_teachers_are_written_is_not_content() -> None:
    one, other = tiny.teacher(), tiny.teacher(width=16)
    first = replace(tiny.student(), teachers={"a": one, "b": other})
    second = replace(tiny.student(), teachers={"b": other, "a": one})
    assert fingerprint(first) == fingerprint(second)
    assert list(first.teachers) == list(second.teachers)


def test_a_stage_knows_what_must_be_observed() -> None:
    assert tiny.student().needs == {STUDENT: {LOGITS}, "teacher": {LOGITS}}


def test_alone_is_the_same_student_with_the_labels_only() -> None:
    alone = tiny.student().alone()
    assert alone.teachers == {}
    assert alone.objective == 1.0 * CrossEntropy()
    assert (alone.student, alone.view, alone.budget, alone.seed) == (
        tiny.student().student, tiny.student().view, tiny.student().budget, tiny.student().seed,
    )  # fmt: skip


def test_pretrained_is_its_content_wherever_it_lies(tmp_path: object) -> None:
    architecture = MLP((8,), shape=tiny.SHAPE)
    state = architecture.build().body.state_dict()
    for name in ("one", "two"):
        weights.save(f"{tmp_path}/{name}.safetensors", state, {})
    torch.save(state, f"{tmp_path}/three.pt")
    found = {
        fingerprint(Pretrained(architecture, f"{tmp_path}/{name}"))
        for name in ("one.safetensors", "two.safetensors", "three.pt")
    }
    assert len(found) == 1
    weights.save(f"{tmp_path}/one.safetensors", architecture.build().body.state_dict(), {})
    assert fingerprint(Pretrained(architecture, f"{tmp_path}/one.safetensors")) not in found


def test_in_memory_rows_keep_their_identity_when_they_are_laid_down(tmp_path: object) -> None:
    rows = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    dataset = Dataset(Arrays(rows, np.arange(60) % 3))
    stage = Stage(MLP((4,), classes=3, shape=(4,)), 1.0 * CrossEntropy(), View(dataset))
    stored = stage.stored(str(tmp_path))
    assert fingerprint(stored) == fingerprint(stage)
    assert len(pickle.dumps(stored)) < 3000


def mlp(**changes: object) -> MLP:
    return MLP((8,), **{"shape": tiny.SHAPE, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda: replace(tiny.student(), teachers={}), "has none"),
        (lambda: replace(tiny.student(), objective=1.0 * Distill(KL(), teachers=("tutor",))), "'tutor'"),
        (lambda: replace(tiny.student(), teachers={"student": tiny.teacher()}), "call it something else"),
        (lambda: replace(tiny.student(), student=mlp(classes=7)), r"7 classes, and the dataset has 10"),
        (
            lambda: replace(tiny.student(), student=mlp(shape=(3, 8, 8))),
            r"\(3, 8, 8\), and the dataset has \(1, 8, 8\)",
        ),
        (lambda: replace(tiny.student(), init=tiny.teacher()), "must be the same"),
        (lambda: Budget(epochs=0), "epochs=0"),
        (lambda: Budget(batch_size=-1), "batch_size=-1"),
        (lambda: Budget(ema=1.5), "ema=1.5"),
        (lambda: Budget(epochs=3, schedule=Cosine(warmup=5)), "longer than the 3 epochs"),
        (lambda: SGD(lr=float("nan")), "lr=nan"),
        (lambda: Pretrained(mlp(), "/no/such/file").digest, "no such file"),
    ],
)
def test_a_mistake_is_refused_when_it_is_written(write: object, words: str) -> None:
    with pytest.raises(ValueError, match=words) as error:
        write()  # type: ignore[operator]
    assert "\n" not in str(error.value)


def test_an_unknown_tap_is_refused_with_those_that_exist() -> None:
    stage = tiny.student()
    with pytest.raises(ValueError, match=r"'nowhere'.*pooled"):
        replace(stage, objective=1.0 * Distill(tiny.At("nowhere")))
    assert replace(stage, objective=1.0 * Distill(tiny.At("pooled"))).needs["student"]


def test_the_learning_rate_is_a_function_of_how_much_is_done() -> None:
    cosine = Budget(10, optimiser=SGD(lr=0.5), schedule=Cosine(warmup=2, floor=0.1))
    assert [round(cosine.lr(t), 4) for t in (0, 1, 2, 6, 10)] == [0, 0.25, 0.5, 0.275, 0.05]
    steps = Budget(240, optimiser=AdamW(lr=1.0), schedule=Steps((150, 180, 210)))
    assert [round(steps.lr(t), 6) for t in (0, 149.9, 150, 180, 239)] == [1, 1, 0.1, 0.01, 0.001]


def test_networks_may_differ_in_size_between_teacher_and_student() -> None:
    big = Stage(CNN(4, shape=tiny.SHAPE), 1.0 * CrossEntropy(), View(tiny.DATASET))
    assert replace(tiny.student(), teachers={"teacher": big}).teachers["teacher"] is big
