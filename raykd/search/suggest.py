"""Which configurations a search begins with, and what suggests the others. No Ray in here.

    starting    random    the published defaults and draws: all of them
                memory    proposals of the manager; then one at a time, each knowing what came of those before it
                optuna    the manager's proposals as far as they rest on something; the rest is the library's

What is known from the start goes to the workers longest expected first, so that no long one is left for the end.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from raykd.identity import digest
from raykd.plan import plan
from raykd.runtime.pipeline import labeling_s, training_s
from raykd.search.axes import Configuration
from raykd.search.meta import Features
from raykd.search.proposals import propose
from raykd.search.record import Record
from raykd.search.search import POPULATION, Search
from raykd.search.surrogate import points
from raykd.storage import Storage

DRAWN = "drawn"
SHARE = 4  # one trial in so many is a proposal that knows nothing of the search itself


def starting(search: Search, records: Sequence[Record], task: Features, storage: Storage) -> list[Configuration]:
    """What a search begins with, longest expected first."""
    if search.searcher == "random":
        found = [search.defaults]
        found += [each for each in search.space.samples(search.seed, search.trials - 1) if each != search.defaults]
    else:
        population = search.scheduler in POPULATION
        count = search.trials if population else min(search.trials, max(4, search.trials // SHARE))
        proposals = propose(records, task, search.space, search.defaults, count, seed=search.seed, goal=search.goal)
        wanted = population or search.searcher == "memory"
        found = [each.configuration for each in proposals if wanted or each.reason != DRAWN]
    seconds = {i: expected_s(search, configuration, storage) for i, configuration in enumerate(found)}
    return [found[i] for i in sorted(seconds, key=lambda i: (-seconds[i], i))]


def expected_s(search: Search, configuration: Configuration, storage: Storage) -> float:
    """Seconds that a trial is expected to take; 0 where the recipe refuses, which the trial is to find out."""
    try:
        steps = plan([search.stage(configuration)], storage).steps
    except ValueError:
        return 0.0
    return sum(training_s(step) + labeling_s(step) for step in steps)


def known(search: Search, records: Sequence[Record], task: str) -> list[tuple[Configuration, float]]:
    """What is known of this very task: configurations with results."""
    return [
        (point.configuration, point.result)
        for point in points(records, search.space, search.goal)
        if point.task == task and point.record.status == "done"
    ]


@dataclass
class Suggestions:
    """Configurations one at a time, and what came of them."""

    search: Search
    records: Sequence[Record]
    task: Features
    first: Sequence[Configuration]
    asked: dict[str, Configuration] = field(default_factory=dict)
    """By the name of the trial."""
    told: dict[str, Mapping[str, float] | None] = field(default_factory=dict)
    """Results; None of a failure."""

    def next(self, trial: str) -> Configuration | None:
        """What the trial of this name is to try; None if there is nothing left."""
        configuration = self._proposed()
        if configuration is not None:
            self.asked[trial] = configuration
        return configuration

    def _proposed(self) -> Configuration | None:
        if len(self.asked) < len(self.first):
            return self.first[len(self.asked)]
        if self.search.searcher == "random":
            return None
        tried = [self._record(trial) for trial in self.told]
        pending = [configuration for trial, configuration in self.asked.items() if trial not in self.told]
        proposals = propose(
            [*self.records, *tried], self.task, self.search.space, self.search.defaults, 1,
            seed=self.search.seed, goal=self.search.goal, pending=pending,
        )  # fmt: skip
        return proposals[0].configuration if proposals else None

    def _record(self, trial: str) -> Record:
        """As the memory will have it."""
        results = self.told[trial]
        knobs = {name: knob.default for name, knob in self.search.recipe.knobs.items()}
        return Record(
            digest(trial), self.search.recipe.function.__name__,
            {**knobs, **self.search.given, **self.asked[trial]}, self.task, results=results or {}, time=time.time(),
            status="failed" if results is None else "done",
        )  # fmt: skip
