"""Selections: the stop rule against a direct reading of it, and what is refused when one is written."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from raykd.identity import fingerprint
from raykd.models import MLP
from raykd.selection import Selection

THREE = tuple(tiny.student(tau=tau) for tau in (1.0, 2.0, 3.0))


def of(count: int, **settings: object) -> Selection:
    """A selection of so many candidates."""
    return Selection(tuple(tiny.student(seed=seed) for seed in range(count)), **settings)  # type: ignore[arg-type]


FIVE = {relative: of(5, epsilon=0.01, relative=relative) for relative in (False, True)}


@given(st.lists(st.floats(0.1, 1), min_size=5, max_size=5), st.booleans())
def test_one_more_is_tried_until_it_gains_too_little_and_the_one_before_stays(
    values: list[float], relative: bool
) -> None:
    selection = FIVE[relative]
    tried = 1
    while selection.chosen(values[:tried]) is None:
        tried += 1
    taken = selection.chosen(values[:tried])
    assert taken is not None
    gains = [(values[i + 1] - values[i]) / (values[i] if relative else 1) for i in range(4)]
    assert all(gain >= 0.01 for gain in gains[:taken])
    assert tried == min(taken + 2, 5)  # the rejected one was made
    if taken < 4:
        assert gains[taken] < 0.01
    # what was made beyond it changes nothing
    assert all(selection.chosen(values[:more]) == taken for more in range(tried, 6))


def test_a_gain_of_just_epsilon_is_enough_and_of_likelihood_less_is_better() -> None:
    assert of(2, epsilon=0.25).chosen([0.5, 0.75]) == 1
    assert of(2, epsilon=0.25).chosen([0.5, 0.7]) == 0
    assert of(2, epsilon=0.25, metric="val_nll").chosen([0.75, 0.5]) == 1
    assert of(2, epsilon=0.0, metric="val_nll").chosen([0.5, 0.75]) == 0
    assert of(2, epsilon=0.5, relative=True).chosen([0.5, 0.75]) == 1
    assert of(2, epsilon=0.5, relative=True).chosen([0.0, 0.6]) == 1


def test_equal_stages_are_one_candidate_and_one_is_taken_without_a_comparison() -> None:
    selection = Selection((THREE[0], replace(THREE[0], label="another name")))
    assert len(selection.candidates) == 1
    assert selection.chosen([]) is None
    assert selection.chosen([0.5]) == 0


def test_a_selection_is_its_content_and_travels() -> None:
    assert fingerprint(Selection(THREE)) == fingerprint(Selection(list(THREE)))  # type: ignore[arg-type]
    assert fingerprint(Selection(THREE)) != fingerprint(Selection(THREE[::-1]))
    assert pickle.loads(pickle.dumps(Selection(THREE))) == Selection(THREE)
    assert str(Selection(THREE)) == "student, or one of 2 others"


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda: Selection(()), "without candidates: at least one stage"),
        (lambda: Selection(THREE, metric="test_top1"), "metric='test_top1' of Selection: val_top1 or val_nll"),
        (lambda: Selection(THREE, epsilon=-0.1), r"epsilon=-0.1 of Selection: a number from 0"),
        (lambda: Selection(THREE, epsilon=float("nan")), "epsilon=nan"),
        (
            lambda: Selection((THREE[0], replace(THREE[0], student=MLP((9,), shape=tiny.SHAPE)))),
            "of students mlp16 and mlp9: all candidates have the same",
        ),
        (
            lambda: Selection(
                (THREE[0], replace(THREE[0], view=replace(THREE[0].view, dataset=replace(tiny.DATASET, limit=600))))
            ),
            "of datasets .* and .*: all candidates have the same",
        ),
    ],
)
def test_a_mistake_is_refused_when_it_is_written(write: object, words: str) -> None:
    with pytest.raises(ValueError, match=words) as refusal:
        write()  # type: ignore[operator]
    assert "\n" not in str(refusal.value)
