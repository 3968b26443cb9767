"""The training loop as a Ray Train worker group: DDP over the workers, begun again after a loss, continued from the storage.

    wait until enough have a place -> a group of as many as have one -> lost? from the last whole epoch, with whoever is left

Checkpoints and metrics lie on the storage already, so nothing is reported to Ray: a report would wait for the controller. Nor
does Train restart a group: it waits for as many as there were, and where it may take fewer it counts nodes without the labels.
"""

from __future__ import annotations

import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import ray.train
import torch
from ray import cloudpickle
from ray.exceptions import (
    LocalRayletDiedError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RaySystemError,
    WorkerCrashedError,
)
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util import placement_group, placement_group_table, remove_placement_group

from raykd.answers import Tally
from raykd.cache import IncompleteEntry
from raykd.identity import fingerprint
from raykd.shares import Share
from raykd.training.job import TrainingJob
from raykd.training.loop import DivergedError, train
from raykd.training.metrics import read
from raykd.training.process import Process

RESTARTS = 3
"""Times that a training whose workers were lost is started again without having ended an epoch in between."""
LOSSES = (
    LocalRayletDiedError, NodeDiedError, ObjectLostError, OutOfMemoryError, RayActorError, RaySystemError, WorkerCrashedError,
)  # fmt: skip
"""What Ray raises where a process, a node or what lay there is gone."""
FAULTS = ArithmeticError, AssertionError, AttributeError, LookupError, NameError, TypeError
"""Of code, which a training that begins again would meet again. A RuntimeError may be what a lost worker leaves to others."""
PATIENCE_S = 5.0
"""Seconds that a group waits for more workers than it needs at least."""
POLL_S = 0.1


@dataclass(frozen=True)
class Workers:
    """How many workers, and what each takes of a node. Not identity: it changes no result beyond rounding."""

    count: int
    """0: in this process, which costs nothing to start."""
    threads: int
    """Of each worker. On paper it takes one CPU whatever it uses, because a run does one thing at a time."""
    share: Share
    environment: Mapping[str, str]


def train_together(
    job: TrainingJob, share: Share, least: int, most: int, *, group: Callable[[int], Workers],
    waits: Callable[[int], None], lost: Callable[[int], None],
) -> Tally:  # fmt: skip
    """Train the stage on as many workers as have a place, at least and at most so many; what they read.

    Where fewer than the least have one it is waited for, and `waits` told how many do; when workers were lost `lost` is told
    how many epochs stand. `group` says how so many workers are started. Raises what `train_on` does: at once for an error of
    anybody's code, of others once a training that was begun again `RESTARTS` times came no further.
    """
    losses, stood = 0, -1
    while True:
        try:
            return train_on(job, group(seated(share, least, most, waits)))
        except (TrainingFailedError, RayError) as error:  # RayError: Train's own controller is gone
            epochs = len(read(job.folder / "metrics.jsonl"))
            losses = 1 if epochs > stood else losses + 1
            faulty = mistake(error) is not None or any(isinstance(each, FAULTS) for each in _layers(error))
            if faulty or losses > RESTARTS:
                raise
            stood = epochs
            lost(epochs)


def seated(share: Share, least: int, most: int, waits: Callable[[int], None]) -> int:
    """How many workers have a place now, besides all that runs: it is asked for, and given back at once.

    Asking makes a cluster grow that can. More than the least are waited for a little, the least as long as it takes.
    """
    labels = [dict(share.labels)] if share.labels else None
    asked = [placement_group([share.amounts()], bundle_label_selector=labels) for _ in range(most)]
    told = False
    try:
        end = time.monotonic() + PATIENCE_S
        while True:
            states = [placement_group_table(each).get("state") for each in asked]
            found = states.count("CREATED")
            over = time.monotonic() > end
            if found == most or (over and found >= least):
                return found
            if over and not told:
                waits(found)
                told = True
            time.sleep(POLL_S)
    finally:
        for each in asked:
            remove_placement_group(each)


