"""What is proposed next: from nothing, from little, from much; and that it pays."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from statistics import median

import numpy as np
import pytest
from search_examples import DEFAULTS, SPACE, best, history, response, task, top, tried

from raykd.search import Choice, Range, Space
from raykd.search.meta import Scale
from raykd.search.proposals import MODELLED, NEIGHBOURS, SHORT, neighbours, propose
from raykd.search.record import Record
from raykd.search.space import Configuration
from raykd.search.surrogate import Goal, points

GOAL = Goal()
NEW = task(90)


def asked(
    records: list[Record], count: int = 5, *, seed: int = 0, pending: tuple[Configuration, ...] = ()
) -> list[Configuration]:
    return [each.configuration for each in propose(records, NEW, SPACE, DEFAULTS, count, seed=seed, pending=pending)]


def test_with_nothing_known_the_published_defaults_come_first_then_draws() -> None:
    found = propose([], NEW, SPACE, DEFAULTS, 4, seed=3)
    assert [each.reason for each in found] == ["published defaults", "drawn", "drawn", "drawn"]
    assert found[0].configuration == DEFAULTS
    for each in found:
        SPACE.check(each.configuration)


def test_a_memory_of_other_spaces_is_as_good_as_none() -> None:
    elsewhere = [replace(each, configuration={**each.configuration, "tau": 99.0}) for each in history(5, 10)]
    assert asked(elsewhere) == asked([])


def test_with_little_known_the_best_of_the_most_similar_tasks_comes_first() -> None:
    records = history(6, 3)
    assert len(records) < SHORT
    near = {**NEW, "label_entropy": NEW["label_entropy"] + 1e-3}  # one more task, and almost this one
    twin = [tried(near, each, 10**6 + i) for i, each in enumerate([DEFAULTS])]
    found = propose(records + twin, NEW, SPACE, DEFAULTS, 8)
    assert len({str(each.configuration) for each in found}) == 8
    assert found[0].configuration == DEFAULTS
    assert found[0].reason.startswith(f"best of task {twin[0].task[:8]}, +")
    tasks = {each.task: [other for other in records if other.task == each.task] for each in records}
    likeness = Scale.of([NEW, near, *(of_task[0].features for of_task in tasks.values())]).likeness
    alike = sorted(tasks.values(), key=lambda of_task: -likeness(NEW, of_task[0].features))[: NEIGHBOURS - 1]
    bests = [max(of_task, key=lambda each: each.results["val_top1"]) for of_task in alike]
    configurations = [SPACE.project(each.configuration) for each in bests]
    different = [each for i, each in enumerate(configurations) if each not in [DEFAULTS, *configurations[:i]]]
    assert different
    assert [each.configuration for each in found[1 : 1 + len(different)]] == different


def test_neighbours_are_five_other_tasks_in_the_order_of_the_cosine() -> None:
    records = history(9, 2)
    found = list(neighbours(points(records, SPACE, GOAL), records[0].features, GOAL))
    assert len(found) == 5
    likeness = [float(each.reason.split(", ")[1].split()[0]) for each in found]
    assert likeness == sorted(likeness, reverse=True)
    assert not any(records[0].task[:8] in each.reason for each in found)
    counts = {name: np.log([each.features[name] for each in records[::2]]) for name in ("rows", "compression")}
    columns = np.stack([*counts.values(), [each.features["label_entropy"] for each in records[::2]]], 1)
    scaled = (columns - columns.mean(0)) / columns.std(0)
    cosines = scaled[1:] @ scaled[0] / np.linalg.norm(scaled[1:], axis=1) / np.linalg.norm(scaled[0])
    assert likeness == pytest.approx(sorted(cosines, reverse=True)[:5], abs=0.006)  # two digits are told


@pytest.mark.parametrize("tasks", [0, 2, 7])
def test_proposals_are_a_function_of_records_task_and_seed(tasks: int) -> None:
    records = history(tasks, 6)
    first = propose(records, NEW, SPACE, DEFAULTS, 6, seed=1)
    shuffled = random.Random(0).sample(records, len(records))
    assert propose(shuffled, NEW, SPACE, DEFAULTS, 6, seed=1) == first
    assert propose(records, NEW, SPACE, DEFAULTS, 6, seed=2) != first


@pytest.mark.parametrize("tasks", [0, 2, 7])
def test_nothing_is_proposed_twice_or_while_it_runs(tasks: int) -> None:
    records = history(tasks, 6)
    first = asked(records)
    assert all(each not in first for each in asked(records, pending=tuple(first)))
    failed = [tried(NEW, each, 10**7 + i, status="failed", error="OSError: gone") for i, each in enumerate(first)]
    assert all(each not in first for each in asked(records + failed))


def test_a_task_of_its_own_is_no_neighbour_and_its_draws_go_on() -> None:
    own: list[Record] = []
    for number in range(MODELLED):
        (proposal,) = propose(own, NEW, SPACE, DEFAULTS, 1)
        assert proposal.reason == ("drawn" if number else "published defaults")
        own.append(tried(NEW, proposal.configuration, number))
    (proposal,) = propose(own, NEW, SPACE, DEFAULTS, 1)
    assert "is expected" in proposal.reason


def test_a_small_space_is_exhausted_once() -> None:
    small = Space({"a": Choice(1, 2), "b": Choice(True, False, when={"a": 1}), "c": Range(1, 3, whole=True)})
    start = {"a": 1, "b": True, "c": 2}
    every = [{"a": 1, "b": b, "c": c} for b in (True, False) for c in (1, 2, 3)] + [{"a": 2, "c": c} for c in (1, 2, 3)]
    for records in ([], [replace(tried(task(1), DEFAULTS, i), configuration=each) for i, each in enumerate(every)]):
        found = [each.configuration for each in propose(records, NEW, small, start, 50)]
        assert len(found) == 9
        assert all(each in found for each in every)
    assert propose([], NEW, small, start, 5, pending=every) == []
    tried_here = [replace(tried(NEW, DEFAULTS, i), configuration=each) for i, each in enumerate(every)]
    assert propose(tried_here, NEW, small, start, 5) == []


def test_proposals_made_together_are_kept_apart() -> None:
    together = np.stack([SPACE.encode(each) for each in asked(history(7, 16), 8)])
    distance = np.sqrt(np.square(together[:, None] - together).sum(-1) / len(SPACE.axes))
    assert distance[~np.eye(8, dtype=bool)].min() > 0.03


def test_a_small_space_is_proposed_whole_and_nothing_twice() -> None:
    space = Space({"method": Choice("kd", "dkd"), "beta": Choice(1.0, 8.0, when={"method": "dkd"})})
    records = [
        replace(each, configuration=space.active({**each.configuration, "beta": 8.0}) | {"epochs": 30})
        for each in history(7, 16)
    ]
    found = [each.configuration for each in propose(records, NEW, space, {"method": "kd"}, 9)]
    every = [{"method": "kd"}, {"method": "dkd", "beta": 1.0}, {"method": "dkd", "beta": 8.0}]
    assert sorted(map(str, found)) == sorted(map(str, every))


def test_what_is_running_pushes_others_away() -> None:
    records = history(7, 16)
    (first,) = asked(records, 1)
    near = {**first, "tau": round(first["tau"] * 1.001, 4)}  # type: ignore[operator]
    (second,) = asked(records, 1, pending=(near,))
    gap = np.sqrt(np.square(SPACE.encode(second) - SPACE.encode(near)).sum() / len(SPACE.axes))
    assert gap > 0.03


def test_defaults_outside_of_the_space_are_refused() -> None:
    with pytest.raises(ValueError, match="outside of Range"):
        propose([], NEW, SPACE, {**DEFAULTS, "tau": 99.0}, 1)


def test_two_good_configurations_are_not_averaged() -> None:
    """The trap of regressing the configuration: good at both ends, bad in between."""
    space = Space({"x": Range(0.0, 1.0)})
    records = [
        replace(
            tried(task(number), DEFAULTS, 100 * number + i),
            configuration=each,
            results={"val_top1": abs(each["x"] - 0.5)},
        )  # type: ignore[operator]
        for number in range(3)
        for i, each in enumerate(space.samples(number, 20))
    ]
    found = propose(records, NEW, space, {"x": 0.5}, 3)
    assert all(abs(each.configuration["x"] - 0.5) > 0.3 for each in found)  # type: ignore[operator]


def test_less_can_be_better() -> None:
    records = [replace(each, results={"val_nll": 1 / each.results["val_top1"]}) for each in history(7, 16)]
    found = propose(records, NEW, SPACE, DEFAULTS, 4, goal=Goal("val_nll", larger=False))
    mean = np.mean([response(NEW, each) for each in SPACE.samples(7, 200)])
    assert np.mean([response(NEW, each.configuration) for each in found]) > mean


def test_the_toy_world_has_its_optimum_where_it_says() -> None:
    for number in range(20):
        features = task(number)
        assert response(features, best(features)) == pytest.approx(top(features))
        assert all(response(features, each) < top(features) for each in SPACE.samples(number, 50))
    assert len({best(task(number))["method"] for number in range(20)}) == 2


def trials_to(share: float, number: int, memory: list[Record] | None, limit: int = 40) -> int:
    """Trials until a result is this share of the best possible one; draws from the space where there is no memory."""
    features, own = task(number), list[Record]()
    for count in range(limit):
        drawn = DEFAULTS if count == 0 else SPACE.sample(1000 + number, count)
        if memory is not None:
            drawn = propose(memory + own, features, SPACE, DEFAULTS, 1)[0].configuration
        own.append(tried(features, drawn, 10**7 + count))
        if own[-1].results["val_top1"] >= share * top(features):
            return count + 1
    return limit


@pytest.mark.slow
def test_a_memory_of_other_tasks_finds_the_optimum_in_fewer_trials_than_chance() -> None:
    """Seven other tasks of sixteen trials; whose optimum, and whose level, depend on features that the new one has too."""
    numbers = [500 + i for i in range(6)]
    memory = history(7, 16)
    with_memory = [trials_to(0.97, number, memory) for number in numbers]
    by_chance = [trials_to(0.97, number, None) for number in numbers]
    assert median(with_memory) <= median(by_chance) / 2
    assert math.fsum(with_memory) < math.fsum(by_chance)
