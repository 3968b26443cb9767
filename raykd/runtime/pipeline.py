"""Which stages are made at once, and which first. No Ray in here.

    ready    a stage whose parents are done
    order    of those that are ready, the one from which the longest path goes on: its own time and that of what waits for it
    seat     argmin_w(queue_w + time): seats are alike, so the one that is free first

    span >= max(longest path, total / W)                                        no schedule ends before
    span <= (4/3 - 1/(3 W)) optimum                                             of stages that wait for none
    span <= total / W + (1 - 1/W) longest path                                  of any

Where stages wait for none of each other the longest path is the stage itself, and the order is longest first.

Source: Graham, "Bounds on multiprocessing timing anomalies", 1969 (the last three).
Source: Haase, da Silva, "HPM-KD", arXiv 2512.09886, 2025, parallel processing pipeline (argmin_w, longest first).

Shapes: W seats.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field

from raykd.plan import Step

FLOPS_PER_SECOND = 2e10
UPDATE_S = 1e-3
"""What one seat is expected to do: floating point operations, and seconds of an update beside them. Only who goes first, and
whether it is worth while to make several stages at once, depends on it."""


def training_s(step: Step, workers: int = 1) -> float:
    """Seconds that a stage's own training is expected to take: workers share the rows, and all take every step."""
    return step.flops / FLOPS_PER_SECOND / workers + step.updates * UPDATE_S


def labeling_s(step: Step) -> float:
    """Seconds that its teachers are expected to take for what the cache lacks."""
    return sum(filling.flops for filling in step.fillings) / FLOPS_PER_SECOND


@dataclass
class Pipeline:
    """Stages, by their place in a list, on their way through `seats` seats. Parents come before those that wait for them."""

    seconds: Sequence[float]
    parents: Sequence[Collection[int]]
    seats: int
    running: set[int] = field(default_factory=set, init=False)
    """What was taken and has not ended."""
    waiting: set[int] = field(init=False)
    """What was not taken yet; at the end, what waited for a stage that failed."""
    _done: set[int] = field(default_factory=set, init=False)

    def __post_init__(self) -> None:
        assert self.seats > 0, "a pipeline has a seat"
        assert all(parent < i for i, parents in enumerate(self.parents) for parent in parents), "parents come first"
        self.waiting = set(range(len(self.seconds)))
        self._paths = paths(self.seconds, self.parents)

    @property
    def ready(self) -> list[int]:
        """What may be taken, the longest path first; of equals the one that comes first."""
        found = [i for i in self.waiting if self._done.issuperset(self.parents[i])]
        return sorted(found, key=lambda i: (-self._paths[i], i))

    def take(self) -> int | None:
        """What to start now, if there is a seat and something is ready."""
        if len(self.running) == self.seats or not (ready := self.ready):
            return None
        self.waiting.remove(ready[0])
        self.running.add(ready[0])
        return ready[0]

    def end(self, stage: int, *, failed: bool = False) -> None:
        """A stage that was taken is over. What waits for one that failed is never ready."""
        self.running.remove(stage)
        if not failed:
            self._done.add(stage)


def carry_out(pipeline: Pipeline, begin: Callable[[int], Future[None]], alone: Callable[[int], None]) -> None:
    """Make every stage: `begin` one beside others, or make it here, by `alone`, where nothing else could be made meanwhile.

    An error of a stage ends those that wait for it and no other; the first one is raised when all is over. An interrupt is
    raised at once: whoever gave `begin` ends what was begun.
    """
    running: dict[Future[None], int] = {}
    errors: list[BaseException] = []

    def end(stage: int, error: BaseException | None) -> None:
        pipeline.end(stage, failed=error is not None)
        if error is not None:
            errors.append(error)

    while True:
        while (stage := pipeline.take()) is not None:
            if running or pipeline.ready:
                running[begin(stage)] = stage
            else:
                end(stage, _error(alone, stage))
        if not running:
            break
        over, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in over:
            end(running.pop(future), future.exception())
    if errors:
        raise errors[0]


def _error(make: Callable[[int], None], stage: int) -> Exception | None:
    try:
        make(stage)
    except Exception as error:  # it is raised when all is over
        return error
    return None


@dataclass(frozen=True)
class Turn:
    """When a stage has which seat, in seconds from the beginning."""

    seat: int
    start: float
    end: float


def timetable(seconds: Sequence[float], parents: Sequence[Collection[int]], seats: int) -> list[Turn]:
    """What becomes of the stages if they take just as long as expected."""
    pipeline = Pipeline(seconds, parents, seats)
    found: dict[int, Turn] = {}
    free = [(0.0, seat) for seat in range(seats)]
    busy: list[tuple[float, int]] = []
    now = 0.0
    while True:
        while (stage := pipeline.take()) is not None:
            _, seat = heapq.heappop(free)  # the one whose queue ends first
            found[stage] = Turn(seat, now, now + seconds[stage])
            heapq.heappush(busy, (found[stage].end, stage))
        if not busy:
            return [found[stage] for stage in range(len(seconds))]
        now, stage = heapq.heappop(busy)
        heapq.heappush(free, (now, found[stage].seat))
        pipeline.end(stage)


def span(turns: Sequence[Turn]) -> float:
    """When the last is over."""
    return max((turn.end for turn in turns), default=0.0)


def bound(seconds: Sequence[float], parents: Sequence[Collection[int]], seats: int) -> float:
    """No schedule ends before: the longest path, or all of the work shared evenly."""
    return max(max(paths(seconds, parents), default=0.0), sum(seconds) / seats)


def paths(seconds: Sequence[float], parents: Sequence[Collection[int]]) -> list[float]:
    """Of each stage: its own time and the longest path of those that wait for it."""
    found = list(seconds)
    for stage in reversed(range(len(seconds))):
        for parent in parents[stage]:
            found[parent] = max(found[parent], seconds[parent] + found[stage])
    return found
