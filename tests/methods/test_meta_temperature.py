"""HPM-KD's temperature: formulas, range, revisions, and the rule that chooses among the schedules."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from laws import random_batch

from raykd.batch import Progress
from raykd.methods.meta_temperature import By, MetaTemperature

CURVES = st.lists(st.floats(0, 50), max_size=100).map(tuple)


@given(CURVES, st.sampled_from(["auto", "cosine", "loss", "convergence", "movement"]), st.integers(1, 20))
def test_it_stays_in_its_range_whatever_the_loss_does(losses: tuple[float, ...], by: By, every: int) -> None:
    tau = MetaTemperature(by, lowest=1.5, highest=7.0, every=every)
    assert 1.5 <= tau.at(Progress(len(losses), 100, losses=losses)) <= 7.0


def test_cosine_begins_at_the_highest_and_ends_at_the_lowest() -> None:
    tau = MetaTemperature("cosine", every=1)
    assert tau.at(Progress(0, 200)) == 6.0
    assert tau.at(Progress(200, 200, losses=(1.0,) * 200)) == pytest.approx(2.0)
    assert tau.at(Progress(100, 200, losses=(1.0,) * 100)) == pytest.approx(4.0)


def test_the_loss_is_placed_between_its_extremes() -> None:
    tau = MetaTemperature("loss", every=1)
    assert tau.at(Progress(3, 10, losses=(5.0, 1.0, 2.0))) == pytest.approx(2 + 4 * (2 - 1) / (5 - 1))
    assert tau.at(Progress(2, 10, losses=(3.0, 3.0))) == 6.0  # 0 / 0
    assert tau.at(Progress(0, 10)) == 6.0


def test_convergence_is_soft_where_the_loss_stands_still_and_movement_is_the_opposite() -> None:
    losses = (4.0, 3.0, 2.7)
    for by, share in (("convergence", math.exp(-2 * 0.3)), ("movement", 1 - math.exp(-2 * 0.3))):
        tau = MetaTemperature(by, rate=2.0, every=1)  # type: ignore[arg-type]
        assert tau.at(Progress(3, 10, losses=losses)) == pytest.approx(2 + 4 * share)
    assert MetaTemperature("convergence", every=1).at(Progress(2, 10, losses=(3.0, 3.0))) == 6.0


def test_it_is_revised_only_every_so_often() -> None:
    tau, losses = MetaTemperature("loss", every=4), (5.0, 4.0, 3.0, 2.5, 2.2, 2.0, 1.9, 1.0)
    found = [tau.at(Progress(epoch, 8, losses=losses[:epoch])) for epoch in range(8)]
    assert found == [6.0] * 4 + [2.0] * 4


@pytest.mark.parametrize(
    ("curve", "chosen"),
    [
        ((4.0, 2.0, 4.1, 1.9, 2.2), "convergence"),
        ((4.0, 3.0, 2.5, 2.0, 1.5), "loss"),
        ((4.0, 3.9, 3.8, 3.8, 3.7), "cosine"),
        ((0.0, 0.0, 0.0, 0.0, 0.0), "loss"),
    ],
)
def test_the_first_tenth_of_the_curve_chooses_and_the_choice_stays(curve: tuple[float, ...], chosen: str) -> None:
    tau = MetaTemperature()
    assert tau.chosen(Progress(4, 50, losses=curve[:4])) is None
    assert tau.at(Progress(4, 50, losses=curve[:4])) == 4.0
    for after in ((), (9.0, 0.1), (0.1, 9.0, 0.1, 9.0)):
        assert tau.chosen(Progress(5 + len(after), 50, losses=curve + after)) == chosen


def test_all_teachers_and_rows_have_the_same() -> None:
    assert MetaTemperature("cosine")(random_batch(), ("a", "b")).shape == (1, 1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"by": "sine"}, "by='sine' of MetaTemperature: one of auto, cosine"),
        ({"lowest": 7.0}, "0 < lowest <= start <= highest"),
        ({"start": 1.0}, "0 < lowest <= start <= highest"),
        ({"lowest": 0.0}, "0 < lowest <= start <= highest"),
        ({"every": 0}, "an every of 1 or more"),
    ],
)
def test_what_makes_no_sense_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MetaTemperature(**fields)  # type: ignore[arg-type]
