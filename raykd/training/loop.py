"""The one training loop, for every objective, alone or as one of several workers. It never calls Ray.

    for each epoch:  steps -> validation -> best weights -> checkpoint -> a line of metrics.jsonl
    at the end:      best on validation, evaluated on validation and test -> result.json

Whatever a kill leaves behind, the same call continues from the last checkpoint; an epoch done twice gives the same files.

Shapes: K terms, B rows of this process in a batch.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from raykd import rng
from raykd.answers import Tally
from raykd.device import autocast, keep_memory, settled
from raykd.identity import canonical, fingerprint
from raykd.models import Network, weights
from raykd.places import make_folder, persistent
from raykd.stage import Pretrained, Stage
from raykd.storage import exists, read, write_json, write_text
from raykd.training import checkpoint
from raykd.training.epochs import Epoch, of_lines
from raykd.training.evaluate import answers, evaluate
from raykd.training.feed import Feed
from raykd.training.job import TrainingJob
from raykd.training.learner import Learner, build
from raykd.training.lookahead import look
from raykd.training.process import Process

CHECK_EVERY = 50  # steps between looks at the loss: each look waits for the device


class DivergedError(RuntimeError):
    """The loss is not finite any more. The last good checkpoint is kept."""


@dataclass
class Training:
    """A training under way: everything that a checkpoint holds."""

    job: TrainingJob
    process: Process
    precision: str
    learner: Learner
    optimiser: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    average: AveragedModel | None
    first: int
    """The epoch that it began with."""
    history: list[Epoch] = field(default_factory=list)

    @property
    def network(self) -> Network:
        """What is evaluated and kept: the average where there is one, else the student."""
        if self.average is None:
            return self.learner.student
        network: Network = self.average.module  # type: ignore[assignment]
        return network

    @property
    def epoch(self) -> int:
        """The next one."""
        return self.first + len(self.history)

    @property
    def left(self) -> Iterator[int]:
        """The epochs that are left, as long as there are some."""
        budget = self.job.stage.budget
        end = budget.end if budget.plateau is None else self.first + budget.trained
        while self.epoch < end and not (
            budget.plateau and budget.plateau.over([each["loss"] for each in self.history])
        ):
            yield self.epoch

    @property
    def best(self) -> float:
        """Best validation accuracy so far."""
        return max((epoch["val_top1"] for epoch in self.history), default=-1.0)

    def save(self) -> None:
        """Write the checkpoint."""
        state = {
            "learner": self.learner.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "history": json.dumps(self.history),
        }
        checkpoint.save(self.job.folder / "checkpoint.pt", state)

    def resume(self) -> None:
        """Continue from the checkpoint, if there is one, or from where a shorter training of the same stage ended."""
        folder = beginning(self.job)
        if folder != self.job.folder and self.process.rank == 0:
            for name in ("best.safetensors", "last.safetensors"):
                persistent(shutil.copyfile)(folder / name, self.job.folder / name)
        state = checkpoint.load(folder / "checkpoint.pt")
        if state is None:
            return
        try:
            self.learner.load_state_dict(state["learner"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.scaler.load_state_dict(state["scaler"])
            if self.average is not None:
                self.average.load_state_dict(state["average"])
        except Exception as error:  # torch raises of all kinds for a state of another network
            raise checkpoint.unusable(folder / "checkpoint.pt", error) from error
        self.history = state["history"]


def train(job: TrainingJob, process: Process, on_epoch: Callable[[Epoch], None] = lambda _: None) -> Tally:
    """Train the stage to its end; what all processes together read.

    Raises `DivergedError` that names step, term and learning rate when the loss becomes non-finite.
    """
    keep_memory()
    persistent(make_folder)(job.folder)
    if process.rank == 0:
        write_json(job.folder / "stage.json", {"label": str(job.stage), "stage": canonical(job.stage)})
    training = _start(job, process)
    training.resume()
    if process.rank == 0 and not job.stage.budget.trained:
        _keep(training, improved=True)
    everything_observed = "logits" in training.learner.taps
    module = process.wrap(training.learner, unused=not everything_observed)
    with closing(Feed(job, process)) as feed:
        for epoch in training.left:
            record = _epoch(training, module, feed, epoch)
            best_before = training.best
            training.history.append(record)
            if process.rank == 0:
                _keep(training, improved=record["val_top1"] > best_before)
                on_epoch(record)
    read = process.sum(torch.tensor(list(feed.tally.as_counts().values()), dtype=torch.float64, device=process.device))
    if process.rank == 0:
        _finish(training)
    cache_rows, size, waited_s, teacher_rows = read.tolist()
    return Tally(int(cache_rows), int(size), waited_s, int(teacher_rows))


def beginning(job: TrainingJob) -> Path:
    """The folder whose checkpoint a training continues: its own, or that of the longest training that is a part of it."""
    if exists(job.folder / "checkpoint.pt"):
        return job.folder
    budget = job.stage.budget
    for until in range(budget.end - 1, budget.start, -1):
        for kept in ("best", "last"):
            shorter = replace(job.stage, budget=replace(budget, until=until, keep=kept))
            if job.storage.result(shorter) is not None:
                return job.storage.folder(shorter)
    return job.folder


def _start(job: TrainingJob, process: Process) -> Training:
    budget = job.stage.budget
    precision = settled(job.precision, process.device)
    learner = build(job.stage, job.storage).to(process.device)
    optimiser = budget.optimiser.build(learner.parameters())
    scaler = torch.amp.GradScaler(process.device.type, enabled=precision == "float16")
    average = None
    if budget.ema is not None:
        average = AveragedModel(learner.student, multi_avg_fn=get_ema_multi_avg_fn(budget.ema), use_buffers=True)
    return Training(job, process, precision, learner, optimiser, scaler, average, _first(job))


def _first(job: TrainingJob) -> int:
    """The first epoch: after the last one of what it goes on from, which may have ended at a plateau."""
    init, budget = job.stage.init, job.stage.budget
    if not isinstance(init, Stage) or init.budget.plateau is None or budget.start != init.budget.end:
        return budget.start
    path = job.storage.folder(init) / "metrics.jsonl"
    lines = of_lines(read(path) or b"", path)
    return int(lines[-1]["epoch"]) + 1 if lines else budget.start


def _epoch(training: Training, module: nn.Module, feed: Feed, epoch: int) -> dict[str, Any]:
    """One pass over the rows, then validation; the epoch's line of metrics."""
    started = time.perf_counter()
    process, names = training.process, training.learner.criterion.names
    # dropout and the like: the same after a resume
    torch.manual_seed(int(rng.bits(training.job.stage.seed, epoch, process.rank) >> np.uint64(1)))
    module.train()
    sums_K = torch.zeros(len(names), device=process.device)
    watch = _Watch(training, len(names))
    rate = 0.0
    rows = 0
    losses = tuple(float(record["loss"]) for record in training.history)
    with closing(feed.epoch(epoch, losses)) as feedings:
        for feeding in feedings:
            rate = training.job.stage.budget.lr(feeding.batch.progress.epochs_done)
            look(training.learner, feed, feeding, rate)
            with autocast(process.device, training.precision):
                terms_KB = module(feeding.inputs_B, feeding.batch)
            watch.look(terms_KB, feeding.batch.progress.step, rate)
            _update(training, terms_KB.sum() / feeding.rows * process.world, rate)
            sums_K += terms_KB.detach().sum(1)
            rows += feeding.rows
    watch.report()
    terms_K = (process.sum(sums_K) / rows).tolist()
    shown = training.learner.criterion.shown(process.sum)
    trained = time.perf_counter() - started
    val_top1, val_nll = _validate(training)
    if not math.isfinite(val_nll):  # the last step did it
        raise _diverged(training, "the validation loss", feed.steps - 1, rate)
    return {
        "epoch": epoch,
        "lr": rate,
        "loss": sum(terms_K),
        "terms": dict(zip(names, terms_K, strict=True)),
        "val_top1": val_top1,
        "val_nll": val_nll,
        "seconds": time.perf_counter() - started,
        "rows_per_second": feed.steps * feed.batch_size / trained,
        **({"shown": shown} if shown else {}),
    }


