"""The result that a configuration will have on a task, learned from all that were tried on any.

    y = result / reference of its task                   1 is the best of a task, so results of all tasks compare
    y(phi, c) ~ mean and deviation over the trees of a random forest on (standardised log meta-features, encoded c)
    EI(phi, c) = E max(y - best, 0) = deviation (f(z) + z F(z)),   z = (mean - best) / deviation

f and F are density and distribution of the standard normal. The forest models the result and never the configuration: the mean
of two good configurations may be bad.

The reference of a task is the best result that is known of it. Of a young task, with fewer than `YOUNG` results, that says
little: one result alone would be its own best. There the reference is what a forest of the older tasks expects its best to be,
median(result / expected y), if that is more. [interpretation]

Sources: Haase and da Silva, "HPM-KD", 2025 (random forest of results, given meta-features and configuration); Jones, Schonlau,
Welch, "Efficient global optimization of expensive black-box functions", 1998, equation 15; Hutter, Hoos, Leyton-Brown,
"Sequential model-based optimization for general algorithm configuration", 2011, section 4.1 (deviation over trees).

Shapes: N records, K configurations, W numbers of an encoded one, F meta-features.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from raykd.search.axes import Configuration
from raykd.search.meta import Features, Scale
from raykd.search.record import Record
from raykd.search.space import Space

TREES = 100
LEAF = 2  # records that a leaf has at least
YOUNG = 10


@dataclass(frozen=True)
class Goal:
    """The figure that a search is for."""

    metric: str = "val_top1"
    """One of a record's results, at least 0."""
    larger: bool = True
    """Whether more of it is better; for `val_nll` it is not."""

    def of(self, record: Record) -> float | None:
        """The result; None for a record without it. Raises `ValueError` for one below 0: it has no ratio to others."""
        value = record.results.get(self.metric, math.nan)
        if not math.isfinite(value):
            return None
        if value < 0:
            raise ValueError(f"{self.metric}={value} in the record {record.fingerprint[:8]}: 0 or more would be right")
        return value

    def share(self, result: float, reference: float) -> float:
        """1 for the reference, less for what is worse."""
        less, more = (result, reference) if self.larger else (reference, result)
        return 1.0 if result == reference else less / max(more, 1e-12)

    def reference(self, result: float, share: float) -> float:
        """The reference of which a result is this share."""
        return result / max(share, 1e-12) if self.larger else result * share

    def best(self, results: Sequence[float]) -> float:
        """The best of some."""
        return max(results) if self.larger else min(results)

    def worst(self, results: Sequence[float]) -> float:
        """The worst of some."""
        return min(results) if self.larger else max(results)


@dataclass(frozen=True)
class Point:
    """A record as a search sees it."""

    record: Record
    configuration: Configuration
    """In its space."""
    result: float
    """By its goal."""

    @property
    def task(self) -> str:
        """Name of its task."""
        return self.record.task


def points(records: Sequence[Record], space: Space, goal: Goal) -> list[Point]:
    """What of the records can be compared: with a configuration in the space, and a result.

    A configuration that diverged has the worst result of its task: it is known to be no good. Other failures say nothing.
    """
    placed = [(record, space.project(record.configuration)) for record in records]
    known = [
        Point(record, configuration, result)
        for record, configuration in placed
        if configuration is not None and record.status != "failed" and (result := goal.of(record)) is not None
    ]
    worst = {task: goal.worst([point.result for point in of_task]) for task, of_task in by_task(known).items()}
    lost = [
        Point(record, configuration, worst[record.task])
        for record, configuration in placed
        if configuration is not None and record.diverged and record.task in worst
    ]
    return sorted(known + lost, key=lambda point: (point.record.fingerprint, point.record.content))


def by_task(found: Sequence[Point]) -> dict[str, list[Point]]:
    """The points of each task, in an order that does not depend on theirs."""
    tasks: dict[str, list[Point]] = {}
    for point in found:
        tasks.setdefault(point.task, []).append(point)
    return dict(sorted(tasks.items()))


