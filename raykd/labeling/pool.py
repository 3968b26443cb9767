"""Pools of actors that label side by side: Ray Data streams the work, workers commit what they compute.

    from_items(work, one row each) -> map_batches(Actor, ActorPoolStrategy) -+
    from_items(work, one row each) -> map_batches(Actor, ActorPoolStrategy) -+- union -> what came of each slot

Teachers that take the same of a node share a pool, any actor of which may host any of them; others have a pool of their own.
Inputs and signals never pass through the driver: a slot travels as a few integers, the worker reads its rows and commits them.
A killed actor's slots are given to another; a slot done twice is committed once.

For a training that caches nothing, signals do come back, in the order of its steps and no further ahead than there is room:

    from_items(runs of steps) -> map_batches(StepsActor, in order) -> iter_batches, in the training worker

Shapes: R rows of this worker in a run of steps.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from numpy.typing import NDArray
from torch import Tensor

from raykd import tokens
from raykd.answers import Asked, Signals, Tally
from raykd.cache import Misaligned, Slot, input_checksums
from raykd.device import device
from raykd.labeling.balance import Work
from raykd.labeling.labeler import Labeled, Labeler, Labeling
from raykd.labeling.live import predictors
from raykd.labeling.placement import Pool
from raykd.order import Order
from raykd.places import make_folder, persistent
from raykd.shares import Share
from raykd.signals import Observable
from raykd.sparse import Sparse
from raykd.stage import Stage
from raykd.storage import Storage

COLUMNS = ("pool", "teacher", "replica", "index", "rows", "bytes", "retries")
STALLED_S, DAY_S = 600, 86_400
"""Seconds without progress after which a pipeline that hangs is an error."""


class Actor:
    """One actor of a pool: it loads a teacher when first asked for it, then labels what it is given."""

    def __init__(self, pool: int, labelings: Sequence[Labeling], stopped: str):
        self.pool = pool
        self.labeler = Labeler(labelings, device())
        self.stopped = Path(stopped)
        self.over = False
        """After a mistake: every further piece of work might wait as long for a storage that is away."""

    def __call__(self, batch: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Label the one piece of work of the batch; a row for each teacher that did.

        A mistake is a row too: Ray would hand on its traceback, and not its type.
        """
        work = Work(Slot(int(batch["replica"][0]), int(batch["index"][0])), tuple(batch["teachers"][0].tolist()))
        found: list[Labeled] = []
        if not (self.over or self.stopped.exists()):
            try:
                found.extend(self.labeler.label(work))
            except (OSError, ValueError) as error:  # OSError: a full disk, a file system that is gone
                self.over = True
                return self._rows(found, str(error), "OSError" if isinstance(error, OSError) else "ValueError")
        return self._rows(found)

    def _rows(self, found: Sequence[Labeled], mistake: str = "", kind: str = "") -> dict[str, NDArray[Any]]:
        table = [
            [self.pool, each.teacher, each.slot.replica, each.slot.index, each.rows, each.bytes, each.retries]
            for each in found
        ]
        columns = np.array(table or [[self.pool, -1, 0, 0, 0, 0, 0]], np.int64).T
        words = {"mistake": np.array([mistake] * columns.shape[1]), "kind": np.array([kind] * columns.shape[1])}
        return dict(zip(COLUMNS, columns, strict=True)) | words


def fill(pools: Sequence[Pool], scratch: Path) -> Iterator[tuple[Labeling, Labeled]]:
    """Do the work of all pools at once; yields what came of each slot, in no particular order.

    After the first mistake actors do no further work, and it is raised: `ValueError`, such as for a logit that the codec cannot
    hold, or `OSError`, such as for a full disk. Nor do they when the iterator is closed. `scratch` is a folder that all
    nodes see.
    """
    persistent(make_folder)(scratch)
    with persistent(tempfile.TemporaryDirectory)(dir=scratch) as folder:
        stopped = Path(folder) / "stopped"
        mistakes: list[ValueError | OSError] = []
        done = iter(_pipeline(pools, stopped).iter_rows())  # what iter_rows gives starts anew whenever it is iterated
        try:
            for row in done:
                if row["mistake"]:
                    _stop(stopped)
                    mistakes.append((OSError if row["kind"] == "OSError" else ValueError)(row["mistake"]))
                if row["teacher"] >= 0:
                    slot = Slot(row["replica"], row["index"])
                    counts = row["rows"], row["bytes"], row["retries"]
                    yield pools[row["pool"]].labelings[row["teacher"]], Labeled(row["teacher"], slot, *counts)
        finally:
            _stop(stopped)
            for _ in done:  # to its end, which now is near: a pipeline that is left early keeps its actors
                pass
    if mistakes:
        raise mistakes[0]


