"""Temperatures over time: their ends, their range, their direction."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from laws import NAMES, random_batch

from raykd.batch import Progress
from raykd.methods.schedules import CosineDecay, Linear
from raykd.objective import Temperature
from raykd.terms import Constant

BATCH = random_batch()


def tau(temperature: Temperature, epoch: int, epochs: int = 10, step: int = 0, steps: int = 4) -> float:
    batch = replace(BATCH, progress=Progress(epoch, epochs, step, steps))
    value = temperature(batch, NAMES)  # type: ignore[operator]
    assert value.shape == (1, 1)
    return float(value)


@pytest.mark.parametrize(
    ("temperature", "first", "last"),
    [
        (Linear(8.0, 1.0), 8.0, 1.0),
        (Linear(1.0, 8.0), 1.0, 8.0),
        (CosineDecay(), 6.0, 2.0),
        (CosineDecay(5, 3), 5.0, 3.0),
    ],
    ids=str,
)
def test_a_schedule_has_its_ends_and_the_middle_between_them(
    temperature: Temperature, first: float, last: float
) -> None:
    assert tau(temperature, 0) == pytest.approx(first)
    assert tau(temperature, 5) == pytest.approx((first + last) / 2)
    assert tau(temperature, 10) == pytest.approx(last)


ENDS = st.floats(0.1, 100.0)


@given(ENDS, ENDS, st.integers(1, 50), st.data())
def test_a_schedule_stays_in_its_range_and_never_turns(
    one: float, other: float, epochs: int, data: st.DataObject
) -> None:
    low, high = sorted((one, other))
    places = sorted(data.draw(st.lists(st.integers(0, 4 * epochs), min_size=2, max_size=8)))
    for temperature, falls in ((Linear(one, other), one > other), (CosineDecay(high, low), True)):
        taus = [tau(temperature, place // 4, epochs, place % 4) for place in places]
        assert all(low * (1 - 1e-6) <= each <= high * (1 + 1e-6) for each in taus)
        assert taus == sorted(taus, reverse=falls) or math.isclose(low, high, rel_tol=1e-5)


@given(st.integers(0, 9), st.integers(0, 3))
def test_the_cosine_is_half_a_period_over_the_training(epoch: int, step: int) -> None:
    t = (epoch + step / 4) / 10
    assert tau(CosineDecay(6.0, 2.0), epoch, step=step) == pytest.approx(2 + 4 * (1 + math.cos(math.pi * t)) / 2)


def test_ends_that_are_equal_are_a_constant() -> None:
    for temperature in (Linear(3.0, 3.0), CosineDecay(3.0, 3.0)):
        torch.testing.assert_close(temperature(BATCH, NAMES), Constant(3.0)(BATCH, NAMES))


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda: Linear(0.0, 1.0), "above 0"),
        (lambda: Linear(4.0, float("nan")), "above 0"),
        (lambda: CosineDecay(float("inf"), 1.0), "above 0"),
        (lambda: CosineDecay(2.0, 6.0), "lowest of 2 or less"),
    ],
)
def test_a_mistake_is_refused_where_it_is_written(write: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        write()  # type: ignore[operator]


def test_what_a_schedule_takes_cannot_be_declared_with_a_codec() -> None:
    assert Linear(8.0, 1.0).values is None
    assert CosineDecay().values is None