def _update(training: Training, loss: Tensor, rate: float) -> None:
    """One step of the optimiser."""
    for group in training.optimiser.param_groups:
        group["lr"] = rate
    training.optimiser.zero_grad(set_to_none=True)
    training.scaler.scale(loss).backward()
    clip = training.job.stage.budget.clip
    if clip is not None:
        training.scaler.unscale_(training.optimiser)
        nn.utils.clip_grad_norm_(training.learner.parameters(), clip)
    training.scaler.step(training.optimiser)
    training.scaler.update()
    if training.average is not None:
        training.average.update_parameters(training.learner.student)


class _Watch:
    """Remembers the first step with a non-finite term on the device, and looks at it now and then."""

    def __init__(self, training: Training, terms: int):
        self.training = training
        self.first_K = torch.full((terms,), -1, dtype=torch.long, device=training.process.device)
        self.rates: list[float] = []

    def look(self, terms_KB: Tensor, step: int, rate: float) -> None:
        """Note this step's terms; every so often, raise what was noted."""
        self.rates.append(rate)
        bad_K = ~torch.isfinite(terms_KB.detach()).all(1)
        self.first_K = torch.where(bad_K & (self.first_K < 0), step, self.first_K)
        if (step + 1) % CHECK_EVERY == 0:
            self.report()

    def report(self) -> None:
        """Raise `DivergedError` if any process saw a non-finite term."""
        bad = (self.first_K >= 0).any().long()
        if not self.training.process.sum(bad.clone()).item():
            return
        names = self.training.learner.criterion.names
        seen = [(step, name) for step, name in zip(self.first_K.tolist(), names, strict=True) if step >= 0]
        step, name = min(seen, default=(len(self.rates) - 1, "the loss on another worker"))
        raise _diverged(self.training, name, step, self.rates[step])