def _stop(stopped: Path) -> None:
    with suppress(OSError):  # where nothing can be written the actors' own work fails
        stopped.touch()


def _pipeline(pools: Sequence[Pool], stopped: Path) -> ray.data.Dataset:
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.execution_no_progress_timeout_s = STALLED_S
    # with reservations a pool keeps its share of the devices to the end, whether another is done or not
    context.op_resource_reservation_enabled = False
    # and without reservations a few integers that wait for the driver would hold up all actors but one
    context.downstream_capacity_backpressure_ratio = None
    with ray.data.DataContext.current(context):
        first, *others = [_branch(number, pool, stopped) for number, pool in enumerate(pools)]
        return first.union(*others) if others else first


def _branch(number: int, pool: Pool, stopped: Path) -> ray.data.Dataset:
    rows = [{"replica": w.slot.replica, "index": w.slot.index, "teachers": list(w.teachers)} for w in pool.work]
    actors = min(pool.actors, len(rows))
    return ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        Actor,
        fn_constructor_kwargs={"pool": number, "labelings": pool.labelings, "stopped": str(stopped)},
        compute=ray.data.ActorPoolStrategy(min_size=actors, max_size=max(actors, min(pool.most, len(rows)))),
        batch_size=1,
        runtime_env={"env_vars": dict(pool.environment)},
        **taking(pool.share),
    )


def taking(share: Share) -> dict[str, Any]:
    """What an actor or a task takes of a node, as Ray's options."""
    found: dict[str, Any] = {"num_cpus": share.cpus, "num_gpus": share.gpus}
    if share.custom:
        found["resources"] = dict(share.custom)
    if share.labels:
        found["label_selector"] = dict(share.labels)
    return found


RUN_ROWS = 2048
"""Rows, about, that an actor computes at once for a training: small blocks cost Ray Data 10 ms each."""
RUN_BYTES = 16 * 2**20
"""And how much they may say: a node's object store, .3 of its memory and no more than `/dev/shm`, holds many blocks."""


@dataclass(frozen=True)
class Streamed:
    """Answers of actors that each training worker has beside it. Not stored, and a step ahead of the training."""

    actors: int
    share: Share
    environment: Mapping[str, str]

    def open(self, stage: Stage, storage: Storage, device: torch.device, rank: int, world: int) -> StreamedAnswers:
        """Nothing starts before the first batch is asked for: a resumed training begins where it left off."""
        return StreamedAnswers(self, stage, storage, device, rank, world)


