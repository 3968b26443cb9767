"""A runner makes stages real: it walks the plan, labels what the cache lacks, trains what is not there.

Labeling and training meet only here. What differs between one process and a cluster is where work is done, so a runner
says how to do three things: label slots, train a job, call a function where teachers run. Everything else is this file.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, TypeVar

from raykd.cache import Slot
from raykd.data import View
from raykd.device import device
from raykd.labeling.labeler import Labeler, Labeling
from raykd.labeling.preflight import confirm, preflight, remembered
from raykd.models import Network
from raykd.models.weights import load_into
from raykd.plan import needed, plan
from raykd.runtime.progress import Display, epoch_line
from raykd.signals import LOGITS
from raykd.stage import Pretrained, Stage
from raykd.storage import Storage
from raykd.training.evaluate import agreement, evaluate, evaluated
from raykd.training.job import TrainingJob
from raykd.training.loop import Epoch, train
from raykd.training.process import Process

T = TypeVar("T")
OnMissing = Literal["compute", "wait", "error"]
POLL_S = 1.0  # seconds between looks at a cache that another run fills


@dataclass
class Counts:
    """What one run did."""

    teacher_rows: Counter[str] = field(default_factory=Counter)
    """Rows that each teacher computed into the cache."""
    preflight_rows: Counter[str] = field(default_factory=Counter)
    """Rows that each teacher was tried on."""
    cache_rows: int = 0
    """Rows that training read from the cache."""
    seconds: Counter[str] = field(default_factory=Counter)
    """Wall-clock seconds by phase."""

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time what the block does."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - started  # type: ignore[assignment]


@dataclass(frozen=True)
class Trained:
    """A finished stage."""

    stage: Stage
    weights: str
    """Path of its weights, the best on validation."""
    metrics: Mapping[str, float]
    """`val_*` and `test_*` of `top1` and `nll` (nats); `agreement` with its teachers on the test split."""
    counts: Counts
    """What the run that returned it did."""

    @cached_property
    def network(self) -> Network:
        """The network itself, in evaluation mode, on the CPU."""
        network = self.stage.student.build()
        load_into(network, self.weights)
        network.eval()
        return network


@dataclass
class Runner(ABC):
    """Runs stages on a storage. Running what exists returns at once."""

    storage: Storage
    display: Display = field(default_factory=Display)
    on_missing: OnMissing = "compute"
    any_teacher: bool = False
    """Accept teachers that fail the preflight."""
    verify: Literal["sample", "all"] = "sample"
    """Which inputs are compared with what the teachers saw."""
    precision: str = "auto"
    """What students train in; auto: what suits the device."""
    heading: Sequence[str] = ()
    """What to say first, once the plan stands."""
    counts: Counts = field(default_factory=Counts)

    def run(self, *stages: Stage) -> list[Trained]:
        """Make the stages real, parents first.

        Raises `ValueError` for a mistake, before any work; `DivergedError` for a loss that is not finite.
        """
        with self.counts.phase("total"):
            with self.counts.phase("plan"):
                self.storage.check()
                stages = tuple(map(self.place, stages))
                todo = plan(stages, self.storage).to_train
            for line in self.heading:
                self.display.line(line)
            if todo:
                with self.session():
                    self._make(todo)
            return [self._trained(stage) for stage in stages]

    @abstractmethod
    def label(self, labeling: Labeling, slots: Sequence[Slot]) -> Iterator[int]:
        """Label the slots; yields the rows of each when it is done."""

    @abstractmethod
    def train(self, job: TrainingJob, on_epoch: Callable[[Epoch], None]) -> int:
        """Train the job's stage to its end; the rows read from the cache."""

    @abstractmethod
    def call(self, function: Callable[..., T], *arguments: object) -> T:
        """`function(*arguments, device)` where a teacher can run."""

    @contextmanager
    def session(self) -> Iterator[None]:
        """What must be up while there is work."""
        yield

    def place(self, stage: Stage) -> Stage:
        """The same stage, readable wherever this runner works."""
        return stage

    def _make(self, todo: Sequence[Stage]) -> None:
        for stage in todo:
            for name, teacher in needed(stage).items():
                if isinstance(teacher, Pretrained):  # before anything long, also before other stages train
                    self._preflight(name, teacher, stage.view)
        for stage in todo:
            self.display.line(f"{stage}: {stage.student} on {stage.view.dataset}\n  L = {stage.objective}")
            for name, teacher in needed(stage).items():
                self._teach(stage, name, self.storage.finished(teacher))
            self._train(stage)

    def _teach(self, stage: Stage, name: str, teacher: Pretrained) -> None:
        """All that a teacher must have done before its student can be trained."""
        self._preflight(name, teacher, stage.view)
        self._evaluate(name, teacher, stage.view)
        signals = tuple(sorted(stage.needs[name], key=str))
        self._fill(Labeling(name, teacher, stage.view, signals, self.storage))
        if LOGITS in signals and not self.any_teacher:
            with self.counts.phase("preflight"):
                confirm(teacher, name, stage.view, self.storage)

    def _preflight(self, name: str, teacher: Pretrained, view: View) -> None:
        if self.any_teacher or teacher.architecture.classes != view.dataset.classes:  # then only its features teach
            return
        with self.counts.phase("preflight"):
            found = remembered(teacher, view, self.storage)
            if found is None:
                found = self.call(preflight, teacher, view, self.storage)
                self.counts.preflight_rows[name] += found.rows
            found.check(name)

    def _evaluate(self, name: str, teacher: Pretrained, view: View) -> None:
        with self.counts.phase("evaluate"):
            path = self.storage.evaluation(teacher, view)
            if teacher.architecture.classes == view.dataset.classes and evaluated(path) is None:
                self.display.line(f"  evaluating {name}")
                self.call(evaluate, teacher, view, path, self.storage.precision)

    def _fill(self, labeling: Labeling) -> None:
        """Label what the cache lacks, or wait for whoever does."""
        with self.counts.phase("label"):
            slots = list(labeling.missing())
            while slots and self.on_missing == "wait":
                time.sleep(POLL_S)
                slots = list(labeling.missing())
            if not slots:
                return
            rows = labeling.rows(slots)
            if self.on_missing == "error":
                what = f"{rows:,} rows of the teacher {labeling.name} are not in the cache"
                raise ValueError(f"{what}: --on-missing compute would compute them")
            with self.display.bar(f"labeling with {labeling.name}", rows) as advance:
                for done in self.label(labeling, slots):
                    self.counts.teacher_rows[labeling.name] += done
                    advance(done)

    def _train(self, stage: Stage) -> None:
        job = TrainingJob(stage, self.storage, self.precision, self.verify)
        epochs = stage.budget.epochs
        with self.counts.phase("train"), self.display.bar(f"training {stage}", epochs) as advance:

            def show(epoch: Epoch) -> None:
                self.display.line(epoch_line(epoch, epochs))
                advance(1)

            self.counts.cache_rows += self.train(job, show)

    def _trained(self, stage: Stage) -> Trained:
        result = self.storage.result(stage)
        assert result is not None, "a run ends when its stages are done"
        metrics = dict(result["metrics"])
        mine = self.storage.evaluation(self.storage.finished(stage), stage.view)
        agreements = []
        for teacher in needed(stage).values():
            path = self.storage.evaluation(self.storage.finished(teacher), stage.view)
            if path.exists():  # a teacher of another dataset has none on this one
                agreements.append(agreement(mine, path))
        if agreements:
            metrics["agreement"] = sum(agreements) / len(agreements)
        return Trained(stage, self.storage.weights(stage), metrics, self.counts)


class Local(Runner):
    """One process, no Ray: for development, for notebooks, inside the trials of a search."""

    def label(self, labeling: Labeling, slots: Sequence[Slot]) -> Iterator[int]:
        """One after the other, here."""
        labeler = Labeler(labeling, device())
        for slot in slots:
            yield labeler.label(slot)

    def train(self, job: TrainingJob, on_epoch: Callable[[Epoch], None]) -> int:
        """Here."""
        return train(job, Process.current(), on_epoch)

    def call(self, function: Callable[..., T], *arguments: object) -> T:
        """Here."""
        return function(*arguments, device())