def _diverged(training: Training, what: str, step: int, rate: float) -> DivergedError:
    epoch = training.epoch
    kept = f"the checkpoint of epoch {epoch} is kept" if training.history else "there is no checkpoint yet"
    return DivergedError(
        f"stage {training.job.stage}: {what} is not finite at step {step + 1} of epoch {epoch + 1}, learning rate {rate:.3g};"
        f" {kept}: lower the rate, warm up or clip"
    )


def _validate(training: Training) -> tuple[float, float]:
    """Accuracy and negative log-likelihood on the validation split, whose rows the processes share out."""
    process, view = training.process, training.job.stage.view.plain()
    rows = view.dataset.split("validation")
    positions = np.arange(len(rows))[process.rank :: process.world]
    prediction_N, nll_N, labels_N = answers(
        training.network,
        view,
        "validation",
        positions=positions,
        device=process.device,
        precision=training.precision,
    )
    right_N = (prediction_N == labels_N).double()
    right, nll, labels = process.sum(torch.stack([right_N.sum(), nll_N.double().sum(), torch.ones_like(right_N).sum()]))
    return float(right / labels), float(nll / labels)


def _keep(training: Training, *, improved: bool) -> None:
    """Best weights, last weights, checkpoint, metrics: in the order that a kill in between does no harm."""
    if improved:
        _save_network(training, "best")
    _save_network(training, "last")
    training.save()
    lines = "".join(json.dumps(epoch) + "\n" for epoch in training.history)
    write_text(training.job.folder / "metrics.jsonl", lines)


def _save_network(training: Training, name: str) -> None:
    stage = training.job.stage
    noted = {"architecture": json.dumps(canonical(stage.student)), "stage": fingerprint(stage)}
    if training.history:
        noted["val_top1"] = str(training.history[-1]["val_top1"])
    weights.save(str(training.job.folder / f"{name}.safetensors"), training.network.body.state_dict(), noted)


def _finish(training: Training) -> None:
    """Evaluate the best network, then write the file whose existence means done."""
    job = training.job
    best = job.storage.weights(job.stage)
    view, student = job.stage.view, job.stage.student
    network = Pretrained(student, best)
    metrics = evaluate(
        network, view, job.storage.evaluation(network, view), training.precision, training.process.device
    )
    seconds = sum(epoch["seconds"] for epoch in training.history)
    write_json(job.folder / "result.json", {"weights": network.digest, "metrics": metrics, "seconds": seconds})
