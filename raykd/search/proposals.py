"""Where to look next: the adaptive configuration manager.

    nothing known                  the published defaults, then draws from the space
    little, below 20 results       the best configurations of the 5 tasks most like this one (cosine of their features),
                                   the published defaults, then as below once there are 8 results, until then draws
    more                           of 2,000 draws, and what was best elsewhere, those of the largest expected improvement

Proposals made together are kept apart: each multiplies the expected improvement of what is near it by 1 - exp(-(d / .1)^2),
d the distance of both encoded, and so does what is still running. Nothing is proposed twice for a task. All of it is a function
of records, task and seed, whatever the order in which the records come.

Source: Haase and da Silva, "HPM-KD", 2025, section on the adaptive configuration manager. [interpretation] The draft averages
the five nearest configurations with little history, and regresses the configuration; both would answer two good ones with a bad
one in between. Here the nearest ones are tried as they are, and only results are modelled.

Shapes: K candidates, W numbers of an encoded configuration.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raykd.search.axes import Configuration
from raykd.search.meta import Features, Scale
from raykd.search.record import Record, task_of
from raykd.search.space import Space
from raykd.search.surrogate import Goal, Point, Surrogate, by_task, expected_improvement, points

SHORT = 20  # results below which neighbours are asked before the forest
MODELLED = 8  # results below which there is no forest
NEIGHBOURS = 5
CANDIDATES = 2000
APART = 0.1  # root mean square over the knobs, each of which is encoded in [0, 1]
TRIES = 1000  # draws after which a small space counts as exhausted
ACCURACY = Goal()


@dataclass(frozen=True)
class Proposal:
    """A configuration to try."""

    configuration: Configuration
    reason: str
    """Where it comes from, for people."""


def propose(
    records: Sequence[Record], task: Features, space: Space, defaults: Configuration, count: int, *,
    seed: int = 0, goal: Goal = ACCURACY, pending: Sequence[Configuration] = (),
) -> list[Proposal]:  # fmt: skip
    """`count` different configurations that were not tried on this task and are not `pending`; fewer where the space has
    no more. `records` are those of the recipe, of all tasks; `task` are the features of this one.
    """
    space.check(defaults)
    name = task_of(task)
    tried = [space.project(record.configuration) for record in records if record.task == name]
    taken = [each for each in tried if each is not None] + list(pending)
    chosen: list[Proposal] = []
    for proposal in _ideas(points(records, space, goal), task, space, defaults, seed, goal, taken, pending):
        if len(chosen) == count:
            break
        if proposal.configuration not in taken:
            chosen.append(proposal)
            taken.append(proposal.configuration)
    return chosen


def _ideas(
    found: Sequence[Point], task: Features, space: Space, defaults: Configuration, seed: int, goal: Goal,
    taken: list[Configuration], pending: Sequence[Configuration],
) -> Iterator[Proposal]:  # fmt: skip
    """Proposals without end but for small spaces, best first. `taken` grows meanwhile."""
    nearest = list(neighbours(found, task, goal))
    if len(found) < SHORT:
        yield from nearest
        yield Proposal(defaults, "published defaults")
    if len(found) >= MODELLED:
        yield from _expected(
            found, task, space, [defaults, *(each.configuration for each in nearest)], seed, goal, taken, pending
        )
    first = len(taken)
    yield from (Proposal(each, "drawn") for each in space.samples(seed, TRIES, start=first))


def neighbours(found: Sequence[Point], task: Features, goal: Goal) -> Iterator[Proposal]:
    """The best configuration of each of the five other tasks most like this one, the most like first."""
    name = task_of(task)
    tasks = by_task(found)
    scale = Scale.of([task, *(of_task[0].record.features for other, of_task in tasks.items() if other != name)])
    alike = {
        other: scale.likeness(task, of_task[0].record.features) for other, of_task in tasks.items() if other != name
    }
    for other in sorted(alike, key=lambda each: (-alike[each], each))[:NEIGHBOURS]:
        best = goal.best([point.result for point in tasks[other]])
        configuration = next(point.configuration for point in tasks[other] if point.result == best)
        yield Proposal(configuration, f"best of task {other[:8]}, {alike[other]:+.2f} alike")


def _expected(
    found: Sequence[Point], task: Features, space: Space, others: Sequence[Configuration], seed: int, goal: Goal,
    taken: Sequence[Configuration], pending: Sequence[Configuration],
) -> Iterator[Proposal]:  # fmt: skip
    """Candidates by expected improvement; each makes what is near it less desirable."""
    surrogate = Surrogate.fit(found, space, goal, seed=seed)
    drawn = space.samples(seed, CANDIDATES, start=CANDIDATES * (1 + len(taken)))
    # a small space is drawn many times over
    different = {frozenset(each.items()): each for each in (*others, *drawn)}.values()
    candidates = [each for each in different if each not in taken]
    if not candidates:
        return
    mean_K, deviation_K = surrogate.predict(task, candidates)
    mine = [goal.share(p.result, surrogate.references[p.task]) for p in found if p.task == task_of(task)]
    # with nothing to improve on, what is expected to be good goes before what is not known
    value_K = expected_improvement(mean_K, deviation_K, max(mine)) if mine else mean_K - mean_K.min()
    encoded_KW = np.stack([space.encode(each) for each in candidates])
    for each in pending:
        value_K = value_K * _apart(encoded_KW, space.encode(each), space)
    for _ in candidates:
        first = int(np.lexsort((mean_K, value_K))[-1])
        told = f"{mean_K[first]:.3f} of the best is expected, give or take {deviation_K[first]:.3f}"
        yield Proposal(candidates[first], told)
        value_K = value_K * _apart(encoded_KW, encoded_KW[first], space)
        value_K[first] = -1.0


def _apart(encoded_KW: NDArray[np.float64], one_W: NDArray[np.float64], space: Space) -> NDArray[np.float64]:
    """0 for the same configuration, towards 1 for others. [K]"""
    square_K = np.square(encoded_KW - one_W).sum(1) / len(space.axes)
    factor_K: NDArray[np.float64] = -np.expm1(-square_K / APART**2)
    return factor_K