@dataclass(frozen=True, eq=False)
class Surrogate:
    """A forest that knows some results."""

    space: Space
    scale: Scale
    references: Mapping[str, float]
    """What 1 stands for, by task."""
    forest: Any

    @classmethod
    def fit(cls, found: Sequence[Point], space: Space, goal: Goal, *, seed: int = 0) -> Surrogate:
        """Learn from points, at least one. The same points in another order, and the same seed, give the same forest."""
        tasks = by_task(sorted(found, key=lambda point: (point.record.fingerprint, point.record.content)))
        scale = Scale.of([of_task[0].record.features for of_task in tasks.values()])
        references = {task: goal.best([point.result for point in of_task]) for task, of_task in tasks.items()}
        old = {task: of_task for task, of_task in tasks.items() if len(of_task) >= YOUNG}
        if old:
            before = cls._of(old, space, goal, scale, references, seed)
            for task in tasks.keys() - old.keys():
                references[task] = before.expected_best(tasks[task], goal)
        return cls._of(tasks, space, goal, scale, references, seed)

    @classmethod
    def _of(
        cls, tasks: Mapping[str, Sequence[Point]], space: Space, goal: Goal, scale: Scale,
        references: Mapping[str, float], seed: int,
    ) -> Surrogate:  # fmt: skip
        from sklearn.ensemble import RandomForestRegressor  # a second that only a search pays

        rows = [(point, references[task]) for task, of_task in tasks.items() for point in of_task]
        x_NW = np.stack([_row(scale(point.record.features), space.encode(point.configuration)) for point, _ in rows])
        y_N = np.array([goal.share(point.result, reference) for point, reference in rows])
        forest = RandomForestRegressor(TREES, min_samples_leaf=LEAF, max_features=0.5, random_state=seed, n_jobs=1)
        return cls(space, scale, references, forest.fit(x_NW, y_N))

    def expected_best(self, of_task: Sequence[Point], goal: Goal) -> float:
        """The best result that a task of these points will have."""
        mean_K, _ = self.predict(of_task[0].record.features, [point.configuration for point in of_task])
        results = [point.result for point in of_task]
        ratios = [goal.reference(result, share) for result, share in zip(results, mean_K.tolist(), strict=True)]
        return goal.best([goal.best(results), float(np.median(ratios))])

    def predict(
        self, task: Features, configurations: Sequence[Configuration]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and deviation of y over the trees, for each configuration. [K], [K]"""
        phi_F = self.scale(task)
        x_KW = np.stack([_row(phi_F, self.space.encode(each)) for each in configurations])
        trees_K = np.stack([tree.predict(x_KW.astype(np.float32)) for tree in self.forest.estimators_])
        return trees_K.mean(0), trees_K.std(0)


def expected_improvement(
    mean_K: NDArray[np.float64], deviation_K: NDArray[np.float64], best: float
) -> NDArray[np.float64]:
    """How much more than `best` a normal variable is expected to be, counting what is less as 0. [K]

    Far below `best` it is f(z) (1 - |z| F(-|z|) / f(z)), which is small but in order, where f + z F is float noise.
    """
    mean, deviation = (
        torch.from_numpy(np.asarray(mean_K, np.float64)),
        torch.from_numpy(np.asarray(deviation_K, np.float64)),
    )
    sure = deviation <= 0
    z = (mean - best) / torch.where(sure, 1.0, deviation)
    density = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)
    below = z.clamp(max=0)
    mills = math.sqrt(math.pi / 2) * torch.special.erfcx(-below / math.sqrt(2))  # F(z) / f(z) for z <= 0
    expected = torch.where(z < 0, density * (1 + below * mills), density + z * torch.special.ndtr(z))
    improvement = torch.where(sure, (mean - best).clamp(min=0), deviation * expected.clamp(min=0))
    found: NDArray[np.float64] = improvement.numpy()
    return found


def _row(phi_F: NDArray[np.float64], encoded_W: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate([phi_F, encoded_W])