def train_on(job: TrainingJob, workers: Workers) -> Tally:
    """Train the stage on a worker group; what it read.

    Raises `DivergedError` as the loop does, and `ray.train.TrainingFailedError` where a worker fails or is lost.
    """
    # Train resumes a name that it knows; we resume from our own storage
    name = f"{fingerprint(job.stage)}-{uuid4().hex[:8]}"
    gpus = workers.share.gpus or 0
    records = job.storage.root.resolve() / "ray"
    # as bytes, because the controller unpacks the configuration too, and would import torch to do so
    trainer = TorchTrainer(
        _loop,  # type: ignore[arg-type]
        train_loop_config={"job": cloudpickle.dumps(job), "threads": workers.threads},
        # two processes on one GPU are more than NCCL allows
        torch_config=TorchConfig(backend="gloo" if workers.count > 1 and gpus < 1 else None),
        scaling_config=ScalingConfig(
            num_workers=workers.count,
            use_gpu=gpus > 0,
            resources_per_worker=workers.share.amounts() if workers.count else None,
            label_selector=dict(workers.share.labels) or None if workers.count else None,  # type: ignore[call-arg]
        ),
        run_config=RunConfig(
            name=name,
            storage_path=str(records),
            failure_config=FailureConfig(max_failures=0, controller_failure_limit=0),  # type: ignore[call-arg]
            worker_runtime_env={"env_vars": dict(workers.environment)},
        ),
    )
    try:
        with _interrupts():
            outcome: dict[str, Any] = trainer.fit().return_value  # type: ignore[attr-defined]
    finally:
        shutil.rmtree(records / name, ignore_errors=True)  # Ray's own notes on a run that is over
    if "diverged" in outcome:
        raise DivergedError(outcome["diverged"])
    return Tally(**outcome)


@contextmanager
def plain_errors() -> Iterator[None]:
    """A mistake found by a worker is the same one-line error here: what Ray wraps around it helps nobody.

    What Ray lost is a `ConnectionError` of one line. Errors of other kinds pass as they are, with the worker's traceback.
    """
    try:
        yield
    except Exception as error:
        if (found := mistake(error)) is not None:
            raise found from None
        if (found := loss(error)) is not None:
            raise ConnectionError(f"{summary(found)} The same command goes on with what is left to do.") from error
        raise


def mistake(error: BaseException) -> Exception | None:
    """The mistake that a worker raised, or a storage that failed it, inside what Ray made of it."""
    kinds = ValueError, IncompleteEntry, OSError
    return next((e for e in _layers(error) if isinstance(e, kinds) and not isinstance(e, RayError)), None)


def loss(error: BaseException) -> Exception | None:
    """What Ray says of a process, a node or an object that it lost, where no code of anybody's failed."""
    found = next((each for each in _layers(error) if isinstance(each, LOSSES)), None)
    return None if mistake(error) is not None or getattr(found, "actor_init_failed", False) else found


def summary(found: Exception) -> str:
    """One line of what Ray says in many: which kind of loss, and the sentence that it begins with."""
    said = " ".join(str(found).split("\n\t")[0].split())
    return f"Ray lost a part of the run ({type(found).__name__}): {said[:200].rstrip('.')}."


def _layers(error: BaseException) -> Iterator[Exception]:
    """The error, and those inside it."""
    if isinstance(error, Exception):
        yield error
    wrapped = (getattr(error, name, None) for name in ("cause", "controller_failure", "health_check_failure"))
    for inner in (*wrapped, error.__cause__, *getattr(error, "worker_failures", {}).values()):
        if isinstance(inner, BaseException):
            yield from _layers(inner)


@contextmanager
def _interrupts() -> Iterator[None]:
    """Ctrl-C means afterwards what it did: Ray Train leaves a handler that asks a controller that is gone, and exits with 0."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)


def _loop(config: dict[str, Any]) -> dict[str, Any]:
    """What each worker runs. A divergence is returned, not raised: starting again would only repeat it."""
    torch.set_num_threads(config["threads"])
    process = Process.current(ray.train.get_context().get_local_rank())
    try:
        return dict(train(cloudpickle.loads(config["job"]), process).as_counts())
    except DivergedError as error:
        return {"diverged": str(error)}
