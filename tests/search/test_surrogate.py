"""The forest of results, and the improvement that is to be expected of it."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from search_examples import DEFAULTS, SPACE, history, response, task, tried

from raykd.search.record import task_of
from raykd.search.surrogate import YOUNG, Goal, Surrogate, by_task, expected_improvement, points

GOAL = Goal()
LOSS = Goal("val_nll", larger=False)


def improvement(mean: float, deviation: float, best: float) -> float:
    return float(expected_improvement(np.array([mean]), np.array([deviation]), best)[0])


@given(st.floats(-3, 3), st.floats(0.05, 3), st.floats(-3, 3))
def test_expected_improvement_is_the_integral(mean: float, deviation: float, best: float) -> None:
    u = np.linspace(best, max(best, mean) + 12 * deviation, 200_001)  # what is below `best` counts as nothing
    gain = (u - best) * np.exp(-(((u - mean) / deviation) ** 2) / 2) / (deviation * math.sqrt(2 * math.pi))
    integral = float(((gain[1:] + gain[:-1]) / 2 * np.diff(u)).sum())
    assert improvement(mean, deviation, best) == pytest.approx(integral, rel=1e-5, abs=1e-12)


def test_expected_improvement_at_its_limits() -> None:
    assert improvement(0.7, 0.0, 0.5) == pytest.approx(0.2)
    assert improvement(0.4, 0.0, 0.5) == 0
    assert improvement(0.5, 0.3, 0.5) == pytest.approx(0.3 / math.sqrt(2 * math.pi))
    assert improvement(9.0, 0.1, 0.5) == pytest.approx(8.5)
    assert improvement(-1e4, 0.1, 0.5) == 0


@given(st.floats(-8, 8), st.floats(1e-3, 3), st.floats(-8, 8))
def test_expected_improvement_exceeds_both_the_gain_of_the_mean_and_nothing(
    mean: float, deviation: float, best: float
) -> None:
    assert improvement(mean, deviation, best) >= max(mean - best, 0) - 1e-12
    # moving both sides moves nothing, and E max(y - b, 0) - E max(b - y, 0) = E y - b
    assert improvement(mean + 1, deviation, best + 1) == pytest.approx(
        improvement(mean, deviation, best), rel=1e-6, abs=1e-12
    )
    assert improvement(mean, deviation, best) - improvement(-mean, deviation, -best) == pytest.approx(
        mean - best, abs=1e-9
    )


def test_far_below_the_best_expected_improvement_still_has_an_order() -> None:
    far = expected_improvement(np.linspace(-30, 0, 301), np.ones(301), 0.0)
    assert (far[1:] > far[:-1]).all()
    assert far[0] > 0
    # the asymptotic series f(z) (1 / z^2 - 3 / z^4 + 15 / z^6), whose first term left out is -105 / z^8
    z, density = 30.0, math.exp(-450) / math.sqrt(2 * math.pi)
    assert far[0] == pytest.approx(density * (z**-2 - 3 * z**-4 + 15 * z**-6), rel=1e-6)


@pytest.mark.parametrize(
    ("goal", "results", "best", "worst"), [(GOAL, [0.5, 0.9], 0.9, 0.5), (LOSS, [0.5, 0.9], 0.5, 0.9)]
)
def test_a_share_is_1_at_the_best_and_less_elsewhere(
    goal: Goal, results: list[float], best: float, worst: float
) -> None:
    assert (goal.best(results), goal.worst(results)) == (best, worst)
    assert goal.share(best, best) == 1
    assert goal.share(worst, best) == pytest.approx(5 / 9)
    assert goal.reference(worst, goal.share(worst, best)) == pytest.approx(best)
    assert goal.share(0.0, 0.0) == 1


def test_a_result_below_zero_has_no_share() -> None:
    record = tried(task(0), DEFAULTS, 0, results={"val_top1": -0.5})
    with pytest.raises(ValueError, match="0 or more would be right"):
        points([record], SPACE, GOAL)


def test_only_what_compares_is_a_point() -> None:
    good = tried(task(0), DEFAULTS, 0)
    elsewhere = tried(task(0), {**DEFAULTS, "tau": 99.0}, 1)
    unknown = tried(task(0), DEFAULTS, 2, results={"val_nll": 0.3})
    nan = tried(task(0), DEFAULTS, 3, results={"val_top1": math.nan})
    crashed = tried(task(0), DEFAULTS, 4, status="failed", error="OSError: disk full")
    stopped = tried(task(0), DEFAULTS, 5, status="stopped")
    found = points([stopped, crashed, nan, unknown, elsewhere, good], SPACE, GOAL)
    assert [point.record for point in found] == [good, stopped]
    assert found[0].configuration == DEFAULTS
    assert [point.result for point in points([unknown], SPACE, LOSS)] == [0.3]


@pytest.mark.parametrize("goal", [GOAL, LOSS])
def test_what_diverged_has_the_worst_result_of_its_task(goal: Goal) -> None:
    results = [0.4, 0.7, 0.2]
    done = [tried(task(0), each, i, results={goal.metric: results[i]}) for i, each in enumerate(SPACE.samples(0, 3))]
    other = tried(task(1), DEFAULTS, 8, results={goal.metric: 0.1 if goal.larger else 9.0})
    diverged = tried(task(0), SPACE.sample(0, 7), 9, status="failed", error="DivergedError: not finite", results={})
    found = {point.record.fingerprint: point.result for point in points([*done, other, diverged], SPACE, goal)}
    assert found[diverged.fingerprint] == (0.2 if goal.larger else 0.7)
    assert points([diverged], SPACE, goal) == []  # alone it has nothing to be worse than


def test_a_forest_is_a_function_of_its_records_whatever_their_order() -> None:
    records, asked = history(3, 12), SPACE.samples(9, 50)
    one = Surrogate.fit(points(records, SPACE, GOAL), SPACE, GOAL, seed=1).predict(task(0), asked)
    random.Random(0).shuffle(records)
    other = Surrogate.fit(points(records, SPACE, GOAL)[::-1], SPACE, GOAL, seed=1).predict(task(0), asked)
    assert np.array_equal(one, other)


def test_results_of_a_task_are_shares_of_its_best() -> None:
    """A task on which everything is half as good is no other task, as far as configurations go."""
    records = history(2, 30)
    easier = [
        replace(each, results={"val_top1": each.results["val_top1"] * (0.5 if each.task == records[0].task else 1)})
        for each in records
    ]
    asked = SPACE.samples(9, 50)
    one, other = (
        Surrogate.fit(points(each, SPACE, GOAL), SPACE, GOAL).predict(task(0), asked)[0] for each in (records, easier)
    )
    assert one == pytest.approx(other)
    assert one.max() <= 1


def test_a_forest_is_better_where_it_has_seen_something() -> None:
    records = [each for each in history(1, 150) if each.configuration["tau"] < 4]  # type: ignore[operator]
    asked = [{**each, "tau": tau} for each in SPACE.samples(3, 200) for tau in (2.0, 16.0)]
    mean, _ = Surrogate.fit(points(records, SPACE, GOAL), SPACE, GOAL).predict(task(0), asked)
    true = np.array([response(task(0), each) for each in asked])
    true /= max(each.results["val_top1"] for each in records)
    seen, unseen = np.abs(mean - true)[::2], np.abs(mean - true)[1::2]
    assert np.corrcoef(mean[::2], true[::2])[0, 1] > 0.8
    assert seen.mean() < unseen.mean()


def test_the_best_of_a_young_task_is_expected_from_older_ones() -> None:
    """The same world with another level: one poor result there must not count as its best."""
    old = [each for number in range(1, 5) for each in history(1, 60, seed=number)]
    shapes = points(old, SPACE, GOAL)
    young = dict(shapes[0].record.features) | {"label_entropy": 1.5}  # so it is another task, of the same response
    poor = min((point for point in shapes if point.task == shapes[0].task), key=lambda point: point.result)
    first = tried(young, poor.configuration, 10**6)
    surrogate = Surrogate.fit(points([*old, first], SPACE, GOAL), SPACE, GOAL)
    top = max(point.result for point in shapes if point.task == shapes[0].task)
    reference = surrogate.references[task_of(young)]
    assert reference > 1.3 * first.results["val_top1"]
    assert reference == pytest.approx(top, rel=0.35)
    many = [tried(young, poor.configuration, 10**6 + i) for i in range(YOUNG)]
    grown = Surrogate.fit(points([*old, *many], SPACE, GOAL), SPACE, GOAL)
    assert grown.references[task_of(young)] == first.results["val_top1"]


def test_a_reference_is_never_worse_than_what_was_reached() -> None:
    old = history(3, YOUNG)
    for goal, better in ((GOAL, max), (LOSS, min)):
        records = [replace(each, results={goal.metric: each.results["val_top1"]}) for each in old]
        lucky = tried(task(50), DEFAULTS, 10**6, results={goal.metric: 5.0 if goal.larger else 1e-3})
        found = points([*records, lucky], SPACE, goal)
        references = Surrogate.fit(found, SPACE, goal).references
        for name, of_task in by_task(found).items():
            reached = better(point.result for point in of_task)
            assert better(references[name], reached) == references[name]
