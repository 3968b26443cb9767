"""What a search is, and what it found."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from raykd import recipes
from raykd.recipes import Recipe
from raykd.search import Choice, Range, Space, space_of
from raykd.search.search import Found, Search, Tried
from raykd.search.surrogate import Goal

JOBS = Path(__file__).with_name("searched_jobs.py")


def of(name: str, **settings: Any) -> Search:
    recipe: Recipe = recipes.load(f"{JOBS}:{name}")
    return Search(recipe, space_of(recipe), **settings)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"trials": 0}, "trials=0 of a search: 1 or more"),
        ({"goal": Goal("test_top1")}, "val_top1 or val_nll"),
        ({"searcher": "grid"}, "searcher='grid'.*optuna, random, memory"),
        ({"scheduler": "hyperband"}, "scheduler='hyperband'.*asha, median, pbt, pb2, none"),
        ({"against": ("bytes",), "scheduler": "none"}, "against 'bytes'.*parameters, flops, latency_ms"),
        ({"against": ("parameters",)}, "scheduler='asha' stops trials by val_top1 alone"),
        ({"scheduler": "pbt", "trials": 1}, "a population has 2 or more"),
    ],
)
def test_what_does_not_go_together_is_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        of("kd", **settings)


def test_a_population_may_not_change_network_epochs_or_what_is_not_always_there() -> None:
    of("kd", scheduler="pbt").check()
    of("sized").check()
    for name, words in (("sized", "width decides"), ("long", "epochs decides"), ("methods", "beta is not always")):
        with pytest.raises(ValueError, match=words):
            of(name, scheduler="pbt").check()


def test_epochs_are_those_of_the_longest_training() -> None:
    assert of("kd").epochs == 4
    assert of("kd", given={"epochs": 7}).epochs == 7
    assert of("long").epochs == 8
    assert of("long", given={"epochs": 7}, interval=0).grace == 1
    assert of("kd", given={"epochs": 30}).grace == 5


def test_equal_searches_have_one_name_and_others_another() -> None:
    one = of("kd")
    assert one.name == of("kd").name
    others = [
        of("sized"), of("kd", trials=3), of("kd", given={"epochs": 2}), of("kd", searcher="random"),
        of("kd", scheduler="median"), of("kd", scheduler="none", against=("flops",)), of("kd", seed=1), of("kd", interval=3),
        of("kd", goal=Goal("val_nll", larger=False)), replace(one, space=Space({"tau": Range(1.0, 8.0)})),
        replace(one, space=Space({"tau": Range(1.0, 8.0), "lr": Choice(0.1, 0.2)})),
    ]  # fmt: skip
    assert len({one.name, *(each.name for each in others)}) == 1 + len(others)


def tried(number: int, status: Any = "done", **metrics: float) -> Tried:
    return Tried(number, {"tau": float(number + 1)}, status, metrics, 4, 1.0, None)


def test_the_best_is_a_finished_trial_if_there_is_one() -> None:
    search = of("kd")
    stopped, failed = tried(1, "stopped", val_top1=0.99), tried(3, "failed")
    done = [tried(0, val_top1=0.5), tried(2, val_top1=0.7)]
    best = Found(search, (done[0], stopped, done[1], failed)).best
    assert best is not None
    assert best.number == 2
    assert Found(search, (stopped, failed)).best == stopped
    assert Found(search, (failed,)).best is None
    less = replace(search, goal=Goal("val_nll", larger=False))
    assert Found(less, (tried(0, val_nll=0.5), tried(1, val_nll=0.3))).best == tried(1, val_nll=0.3)


def grid() -> Iterator[Tried]:
    for number, (top1, size, flops) in enumerate(product((0.5, 0.6, 0.7), (10.0, 20.0), (1.0, 2.0))):
        yield tried(number, val_top1=top1 - 0.01 * (size < 15), parameters=size, flops=flops)


@pytest.mark.parametrize("against", [("parameters",), ("parameters", "flops")])
def test_the_front_is_what_no_other_beats_in_everything(against: tuple[Any, ...]) -> None:
    search = of("kd", scheduler="none", against=against)
    found = Found(search, (*grid(), tried(99, "stopped", val_top1=1.0, parameters=1.0, flops=1.0)))

    def better(one: Tried, other: Tried) -> bool:
        ours, theirs = ([-each.metrics["val_top1"], *(each.metrics[name] for name in against)] for each in (one, other))
        return all(a <= b for a, b in zip(ours, theirs, strict=True)) and any(
            a < b for a, b in zip(ours, theirs, strict=True)
        )

    front = {each.number for each in found.front}
    assert front == {each.number for each in grid() if not any(better(other, each) for other in grid())}
    assert 99 not in front
    costs = [[each.metrics[name] for name in against] for each in found.front]
    assert costs == sorted(costs)
