"""EBKD: teachers by their certainty, against the formula row by row."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from laws import NAMES, random_batch

from raykd.batch import Batch
from raykd.methods.ebkd import EBKD
from raykd.objective import STUDENT
from raykd.signals import LOGITS


def with_teachers(*logits: list[float]) -> Batch:
    """A batch of one row, with these teachers."""
    batch = random_batch(rows=1, classes=len(logits[0]))
    return replace(
        batch, teachers={name: {LOGITS: torch.tensor([each])} for name, each in zip(NAMES, logits, strict=False)}
    )


def entropy(logits: torch.Tensor) -> float:
    p = [math.exp(z) for z in logits.double().tolist()]
    return -sum(each / sum(p) * math.log(each / sum(p)) for each in p)


@pytest.mark.parametrize("names", [NAMES, NAMES[:2], ("c", "a")], ids=str)
def test_it_agrees_with_its_formula_and_a_row_adds_up_to_one(names: tuple[str, ...]) -> None:
    batch = random_batch()
    weight_TB = EBKD()(batch, names)
    for b in range(6):
        h = [entropy(batch.teachers[name][LOGITS][b]) for name in names]  # type: ignore[index]
        expected = [(1 - each / sum(h)) / (len(names) - 1) for each in h]
        torch.testing.assert_close(weight_TB[:, b].double(), torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(weight_TB.sum(0), torch.ones(6))


def test_one_teacher_counts_one() -> None:
    assert (EBKD()(random_batch(), ("b",)) == 1).all()


def test_equal_teachers_count_the_same() -> None:
    batch = random_batch()
    batch = replace(batch, teachers=dict.fromkeys(NAMES, batch.teachers["a"]))
    torch.testing.assert_close(EBKD()(batch, NAMES), torch.full((3, 6), 1 / 3))


@pytest.mark.parametrize("scale", [0.0, 300.0, 1e4])
def test_flat_and_certain_teachers_have_finite_weights_that_add_up_to_one(scale: float) -> None:
    weight_TB = EBKD()(random_batch(scale=scale), NAMES)
    assert torch.isfinite(weight_TB).all()
    torch.testing.assert_close(weight_TB.sum(0), torch.ones(6))


def test_teachers_that_are_all_certain_count_the_same() -> None:
    batch = with_teachers([1000.0, 0.0], [0.0, 1000.0], [1000.0, -1000.0])
    torch.testing.assert_close(EBKD()(batch, NAMES), torch.full((3, 1), 1 / 3))


def test_a_certain_teacher_beside_one_that_knows_nothing_has_all_of_the_weight() -> None:
    batch = with_teachers([1000.0, 0.0], [0.0, 0.0])
    torch.testing.assert_close(EBKD()(batch, ("a", "b")), torch.tensor([[1.0], [0.0]]))


def test_a_teacher_gains_by_being_more_certain_not_by_being_right() -> None:
    batch = with_teachers([1.0, 0.0], [0.0, 2.0])
    for label in (0, 1):
        weight_TB = EBKD()(replace(batch, labels_B=torch.tensor([label])), ("a", "b"))
        assert weight_TB[1] > weight_TB[0]


def test_it_reads_the_teachers_and_not_the_student() -> None:
    assert STUDENT not in EBKD().needs(NAMES)
    assert EBKD().needs(("a",)) == {"a": {LOGITS}}