class StreamedAnswers:
    """The stream of one training worker."""

    def __init__(self, streamed: Streamed, stage: Stage, storage: Storage, device: torch.device, rank: int, world: int):
        self.tally = Tally()
        self._streamed, self._stage, self._storage, self._device = streamed, stage, storage, device
        self._rank, self._world = rank, world
        self._order = Order.of(stage)
        self._keys = [(name, each.signal) for name, kept in stage.kept.items() for each in kept]
        self._batches: Generator[dict[str, Tensor], None, None] | None = None

    def prepare(self, asked: Asked) -> dict[str, Tensor]:
        """The next batch of the stream, which must be the one asked for."""
        if self._batches is None:
            self._batches = self._stream(asked.progress.epoch)
        found = next(self._batches)
        if not np.array_equal(found.pop("checksum").numpy().view(np.uint64), input_checksums(asked.inputs_B)):
            raise Misaligned(f"{asked.progress}: the student is about to see other inputs than its teachers saw")
        self.tally.teacher_rows += len(asked.positions_B)
        self.tally.bytes += sum(values.nbytes for values in found.values())
        if self._stage.view.dataset.targets:
            counts_B = tokens.counts(asked.inputs_B)
            found = {name: tokens.unpadded(values, counts_B) for name, values in found.items()}
        return found

    def finish(self, prepared: dict[str, Tensor]) -> Signals:
        """On the device."""
        signals: dict[str, dict[Observable, Tensor | Sparse]] = {}
        for number, (name, signal) in enumerate(self._keys):
            signals.setdefault(name, {})[signal] = prepared[str(number)].to(self._device, non_blocking=True)
        return signals

    def close(self) -> None:
        """Ends the actors, which otherwise live until someone collects the garbage."""
        if self._batches is not None:
            self._batches.close()

    def _stream(self, start: int) -> Generator[dict[str, Tensor], None, None]:
        """Batch by batch, from an epoch to the end of the training."""
        size = sum(
            4 * math.prod(each.shape(self._stage.teachers[name].architecture))
            for name, kept in self._stage.kept.items()
            for each in kept
        )
        count = max(1, min(RUN_ROWS, RUN_BYTES // size) * self._world // self._order.batch_size)
        runs = [
            {"epoch": epoch, "first": first, "last": min(first + count, self._order.steps)}
            for epoch in range(start, self._stage.budget.end)
            for first in range(0, self._order.steps, count)
        ]
        context = ray.data.DataContext.get_current().copy()
        context.enable_progress_bars = False
        context.execution_no_progress_timeout_s = DAY_S  # nobody takes from it during a validation
        context.execution_options.preserve_order = True
        with ray.data.DataContext.current(context):
            stream = ray.data.from_items(runs, override_num_blocks=len(runs)).map_batches(
                StepsActor,
                fn_constructor_kwargs={
                    "stage": self._stage, "storage": self._storage, "rank": self._rank, "world": self._world,
                },
                compute=ray.data.ActorPoolStrategy(size=min(self._streamed.actors, len(runs))),
                batch_size=1,
                runtime_env={"env_vars": dict(self._streamed.environment)},
                **taking(self._streamed.share),
            )  # fmt: skip
        for run, block in zip(runs, stream.iter_batches(batch_size=None, batch_format="numpy"), strict=True):
            mistake = str(block.pop("mistake")[0])
            if mistake:
                raise ValueError(mistake)
            columns = {name: torch.tensor(values) for name, values in block.items()}
            rows = len(columns["checksum"]) // (run["last"] - run["first"])
            for at in range(0, len(columns["checksum"]), rows):
                yield {name: values[at : at + rows] for name, values in columns.items()}


class StepsActor:
    """One actor of a stream: all teachers of a stage, asked about the rows of a run of steps."""

    def __init__(self, stage: Stage, storage: Storage, rank: int, world: int):
        self.stage, self.rank, self.world = stage, rank, world
        self.order = Order.of(stage)
        self.teachers = predictors(stage, storage, device())

    def __call__(self, batch: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """What the teachers say about the rows of the run, and checksums of what they saw. [R, ...]"""
        epoch, first, last = (int(batch[name][0]) for name in ("epoch", "first", "last"))
        positions_R = self.order.epoch(epoch)[first:last, self.rank :: self.world].reshape(-1)
        try:
            sample = self.stage.view.batch(positions_R, np.full(len(positions_R), self.order.replica(epoch)))
            said = [values for teacher in self.teachers.values() for values in teacher(sample.inputs_B).values()]
            if targets := self.stage.view.dataset.targets:
                counts_R = tokens.counts(sample.inputs_B).numpy()
                said = [tokens.padded(values, counts_R, targets, sample.ids_B.numpy()) for values in said]
        except ValueError as error:
            return {"mistake": np.array([str(error)])}
        columns = {str(number): values for number, values in enumerate(said)}
        checksums_R = input_checksums(sample.inputs_B).view(np.int64)
        return columns | {"checksum": checksums_R, "mistake": np.array([""] * len(positions_R))}
