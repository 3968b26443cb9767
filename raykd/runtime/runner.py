"""A runner makes stages real: it walks the plan, labels what the cache lacks, trains what is not there.

Labeling and training meet only here. What differs between one process and a cluster is where work is done, so a runner
says how to do a few things: label slots, train a job, ask teachers at every step, call a function where they run.
Everything else is this file. Any number of runs may work on one storage: what has a name there is done once.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from raykd.answers import Answers, Cached, Tally, Verify
from raykd.cache import Slot
from raykd.data import View
from raykd.device import device
from raykd.identity import fingerprint
from raykd.labeling.balance import queue
from raykd.labeling.labeler import Labeled, Labeler, Labeling
from raykd.labeling.live import Live
from raykd.labeling.preflight import confirm, preflight, remembered
from raykd.plan import Step, needed, plan, waits
from raykd.runtime.beside import Beside
from raykd.runtime.counts import Counts
from raykd.runtime.events import failure, named, planned
from raykd.runtime.filling import Filling, Missing, OnMissing
from raykd.runtime.pipeline import Pipeline, carry_out, labeling_s, training_s
from raykd.runtime.progress import Display, epoch_fields, epoch_line
from raykd.runtime.trained import Trained
from raykd.signals import LOGITS
from raykd.stage import Pretrained, Stage
from raykd.storage import Storage, exists
from raykd.training.epochs import Epoch
from raykd.training.evaluate import agreement, evaluate, evaluated
from raykd.training.job import TrainingJob
from raykd.training.loop import train
from raykd.training.process import Process

T = TypeVar("T")
POLL_S = 0.5  # seconds between looks at what another run does


@dataclass
class Runner(ABC):
    """Runs stages on a storage. Running what exists returns at once."""

    storage: Storage
    display: Display = field(default_factory=Display)
    on_missing: OnMissing = "compute"
    any_teacher: bool = False
    """Accept teachers that fail the preflight."""
    verify: Verify = "sample"
    """Which inputs are compared with what the teachers saw."""
    precision: str = "auto"
    """What students train in; auto: what suits the device."""
    heading: Sequence[str] = ()
    """What to say first, once the plan of the first run stands."""
    counts: Counts = field(default_factory=Counts)

    def run(self, *stages: Stage) -> list[Trained]:
        """Make the stages real, parents first.

        Raises `ValueError` for a mistake, before any work; `DivergedError` for a loss that is not finite. Where several stages
        are made at once, an error of one is raised when those that do not wait for it are done.
        """
        with self.counts.phase("total"), self.storage.held():
            with self.counts.phase("plan"):
                stages = tuple(map(self.place, stages))
                every = plan(stages, self.storage).steps
                steps = [step for step in every if isinstance(step.network, Stage) and not step.done]
            for line in self.heading:
                self.display.line(line)
            self.heading = ()
            if steps:
                self.tell("plan", stages=planned(steps))
                with self.session():
                    self._make(steps)
            return [self._trained(stage) for stage in stages]

    def prepare(self, *stages: Stage) -> None:
        """Make what the stages need, the networks above them and what those say, and nothing of their own.

        Raises what `run` does.
        """
        with self.counts.phase("total"), self.storage.held():
            stages = tuple(map(self.place, stages))
            steps = plan(stages, self.storage).steps
            above = {fingerprint(each) for step in steps for _, each in _networks(step.network)}
            todo = [stage for stage in stages if self.storage.result(stage) is None]
            with self.session():
                if parents := [step for step in steps if not step.done and fingerprint(step.network) in above]:
                    self.tell("plan", stages=planned(parents))
                    self._make(parents)
                for stage in todo:
                    self._ask(stage)
                    if stage.cache != "off":
                        with self.counts.phase("label"):
                            self._filling(stage, self._labelings(stage, todo), beside=False).run()

    @abstractmethod
    def label(
        self, labelings: Sequence[Labeling], missing: Missing, *, beside: Stage | None
    ) -> Iterator[tuple[Labeling, Labeled]]:
        """Label the missing slots that no other run has in hand; yields what came of each.

        `beside`: whose student is trained at the same time, so leave it what it takes.
        """

    @abstractmethod
    def train(self, job: TrainingJob, on_epoch: Callable[[Epoch], None]) -> Tally:
        """Train the job's stage to its end; what it read."""

    @abstractmethod
    def overlaps(self, stage: Stage) -> bool:
        """Whether a student and its teachers have devices of their own, so that they may work at the same time."""

    @abstractmethod
    def live(self, stage: Stage) -> Answers:
        """How a training asks its teachers at every step, nothing being stored."""

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

    def seats(self, steps: Sequence[Step]) -> int:
        """How many of these stages may be made at once."""
        return 1

    @contextmanager
    def beside(self, seats: int, todo: Sequence[Stage]) -> Iterator[Callable[[Stage], None]]:
        """How to make a stage beside others, on one of so many seats, in any thread; only where there are several.

        What is being made when the block ends is ended too.
        """
        raise NotImplementedError
        yield

    def count(self, phase: str, what: str, amount: float) -> None:
        """So much more of something in a phase."""
        self.counts.add(phase, what, amount)

    def tell(self, event: str, text: str = "", /, **fields: object) -> None:
        """Say what happened, to people and in the run's log: an event of those in `events.py`."""
        self.display.tell(event, text, **fields)

    def _make(self, steps: Sequence[Step]) -> None:
        todo = [step.network for step in steps if isinstance(step.network, Stage)]
        for stage in todo:
            for name, teacher in needed(stage).items():
                if isinstance(teacher, Pretrained):  # before anything long, also before other stages train
                    self._preflight(name, teacher, stage.view)
        seats = self.seats(steps)
        if seats == 1:
            for stage in todo:
                self._made(stage, lambda stage: self.make(stage, todo))
            return
        pipeline = Pipeline([labeling_s(step) + training_s(step) for step in steps], waits(todo), seats)
        with ThreadPoolExecutor(seats) as threads, self.beside(seats, todo) as make:
            carry_out(
                pipeline,
                begin=lambda place: threads.submit(self._made, todo[place], make),
                alone=lambda place: self._made(todo[place], lambda stage: self.make(stage, todo)),
            )

    def _made(self, stage: Stage, make: Callable[[Stage], None]) -> None:
        try:
            make(stage)
        except Exception as error:
            self.tell("stage failed", **named(stage), **failure(error))
            raise
        if (result := self.storage.result(stage)) is not None:
            self.tell("stage done", **named(stage), metrics=result["metrics"], seconds=result["seconds"])

    def make(self, stage: Stage, todo: Sequence[Stage]) -> None:
        """Make a stage real whose parents are. `todo`: all that will be made, because it may ask the same of its teachers."""
        if self.storage.result(stage) is not None:  # by another run, meanwhile
            return
        self.announce(stage)
        self._ask(stage)
        self._teach(stage, todo)

    def _ask(self, stage: Stage) -> None:
        """How good its teachers are."""
        for name, teacher in needed(stage).items():
            self._preflight(name, teacher, stage.view)
            self._evaluate(name, self.storage.finished(teacher), stage.view)

    def announce(self, stage: Stage) -> None:
        """Say that a stage is begun."""
        said = {"student": str(stage.student), "dataset": str(stage.view.dataset), "objective": str(stage.objective)}
        text = f"{stage}: {stage.student} on {stage.view.dataset}\n  L = {stage.objective}"
        self.tell("stage started", text, **named(stage), **said)

    def _teach(self, stage: Stage, todo: Sequence[Stage]) -> None:
        """Fill the cache and train the student: one after the other, or at the same time where both have a place."""
        labelings = [] if stage.cache == "off" else self._labelings(stage, todo)
        beside = bool(labelings) and self.overlaps(stage)
        filling = self._filling(stage, labelings, beside=beside)

        def fill() -> None:
            with self.counts.phase("label"):
                filling.run()

        if not beside:
            fill()
            self._confirm(stage)
            self._train(stage)
            return
        entries = [entry for labeling in labelings for entry in labeling.entries()]
        with Beside(fill, filling.cancelled) as filler:
            filler.wait_for(lambda: not any(entry.lacks(Slot(0, 0)) for entry in entries))
            self._confirm(stage)
            self._train(stage, follow=True)

    def _filling(self, stage: Stage, labelings: Sequence[Labeling], *, beside: bool) -> Filling:
        label = partial(self.label, beside=stage if beside else None)
        count = partial(self.count, "label")
        tell = partial(self.tell, **named(stage))
        return Filling(labelings, label, self.on_missing, self.display, count, self.counts.teacher_rows, tell=tell)

    def _labelings(self, stage: Stage, todo: Sequence[Stage]) -> list[Labeling]:
        """What the stage's teachers must say: also what later stages ask of them, so that they are asked once."""
        found = []
        for name, teacher in needed(stage).items():
            asking = [
                (other, alias)
                for other in todo
                for alias, asked in needed(other).items()
                if other.cache != "off" and fingerprint([asked, other.view]) == fingerprint([teacher, stage.view])
            ]
            kept = dict.fromkeys(kept for other, alias in asking for kept in other.kept[alias])
            seen = max((other.seen for other, _ in asking), key=lambda view: view.replicas)
            found.append(Labeling(name, self.storage.finished(teacher), seen, tuple(kept), self.storage))
        return found

    def _confirm(self, stage: Stage) -> None:
        """Whether what lies in the cache answers as its teacher did."""
        if stage.cache == "off" or self.any_teacher:
            return
        with self.counts.phase("preflight"):
            for name, kept in stage.kept.items():
                for each in kept:
                    if each.signal == LOGITS:
                        confirm(self.storage.finished(stage.teachers[name]), name, stage.seen, each, self.storage)

    def _preflight(self, name: str, given: Stage | Pretrained, view: View) -> None:
        if self.any_teacher or given.architecture.classes != view.dataset.classes:  # then only its features teach
            return

        teacher = self.storage.finished(given)
        known = partial(remembered, teacher, view, self.storage)

        def look() -> None:
            found = self.call(preflight, teacher, view, self.storage)
            self.counts.preflight_rows[name] += found.rows
            self.count("preflight", "rows", found.rows)
            said = {"rows": found.rows, "accuracy": found.accuracy, "chance": found.chance, "doubt": found.doubt(name)}
            self.tell("preflight", phase="preflight", teacher=name, **said)

        with self.counts.phase("preflight"):
            path = self.storage.preflight(teacher, view)
            self._once("preflight", f"preflight of {name}", path.stem, lambda: known() is not None, look)
            found = known()
            assert found is not None, "a preflight is remembered"
            if isinstance(given, Pretrained):
                found.check(name)
            elif doubt := found.doubt(name):  # trained here, so it is what it is meant to be: a snapshot, a weak peer
                self.display.line(f"  {doubt}")

    def _evaluate(self, name: str, teacher: Pretrained, view: View) -> None:
        if teacher.architecture.classes != view.dataset.classes:
            return

        def look() -> None:
            self.display.line(f"  evaluating {name}")
            metrics = self.call(evaluate, teacher, view, path, self.storage.precision)
            self.tell("evaluation", phase="evaluate", teacher=name, metrics=metrics)

        with self.counts.phase("evaluate"):
            path = self.storage.evaluation(teacher, view)
            self._once("evaluate", f"evaluation of {name}", path.stem, lambda: evaluated(path) is not None, look)

    def _once(self, phase: str, what: str, name: str, done: Callable[[], bool], work: Callable[[], None]) -> None:
        """Do what has a name of its own on the storage, unless another run did it, or does: then wait for that."""
        waiting = False
        while not done():
            lease = self.storage.lease(name)
            if lease is not None:
                with lease:
                    if not done():
                        work()
                return
            if not waiting:
                self.tell("waiting", f"  another run is at the {what}: waiting for it", phase=phase, what=what)
                self.count(phase, "waits", 1)
                waiting = True
            time.sleep(POLL_S)

    def _train(self, stage: Stage, *, follow: bool = False) -> None:
        def work() -> None:
            job = TrainingJob(stage, self.storage, self.precision, self._answers(stage, follow))
            with self.display.bar(f"training {stage}", epochs) as advance:

                def show(epoch: Epoch) -> None:
                    end = stage.budget.end
                    self.tell("epoch", epoch_line(epoch, end), **about, **epoch_fields(epoch, end))
                    advance(1)

                tally = self.train(job, show)
            self.counts.cache_rows += tally.cache_rows
            for what, amount in tally.as_counts().items():
                self.count("train", what, amount)
            if tally.teacher_rows:
                self.counts.teacher_rows.update(dict.fromkeys(needed(stage), tally.teacher_rows))

        epochs, about = stage.budget.trained, named(stage)
        with self.counts.phase("train"):
            done = partial(self.storage.result, stage)
            self._once("train", f"training of {stage}", fingerprint(stage), lambda: done() is not None, work)

    def _answers(self, stage: Stage, follow: bool) -> Answers:
        return self.live(stage) if stage.cache == "off" and stage.kept else Cached(self.verify, follow)

    def _trained(self, stage: Stage) -> Trained:
        result = self.storage.result(stage)
        assert result is not None, "a run ends when its stages are done"
        metrics = dict(result["metrics"])
        mine = self.storage.evaluation(self.storage.finished(stage), stage.view)
        agreements = []
        for teacher in needed(stage).values():
            path = self.storage.evaluation(self.storage.finished(teacher), stage.view)
            if exists(path):  # a teacher of another dataset has none on this one
                agreements.append(agreement(mine, path))
        if agreements:
            metrics["agreement"] = sum(agreements) / len(agreements)
        return Trained(stage, self.storage.weights(stage), metrics, self.counts)


def _networks(network: Stage | Pretrained) -> Sequence[tuple[str, Stage | Pretrained]]:
    return list(network.networks()) if isinstance(network, Stage) else ()


class Local(Runner):
    """One process, no Ray: for development, for notebooks, inside the trials of a search."""

    def label(
        self, labelings: Sequence[Labeling], missing: Missing, *, beside: Stage | None
    ) -> Iterator[tuple[Labeling, Labeled]]:
        """One slot after the other, here."""
        labeler = Labeler(labelings, device())
        for work in queue(missing, [1.0] * len(labelings), seats=1):
            for labeled in labeler.label(work):
                yield labelings[labeled.teacher], labeled

    def overlaps(self, stage: Stage) -> bool:
        """One process does one thing at a time."""
        return False

    def train(self, job: TrainingJob, on_epoch: Callable[[Epoch], None]) -> Tally:
        """Here."""
        return train(job, Process.current(), on_epoch)

    def live(self, stage: Stage) -> Answers:
        """Here."""
        return Live()

    def call(self, function: Callable[..., T], *arguments: object) -> T:
        """Here."""
        return function(*arguments, device())
