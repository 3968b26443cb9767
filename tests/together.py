"""A training by several processes of this machine, which meet over gloo."""

from __future__ import annotations

import multiprocessing
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed

from raykd.stage import Stage
from raykd.storage import Storage
from raykd.training import loop
from raykd.training.job import TrainingJob
from raykd.training.process import Process


def train(root: Path, stage: Stage, world: int = 2) -> None:
    """Train a stage whose teachers have answered already."""
    meeting = root / "meeting"
    meeting.unlink(missing_ok=True)
    context = multiprocessing.get_context("forkserver")
    workers = [context.Process(target=_one, args=(rank, world, root, stage, meeting)) for rank in range(world)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(200)
    assert [worker.exitcode for worker in workers] == [0] * world


def _one(rank: int, world: int, root: Path, stage: Stage, meeting: Path) -> None:
    torch.set_num_threads(1)
    limit = timedelta(seconds=120)
    distributed.init_process_group("gloo", f"file://{meeting}", rank=rank, world_size=world, timeout=limit)
    loop.train(TrainingJob(stage, Storage(root)), Process(rank, world, torch.device("cpu")))
    distributed.destroy_process_group()
