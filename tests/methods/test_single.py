"""One teacher for each row: chosen by the label, or drawn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from laws import NAMES, random_batch, rows_of, topk_of

from raykd import rng
from raykd.batch import Batch, Progress
from raykd.methods.single import Best, RandomOne, Worst, number_of
from raykd.objective import Weighting
from raykd.signals import LOGITS

CHOOSING = pytest.mark.parametrize(("weighting", "choose"), [(Best(), max), (Worst(), min)], ids=["best", "worst"])


def at(batch: Batch, epoch: int, step: int = 0) -> Batch:
    return replace(batch, progress=Progress(epoch, 100, step, 10))


def chosen(weighting: Weighting, batch: Batch, names: tuple[str, ...] = NAMES) -> list[str]:
    """The teacher of each row. Every row has exactly one."""
    weight_TB = weighting(batch, names)  # type: ignore[operator]
    assert weight_TB.shape == (len(names), len(batch.labels_B))
    assert weight_TB.dtype == torch.float32
    assert set(weight_TB.flatten().tolist()) <= {0.0, 1.0}
    assert (weight_TB.sum(0) == 1).all()
    return [names[i] for i in weight_TB.argmax(0).tolist()]


@CHOOSING
def test_the_label_chooses_among_the_teachers(weighting: Weighting, choose: Callable) -> None:
    batch = random_batch(rows=30)
    for b, found in enumerate(chosen(weighting, batch)):
        label = int(batch.labels_B[b])
        p = {name: float(batch.teachers[name][LOGITS][b].double().softmax(-1)[label]) for name in NAMES}  # type: ignore[index]
        assert p[found] == choose(p.values())


@CHOOSING
def test_of_equal_teachers_the_first_counts(weighting: Weighting, choose: Callable) -> None:
    batch = random_batch()
    batch = replace(batch, teachers=dict.fromkeys(NAMES, batch.teachers["a"]))
    assert set(chosen(weighting, batch)) == {"a"}
    assert set(chosen(weighting, batch, ("c", "a", "b"))) == {"c"}


@CHOOSING
def test_teachers_are_told_apart_where_probabilities_are_zero_in_float32(
    weighting: Weighting, choose: Callable
) -> None:
    batch = replace(random_batch(rows=1, classes=2), labels_B=torch.tensor([1]))
    logits = {"a": [900.0, 0.0], "b": [700.0, 0.0], "c": [800.0, 0.0]}
    batch = replace(batch, teachers={name: {LOGITS: torch.tensor([each])} for name, each in logits.items()})
    assert chosen(weighting, batch) == (["b"] if choose is max else ["a"])


@CHOOSING
def test_stored_classes_choose_as_all_of_them_do(weighting: Weighting, choose: Callable) -> None:
    batch = random_batch(rows=30)
    whole = {name: {LOGITS: topk_of(batch.teachers[name][LOGITS], k=5)} for name in NAMES}  # type: ignore[arg-type]
    assert chosen(weighting, replace(batch, teachers=whole)) == chosen(weighting, batch)


def test_one_teacher_has_every_row() -> None:
    for weighting in (Best(), Worst(), RandomOne()):
        assert chosen(weighting, random_batch(), ("b",)) == ["b"] * 6


def test_a_draw_is_the_largest_of_the_teachers_own_numbers() -> None:
    batch, seed, epoch = at(random_batch(rows=200), 3), 11, 3
    bits = {
        name: rng.bits(seed, batch.ids_B.numpy(), epoch, number_of(name)).astype(np.int64).tolist() for name in NAMES
    }
    expected = [max(NAMES, key=lambda name: bits[name][b]) for b in range(200)]
    assert chosen(RandomOne(seed), batch) == expected


def test_a_draw_depends_on_the_row_and_the_epoch_and_on_nothing_else() -> None:
    batch, order = at(random_batch(rows=200), 3), torch.randperm(200, generator=torch.Generator().manual_seed(0))
    drawn = chosen(RandomOne(), batch)
    assert chosen(RandomOne(), at(batch, 3, step=7)) == drawn
    assert chosen(RandomOne(), rows_of(batch, order)) == [drawn[i] for i in order.tolist()]
    half = (
        chosen(RandomOne(), rows_of(batch, torch.arange(100))),
        chosen(RandomOne(), rows_of(batch, torch.arange(100, 200))),
    )
    assert half[0] + half[1] == drawn
    assert chosen(RandomOne(), batch, NAMES[::-1]) == drawn
    assert chosen(RandomOne(), at(batch, 4)) != drawn
    assert chosen(RandomOne(seed=1), batch) != drawn


def test_draws_are_even_over_teachers_and_independent_between_epochs() -> None:
    batch = replace(random_batch(rows=1), ids_B=torch.arange(30_000), labels_B=torch.zeros(30_000, dtype=torch.long))
    one, other = (RandomOne()(at(batch, epoch), NAMES).argmax(0).numpy() for epoch in (0, 1))
    pairs = np.bincount(3 * one + other, minlength=9)
    assert np.square(pairs - 30_000 / 9).sum() / (30_000 / 9) < 27.9  # chi-squared with 8 degrees of freedom, p = .0005


def test_one_more_teacher_takes_rows_from_the_others_and_does_not_shuffle_theirs() -> None:
    batch = random_batch(rows=200)
    two, three = chosen(RandomOne(), batch, ("a", "b")), chosen(RandomOne(), batch)
    assert all(new in (old, "c") for old, new in zip(two, three, strict=True))
    assert 30 < three.count("c") < 110
