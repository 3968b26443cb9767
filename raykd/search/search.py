"""What is searched for, and what was found.

    Search(recipe, space, goal, trials)      which knobs of a recipe are the best
    Found                                    every trial with what came of it, and the best one

Trials are counted from 0 in the order in which they began.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, get_args

from raykd.identity import canonical, digest, fingerprint
from raykd.recipes import Recipe
from raykd.search.axes import Configuration, Value
from raykd.search.record import Status
from raykd.search.space import Space
from raykd.search.surrogate import Goal
from raykd.selection import METRICS, Selection, cheapest
from raykd.stage import Stage

Scheduler = Literal["asha", "median", "pbt", "pb2", "none"]
Searcher = Literal["optuna", "random", "memory"]
Cost = Literal["parameters", "flops", "latency_ms"]
POPULATION = ("pbt", "pb2")
ACCURACY = Goal()


@dataclass(frozen=True)
class Search:
    """A recipe tried over its knobs. Raises `ValueError` for settings that do not go together."""

    recipe: Recipe
    space: Space
    goal: Goal = ACCURACY
    trials: int = 16
    given: Configuration = field(default_factory=dict)
    """Knobs that are not searched, and differ from their defaults."""
    searcher: Searcher = "optuna"
    scheduler: Scheduler = "asha"
    against: tuple[Cost, ...] = ()
    """What the goal is weighed against: smaller is better."""
    interval: int = 0
    """Epochs between looks of a population at each other, and before anything is stopped; 0: a sixth of the training."""
    seed: int = 0
    """Of what is drawn; not of the trainings."""

    def __post_init__(self) -> None:
        if self.trials < 1:
            raise ValueError(f"trials={self.trials} of a search: 1 or more would be right")
        if self.goal.metric not in METRICS:
            raise ValueError(f"a search for {self.goal.metric!r}: {' or '.join(METRICS)} would be right")
        for name, known in (("searcher", Searcher), ("scheduler", Scheduler)):
            if getattr(self, name) not in get_args(known):
                found = getattr(self, name)
                raise ValueError(f"{name}={found!r} of a search: one of {', '.join(get_args(known))} would be right")
        if odd := [each for each in self.against if each not in get_args(Cost)]:
            raise ValueError(f"a search against {odd[0]!r}: some of {', '.join(get_args(Cost))} would be right")
        if self.against and self.scheduler != "none":
            raise ValueError(
                f"scheduler={self.scheduler!r} stops trials by {self.goal.metric} alone, and this search weighs it against"
                f" {', '.join(self.against)}: scheduler='none' would be right"
            )
        if self.scheduler in POPULATION and self.trials < 2:
            raise ValueError(f"scheduler={self.scheduler!r} with trials={self.trials}: a population has 2 or more")

    @property
    def defaults(self) -> Configuration:
        """The published defaults: what the recipe does when nobody asks for anything else."""
        return self.space.defaults(self.recipe)

    @cached_property
    def default(self) -> Stage:
        """The stage that the defaults write; of several, the cheapest."""
        return self.stage(self.defaults)

    @cached_property
    def epochs(self) -> int:
        """Those of the longest of 32 trainings in the space."""
        drawn = [self.defaults, *self.space.samples(self.seed, 31)] if "epochs" in self.space.axes else [self.defaults]
        return max(self.stage(each).budget.trained for each in drawn)

    @property
    def grace(self) -> int:
        """Epochs between looks."""
        return self.interval or max(1, self.epochs // 6)

    @cached_property
    def name(self) -> str:
        """Of equal searches of equal recipes: the same command continues."""
        said = [
            self.recipe.target, fingerprint(self.default), self.trials, dict(self.given), self.searcher, self.scheduler,
            list(self.against), self.grace, self.seed, self.goal.metric,
            {name: [str(axis), dict(axis.when)] for name, axis in self.space.axes.items()},
        ]  # fmt: skip
        return f"{self.recipe.function.__name__}-{digest(canonical(said))[:12]}"

    def written(self, configuration: Configuration) -> Stage | Selection:
        """What the recipe writes. Raises `ValueError` as the recipe does."""
        return self.recipe.written(**{**self.given, **configuration})

    def stage(self, configuration: Configuration) -> Stage:
        """The same; of several, the cheapest."""
        return cheapest(self.written(configuration))

    def check(self) -> None:
        """Raise `ValueError` for a space that the scheduler cannot search, before any work."""
        if self.scheduler not in POPULATION:
            return
        for name, axis in self.space.axes.items():
            if axis.when:
                raise ValueError(f"{name} is not always searched, and {self.scheduler} changes all knobs: leave it out")
        for name, axis in self.space.axes.items():
            one, other = (self.stage({**self.defaults, name: axis.at(share)}) for share in (0.0, 0.999))
            same = [each.student for each in (one, other)], [each.view for each in (one, other)]
            if any(fingerprint(a) != fingerprint(b) for a, b in same) or one.budget.end != other.budget.end:
                raise ValueError(
                    f"{name} decides about network, view or epochs, which {self.scheduler} cannot change in flight: fix it"
                )


@dataclass(frozen=True)
class Tried:
    """One trial."""

    number: int
    configuration: Configuration
    status: Status
    metrics: Mapping[str, float]
    """Of its best epoch on validation, of a finished one also `test_*`; with `parameters`, `flops` and `latency_ms`."""
    epochs: int
    seconds: float
    stage: Stage | None
    """None for a configuration of which the recipe makes none."""
    error: str = ""
    teacher_rows: int = 0
    """Rows that teachers computed for it."""
    parts: Sequence[tuple[Configuration, int]] = ()
    """Of a population: with which knobs it trained until which epoch."""


@dataclass(frozen=True)
class Found:
    """What a search found."""

    search: Search
    tried: tuple[Tried, ...]

    @property
    def best(self) -> Tried | None:
        """The finished trial with the best result, else the best of those that were stopped; None if all failed."""
        for status in ("done", "stopped"):
            known = [each for each in self.tried if each.status == status and self._result(each) is not None]
            if known:
                results = [self._value(each) for each in known]
                return known[results.index(self.search.goal.best(results))]
        return None

    @property
    def front(self) -> tuple[Tried, ...]:
        """The finished trials that no other one beats in the goal and in every cost at once, the cheapest first."""
        done = [each for each in self.tried if each.status == "done"]
        kept = [each for each in done if not any(self._beats(other, each) for other in done)]
        return tuple(sorted(kept, key=self._costs))

    def _beats(self, one: Tried, other: Tried) -> bool:
        ours, theirs = ([self._rank(each), *self._costs(each)] for each in (one, other))
        return ours != theirs and all(a <= b for a, b in zip(ours, theirs, strict=True))

    def _rank(self, tried: Tried) -> float:
        return -self._value(tried) if self.search.goal.larger else self._value(tried)

    def _costs(self, tried: Tried) -> list[float]:
        return [tried.metrics[name] for name in self.search.against]

    def _result(self, tried: Tried) -> Value:
        return tried.metrics.get(self.search.goal.metric)

    def _value(self, tried: Tried) -> float:
        return tried.metrics[self.search.goal.metric]
