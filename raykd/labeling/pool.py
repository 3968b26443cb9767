"""A pool of actors that label shards side by side: Ray Data streams the missing slots, workers commit what they compute.

    from_items(slots, one row each) -> map_batches(Actor, ActorPoolStrategy) -> how many rows each slot took

Inputs and signals never pass through the driver: a slot travels as two integers, the worker reads its rows and commits them.
A killed actor's slots are given to another; a slot done twice is committed once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray

from raykd.cache import Slot
from raykd.device import device
from raykd.labeling.labeler import Labeler, Labeling

STALLED_S = 600
"""Seconds without progress after which a pipeline that hangs is an error."""


@dataclass(frozen=True)
class Pool:
    """How many actors, and what each takes of a node. Not identity: it changes no result."""

    actors: int
    cpus: float
    gpus: float = 0.0
    environment: Mapping[str, str] | None = None


class Actor:
    """One actor of a pool: it loads the teacher once, then labels what it is given."""

    def __init__(self, labeling: Labeling):
        self.labeler = Labeler(labeling, device())

    def __call__(self, batch: dict[str, NDArray[np.int64]]) -> dict[str, NDArray[Any]]:
        """Label the one slot of the batch. A mistake is returned: Ray would hand on its traceback, and not its type."""
        ((replica, index),) = zip(batch["replica"].tolist(), batch["index"].tolist(), strict=True)
        try:
            return {"rows": np.array([self.labeler.label(Slot(replica, index))]), "mistake": np.array([""])}
        except ValueError as error:
            return {"rows": np.array([0]), "mistake": np.array([str(error)])}


def fill(labeling: Labeling, slots: Sequence[Slot], pool: Pool) -> Iterator[int]:
    """Label the slots; yields the rows of each as it is done, in no particular order.

    Raises the `ValueError` that an actor met, such as for a logit that the codec cannot hold.
    """
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_no_progress_timeout_s = STALLED_S
    # a teacher's node may lose its storage for a moment; anything else is a mistake, and retrying it would hide it
    context.actor_task_retry_on_errors = [OSError]  # type: ignore[list-item]
    rows = [{"replica": slot.replica, "index": slot.index} for slot in slots]
    done = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        Actor,
        fn_constructor_kwargs={"labeling": labeling},
        compute=ray.data.ActorPoolStrategy(size=min(pool.actors, len(rows))),
        batch_size=1,
        num_cpus=pool.cpus,
        num_gpus=pool.gpus or None,
        runtime_env={"env_vars": dict(pool.environment or {})},
    )
    mistakes = []
    for row in done.iter_rows():  # to its end: a pipeline that is left early keeps its actors
        mistakes += [row["mistake"]] if row["mistake"] else []
        if not mistakes:
            yield int(row["rows"])
    if mistakes:
        raise ValueError(mistakes[0])
