"""One trial: a stage made in this process, whose epochs are told while it trains. No Ray in here.

    lineage    parts of a training with other knobs each        a population's trial changes its knobs on the way:
               stage(c_1, until u_1) -> stage(c_2, from u_1 until u_2) -> ...        stages like any other, so all of it
                                                                                      can be made again, and is made once

Each part starts from the last weights of the one before, with a new optimiser. [interpretation] Parts in a row with equal knobs
are one part.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from raykd.answers import Tally
from raykd.identity import fingerprint
from raykd.models import Architecture, size
from raykd.runtime import Display, Local, resolve
from raykd.search.axes import Configuration
from raykd.search.search import Search
from raykd.selection import Selection, cheapest
from raykd.stage import Stage
from raykd.storage import Storage
from raykd.training import metrics
from raykd.training.epochs import Epoch
from raykd.training.job import TrainingJob

Report = Callable[[Mapping[str, float]], None]
Parts = Sequence[tuple[Configuration, int]]
PASSES = 20  # over one input, of which the median counts


@dataclass
class Telling(Local):
    """A runner that reports the epochs of one stage."""

    watched: str = ""
    """Its fingerprint."""
    told: Callable[[Epoch], None] = field(default=lambda _: None)

    def train(self, job: TrainingJob, on_epoch: Callable[[Epoch], None]) -> Tally:
        """As everywhere."""

        def both(epoch: Epoch) -> None:
            on_epoch(epoch)
            if fingerprint(job.stage) == self.watched:
                self.told(epoch)

        return super().train(job, both)


@dataclass(frozen=True)
class Trial:
    """How a process makes trials of a search."""

    search: Search
    storage: Storage
    settings: Mapping[str, Any]
    """Of the runner: precision, verify and the like."""

    def run(self, configuration: Configuration, report: Report) -> Stage:
        """Train with this configuration; the stage that came of it. Reports after each epoch, and once more at the end.

        Raises what the recipe and the training raise.
        """
        written = self.search.written(configuration)
        stage = cheapest(written)
        fixed = costs(stage.student)

        def tell(_: Epoch) -> None:
            report(
                {**fixed, **best_epoch(stage, self.storage), "teacher_rows": sum(runner.counts.teacher_rows.values())}
            )

        several = isinstance(written, Selection)
        runner = Telling(
            self.storage, Display(quiet=True), watched="" if several else fingerprint(stage), told=tell, **self.settings,
        )  # fmt: skip
        trained = resolve(written, runner) if isinstance(written, Selection) else runner.run(stage)[0]
        rows = sum(runner.counts.teacher_rows.values())
        report({**fixed, **best_epoch(trained.stage, self.storage), **trained.metrics, "teacher_rows": rows})
        return trained.stage

    def train_part(self, parts: Parts, report: Report) -> None:
        """Train the last of these parts, and report where it ended."""
        stage = joined(parts, self.search.stage)
        runner = Local(self.storage, Display(quiet=True), **self.settings)
        (trained,) = runner.run(stage)
        last = metrics.read(self.storage.folder(stage) / "metrics.jsonl")[-1]
        ended = (
            trained.metrics
            if stage.budget.until is None
            else {name: float(last[name]) for name in ("val_top1", "val_nll")}
        )
        rows = sum(runner.counts.teacher_rows.values())
        report({**costs(stage.student), **ended, "epoch": stage.budget.end, "teacher_rows": rows})


def joined(parts: Parts, write: Callable[[Configuration], Stage]) -> Stage:
    """One training whose knobs change on the way. Parts: (configuration, epoch at which it ends), one after the other."""
    stage: Stage | None = None
    for configuration, until in merged(parts):
        written = write(configuration)
        whole = until == written.budget.end
        budget = replace(
            written.budget,
            start=written.budget.start if stage is None else stage.budget.end,
            until=written.budget.until if whole else until,
            keep=written.budget.keep if whole else "last",
        )
        stage = replace(written, budget=budget, init=written.init if stage is None else stage)
    assert stage is not None, "a lineage has a part"
    return stage


def merged(parts: Iterable[tuple[Configuration, int]]) -> list[tuple[Configuration, int]]:
    """The same with equal neighbours as one."""
    found: list[tuple[Configuration, int]] = []
    for configuration, until in parts:
        if found and found[-1][0] == configuration:
            found.pop()
        found.append((configuration, until))
    return found


def written_parts(parts: Parts) -> str:
    """As text."""
    return json.dumps([[dict(configuration), until] for configuration, until in parts])


def read_parts(text: str) -> list[tuple[Configuration, int]]:
    """Of that text."""
    return [(dict(configuration), int(until)) for configuration, until in json.loads(text)]


def best_epoch(stage: Stage, storage: Storage) -> dict[str, float]:
    """Validation metrics of the epoch whose weights the stage yields so far, and how many epochs there are."""
    epochs = metrics.read(storage.folder(stage) / "metrics.jsonl")
    if not epochs:
        return {"epoch": 0}
    best = max(epochs, key=lambda epoch: float(epoch["val_top1"])) if stage.budget.keep == "best" else epochs[-1]
    return {"val_top1": best["val_top1"], "val_nll": best["val_nll"], "epoch": epochs[-1]["epoch"] + 1}


def costs(student: Architecture) -> dict[str, float]:
    """What a student costs: parameters, FLOPs of a forward pass of one input, and its milliseconds on this CPU."""
    return {"parameters": size(student).parameters, "flops": size(student).flops, "latency_ms": latency_ms(student)}


def latency_ms(student: Architecture, passes: int = PASSES) -> float:
    """Median time of a forward pass of one input, in milliseconds, beside whatever else runs here."""
    network = student.build()
    network.eval()
    one = torch.zeros((1, *student.shape), dtype=torch.long if student.vocabulary else torch.float32)
    taken = []
    with torch.inference_mode():
        for _ in range(passes + 1):
            started = time.perf_counter()
            network(one)
            taken.append(time.perf_counter() - started)
    return 1000 * statistics.median(taken[1:])
