"""Who gets what of a cluster: how many training workers, which devices are left for teachers. No Ray in here.

    training workers    what was said; else one for each GPU, as long as each has 32 rows of the batch; else one
    teachers' actors    what was said; else one for each GPU, or each core without GPUs, that the workers beside them leave

All of it is outside of identity: it changes when things are done, and no result beyond rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil

from raykd.labeling.placement import OTHERS, Actors
from raykd.shares import Node, Room, Share, apart, beside, check, has_gpus, places, settled, threads

BATCH_ROWS = 32
"""Rows of a batch that a worker must have for another one to be worth its while."""
Workers = int | tuple[int, int] | None
"""How many train a stage together, or at least and at most so many; None: what suits cluster and stage."""


@dataclass(frozen=True)
class Resources:
    """What there is, and what was said about who takes what."""

    nodes: Sequence[Node]
    workers: Workers = None
    worker: Share = Share()
    """What a training worker takes, as far as it was said."""
    actors: Actors = Actors()
    overlap: bool | None = None
    alone: bool = False
    """A machine by itself: it has no kinds of nodes, and what was said of them is passed over."""

    @property
    def of_worker(self) -> Share:
        """What a training worker takes."""
        return settled(self._said(self.worker), self.nodes, cpus=1.0, cpus_of_gpu=1.0)

    def of_teacher(self, name: str = OTHERS) -> Share:
        """What an actor of a teacher takes."""
        return settled(self._said(self.actors.share(name)), self.nodes, cpus=1.0, cpus_of_gpu=0.5)

    def bounds(self, rows: int) -> tuple[int, int]:
        """How many workers train a stage with so many rows in a batch, at least and at most."""
        if self.workers is not None:
            return self.workers if isinstance(self.workers, tuple) else (self.workers, self.workers)
        most = min(places(self.nodes, self.of_worker), rows // BATCH_ROWS) if self.of_worker.gpus else 1
        while self.overlap and most > 1 and not self._shared_out(most):
            most -= 1
        return 1, max(1, most)

    def beside(self, rows: int) -> Room:
        """What is left for teachers beside such a training."""
        return self._beside(self.bounds(rows)[1])

    def overlaps(self, rows: int) -> bool:
        """Whether teachers work while a student trains: what was said; else where they have GPUs or nodes of their own."""
        if self.overlap is not None:
            return self.overlap
        teacher = self.of_teacher()
        own = teacher.gpus is not None or apart(self.nodes, self.of_worker, teacher)
        return own and self.beside(rows).places(teacher) > 0

    def streaming(self, rows: int) -> int:
        """Actors that each training worker has beside it, where nothing is cached; 0: it asks the teachers itself."""
        found = self.beside(rows).places(self.of_teacher()) // self.bounds(rows)[1]
        return found if self.of_teacher().gpus or self.overlaps(rows) else 0

    @property
    def seats(self) -> int:
        """Stages that may be made at once: one on each GPU, or on each node where there are none."""
        cores = sum(node.amounts.get("CPU", 0) > 0 for node in self.nodes)
        return max(1, places(self.nodes, self.of_worker) if self.of_worker.gpus else cores)

    def seat(self, seats: int) -> tuple[Share, int]:
        """What a task takes that makes one of so many stages at once, and its threads."""
        worker = self.of_worker
        usable = [node for node in self.nodes if places([node], worker)]
        cpus, gpus = (int(sum(node.amounts.get(name, 0) for node in usable)) for name in ("CPU", "GPU"))
        cpus_of_one = 1 / ceil(seats / max(1, cpus))
        if not worker.gpus:
            return replace(worker, cpus=cpus_of_one), threads(usable, worker, seats)
        return replace(worker, cpus=cpus_of_one, gpus=1 / ceil(seats / gpus)), 1

    def check(self) -> None:
        """Raise `ValueError` for what does not fit, naming what is asked and what exists."""
        who = "a training worker" if self.workers is None else f"workers={said(self.workers)}"
        check(self.nodes, self.of_worker, self.bounds(0)[0], kind="worker", who=who)
        for name in dict.fromkeys([*self.actors.gpus, OTHERS]):
            who = f"{self.actors.least} actors of {f'the teacher {name}' if name else 'teachers'}"
            check(self.nodes, self.of_teacher(name), self.actors.least, kind="teacher", who=who)

    @property
    def passed_over(self) -> bool:
        """Whether something was said that a machine by itself passes over."""
        said = [self.worker, *(self.actors.share(name) for name in (*self.actors.gpus, OTHERS))]
        return any(self._said(each) != each for each in said)

    def _said(self, share: Share) -> Share:
        if not self.alone:
            return share
        found = replace(share, custom={}, labels={})
        return found if has_gpus(self.nodes, found) else replace(found, gpus=None)

    def _beside(self, workers: int) -> Room:
        return beside(self.nodes, self.of_worker, workers, self.of_teacher())

    def _shared_out(self, workers: int) -> bool:
        """Whether so many workers leave teachers as many devices as they take, or all that teachers could have."""
        teacher = self.of_teacher()
        return self._beside(workers).places(teacher) >= min(places(self.nodes, teacher), workers)


def checked(workers: Workers) -> Workers:
    """The same; raises `ValueError` for a number of workers that is none."""
    least, most = workers if isinstance(workers, tuple) else (workers, workers)
    if least is not None and most is not None and not 1 <= least <= most:
        raise ValueError(f"workers={said(workers)}: 1 or more, and no more at least than at most, would be right")
    return workers


def said(workers: Workers) -> str:
    """As on the command line."""
    if workers is None:
        return "auto"
    return f"{workers[0]}:{workers[1]}" if isinstance(workers, tuple) else f"{workers}"
