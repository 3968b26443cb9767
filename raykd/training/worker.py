"""The training loop as a Ray Train worker group: DDP over the workers, restarted after a loss, continued from the storage.

Checkpoints and metrics lie on the storage already, so nothing is reported to Ray: a report would wait for the controller.
"""

from __future__ import annotations

import shutil
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray.train
import torch
from ray import cloudpickle
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from raykd.answers import Tally
from raykd.training.job import TrainingJob
from raykd.training.loop import DivergedError, train
from raykd.training.process import Process

RESTARTS = 3
"""Times that a training whose workers were lost is started again."""


@dataclass(frozen=True)
class Workers:
    """How many workers, and what each takes of a node. Not identity: it changes no result beyond rounding."""

    count: int
    """0: in this process, which costs nothing to start."""
    threads: int
    """Of each worker. On paper it takes one CPU whatever it uses, because a run does one thing at a time."""
    gpu: bool
    environment: Mapping[str, str]


def train_on(job: TrainingJob, workers: Workers, name: str) -> Tally:
    """Train the stage on a worker group; what it read.

    Raises `DivergedError` as the loop does, and whatever Ray raises when restarting does not help.
    """
    records = job.storage.root.resolve() / "ray"
    # as bytes, because the controller unpacks the configuration too, and would import torch to do so
    trainer = TorchTrainer(
        _loop,  # type: ignore[arg-type]
        train_loop_config={"job": cloudpickle.dumps(job), "threads": workers.threads},
        scaling_config=ScalingConfig(
            num_workers=workers.count,
            use_gpu=workers.gpu,
            resources_per_worker={"CPU": 1, **({"GPU": 1} if workers.gpu else {})} if workers.count else None,
        ),
        run_config=RunConfig(
            name=name,
            storage_path=str(records),
            failure_config=FailureConfig(max_failures=RESTARTS),
            worker_runtime_env={"env_vars": dict(workers.environment)},  # type: ignore[call-arg]
        ),
    )
    with _interrupts():
        outcome: dict[str, Any] = trainer.fit().return_value  # type: ignore[attr-defined]
    shutil.rmtree(records / name, ignore_errors=True)  # Ray's own notes on a run that is over
    if "diverged" in outcome:
        raise DivergedError(outcome["diverged"])
    return Tally(**outcome)


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
