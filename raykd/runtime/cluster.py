"""The Ray runner: pools of teachers through Ray Data, students through Ray Train, on whatever cluster there is.

Inside a submitted job, and wherever RAY_ADDRESS says so, it joins that cluster; otherwise it starts a local one and takes it
down again. On a local one, what needs one process is done in this one: a worker group of one would cost 10 s and add nothing.
What a start costs is settled here, once: how often Train's controller polls, and threads.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from importlib.util import find_spec
from operator import add
from threading import Lock
from typing import Any, TypeVar

import ray
import torch
from ray import cloudpickle
from ray.exceptions import RayError
from ray.util.metrics import Counter, Gauge

from raykd.answers import Answers, Cached, Tally
from raykd.cache import IncompleteEntry
from raykd.device import device
from raykd.identity import is_installed, pieces
from raykd.labeling.calibration import calibrate, known
from raykd.labeling.labeler import Labeled, Labeling
from raykd.labeling.live import Live
from raykd.labeling.placement import Actors, Pool, on_paper, pools
from raykd.labeling.pool import Streamed, fill, taking
from raykd.places.retry import PATIENCE
from raykd.plan import Step, waits
from raykd.runtime.counts import Counts
from raykd.runtime.events import named
from raykd.runtime.filling import Missing
from raykd.runtime.pipeline import labeling_s, span, timetable, training_s
from raykd.runtime.progress import Display, epoch_fields, epoch_line, gauges
from raykd.runtime.resources import Resources, Workers, checked, said
from raykd.runtime.runner import Local, Runner
from raykd.shares import Node, Room, Share, apart, has_gpus, places
from raykd.shares import threads as threads_of
from raykd.stage import Stage
from raykd.storage import Storage
from raykd.submission import Jobs
from raykd.training.epochs import Epoch
from raykd.training.job import TrainingJob
from raykd.training.loop import DivergedError
from raykd.training.metrics import Tail
from raykd.training.worker import RESTARTS, loss, plain_errors, seated, summary, train_on, train_together
from raykd.training.worker import Workers as WorkerGroup

T = TypeVar("T")

DRIVER = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # the default of 2 s is paid at the start and the end of every training
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # one more process for each training; a lost node is noticed without it
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
}


@dataclass
class Cluster(Runner):
    """Runs on Ray. `workers` train a stage together."""

    workers: Workers = None
    """How many, or at least and at most; None: one for each GPU that has enough to do, one where there are no GPUs."""
    worker: Share = Share()
    """What was declared of what each of them takes."""
    actors: Actors = Actors()
    """What was declared of the teachers' actors."""
    overlap: bool | None = None
    """Whether students start while their teachers still fill the cache; None: where both have a GPU of their own."""
    parallel: int | None = None
    """How many stages that wait for none of each other are made at once; None: as many as there are GPUs, or nodes where there
    are none, if that is expected to take less time than to give all of them to one stage after the other."""
    grows: bool = False
    """Whether the cluster grows where something has no place: then that is waited for, and not refused."""
    _own: bool = field(default=False, init=False)
    """Whether the cluster is this machine alone, started for this run."""

    def __post_init__(self) -> None:
        if checked(self.workers) not in (None, 1) and self.parallel not in (None, 1):
            raise ValueError(
                f"parallel={self.parallel} with workers={said(self.workers)}: one of several stages at once is trained by"
                " one worker; leave one of them out"
            )

    def place(self, stage: Stage) -> Stage:
        """In-memory rows go to the storage: workers get a path. Pieces that are not installed travel with their code."""
        for piece in pieces(stage):
            module = sys.modules[type(piece).__module__]
            if not is_installed(module):
                cloudpickle.register_pickle_by_value(module)
        return stage.stored(str(self.storage.root / "data"))

    @contextmanager
    def session(self) -> Iterator[None]:
        """Join the cluster, or start a local one for as long as the block runs.

        Raises `ValueError` for what has no place there.
        """
        if ray.is_initialized():
            self._check()
            yield
            return
        with self.counts.phase("start"):
            self._own = _start()
        try:
            self._check()
            yield
        finally:
            self._own = False
            ray.shutdown()

    def _check(self) -> None:
        if (found := self._resources()).passed_over:
            self.display.line("  on this machine alone no kinds of nodes are asked for, nor GPUs where there are none")
        if not self.grows:
            found.check()

    def _resources(self) -> Resources:
        """What there is now, and who gets what of it."""
        return Resources(_nodes(), self.workers, self.worker, self.actors, self.overlap, alone=self._own)

    def label(
        self, labelings: Sequence[Labeling], missing: Missing, *, beside: Stage | None
    ) -> Iterator[tuple[Labeling, Labeled]]:
        """Pools of actors, one for each GPU, or for each CPU core where there are none; what a student needs is left."""
        losses = 0
        with plain_errors():
            while True:
                try:
                    for labeling, labeled in fill(self._pools(labelings, missing, beside), self.storage.root / "ray"):
                        losses = 0 if labeled.rows else losses
                        yield labeling, labeled
                    return
                except RayError as error:  # actors that are lost Ray starts again, and its own helpers it does not
                    losses += 1
                    if (found := loss(error)) is None or losses > RESTARTS:
                        raise
                    self.display.line(f"  {summary(found)} Labeling goes on with what is missing.")
                    self.count("label", "retries", 1)

    def _pools(self, labelings: Sequence[Labeling], missing: Missing, beside: Stage | None) -> Sequence[Pool]:
        """On the nodes that are there now. Slots that are not missing any more cost a look."""
        for labeling in labelings:
            there = self._grown("teachers", self.actors.least, partial(Resources.of_teacher, name=labeling.name))
        shares = [there.of_teacher(labeling.name) for labeling in labelings]
        seconds = self._seconds(labelings, "gpu" if shares[0].gpus else "cpu")
        return pools(
            labelings, missing, seconds, actors=self.actors, shares=shares, environment=_environment(self._of_actor()),
            room=there.beside(beside.budget.batch_size) if beside else Room(there.nodes),
        )  # fmt: skip

    def _seconds(self, labelings: Sequence[Labeling], kind: str) -> list[float]:
        """What a row costs each teacher; where one works alone it does not matter."""
        if len(labelings) == 1:
            return [1.0]
        if unknown := [labeling for labeling in labelings if known(labeling, kind) is None]:
            with self.counts.phase("calibrate"):
                self.call(calibrate, unknown, kind)
        return [known(labeling, kind) or 1.0 for labeling in labelings]

    def _grown(self, who: str, count: int, of: Callable[[Resources], Share]) -> Resources:
        """What there is; on a cluster that grows, once it has places for so many."""
        there = self._resources()
        while self.grows and places(there.nodes, share := of(there)) < count:
            seated(share, count, count, partial(self._waits, f"{count} {who}", share))
            there = self._resources()  # now it is known whether such nodes have GPUs
        return there

    def _waits(self, who: str, share: Share, found: int) -> None:
        self.display.line(f"  waiting for places for {who}, each {share}: {found} now")

    def _of_actor(self) -> int:
        """Threads of a teacher's actor."""
        return max(1, int(self.actors.takes.cpus or 1))

    def overlaps(self, stage: Stage) -> bool:
        """Said by `overlap`; if not, where the training workers leave GPUs, or are on nodes of their own."""
        return self._resources().overlaps(stage.budget.batch_size)

    def seats(self, steps: Sequence[Step]) -> int:
        """Said by `parallel`; if not, by what is expected of these stages on this cluster."""
        if self.parallel is not None:
            return self.parallel
        said_of_one = self.overlap is not None or self.actors != Actors() or self.worker != Share()
        if said_of_one or self.workers not in (None, 1):
            return 1
        there = self._resources()
        seats = there.seats
        labeling, training = [labeling_s(step) for step in steps], [training_s(step) for step in steps]
        stages = [step.network for step in steps if isinstance(step.network, Stage)]
        turns = timetable(list(map(add, labeling, training)), waits(stages), seats)
        # one after the other all seats label, and as many train as a stage has workers
        most = [there.bounds(stage.budget.batch_size)[1] for stage in stages]
        together = sum(map(training_s, steps, most))
        return seats if span(turns) < sum(labeling) / seats + together else 1

    @contextmanager
    def beside(self, seats: int, todo: Sequence[Stage]) -> Iterator[Callable[[Stage], None]]:
        """Each stage is a task in which a runner without Ray makes it, on one device. A task asks for nothing more, so one that
        waits for its place waits for another to end and for nothing else.
        """
        share, threads = self._resources().seat(seats)
        task = ray.remote(_make).options(
            **taking(share),
            scheduling_strategy="SPREAD",
            max_retries=RESTARTS,
            runtime_env={"env_vars": _environment(threads)},
        )
        settings = {name: getattr(self, name) for name in ("on_missing", "any_teacher", "verify", "precision")}
        running, lock, over = set[ray.ObjectRef[Any]](), Lock(), False

        def make(stage: Stage) -> None:
            if self.storage.result(stage) is not None:
                return
            self.announce(stage)
            about, end = named(stage), stage.budget.end

            def show(epoch: Epoch) -> None:
                self.tell("epoch", f"  {stage}{epoch_line(epoch, end)}", **about, **epoch_fields(epoch, end))

            with lock:
                if over:
                    return
                ref = task.remote(stage, todo, self.storage, threads, settings)
                running.add(ref)
            with Tail(self.storage.folder(stage) / "metrics.jsonl", show):
                counts, mistake = ray.get(ref)
            with lock:
                running.remove(ref)
                self._include(counts)
            if mistake is not None:
                self.display.line(f"  {stage} failed: {mistake}")
                raise mistake

        try:
            yield make
        finally:
            with lock:
                over = True
                for ref in running:
                    ray.cancel(ref, force=True)

    def _include(self, counts: Counts) -> None:
        """What was done elsewhere was done in this run."""
        self.counts.merge(counts)
        for phase, counted in counts.phases.items():
            for what, amount in counted.items():
                _metric(what).inc(amount, {"phase": phase})

    def live(self, stage: Stage) -> Answers:
        """Actors beside the training, where both have a device; else in the training's own process."""
        there = self._resources()
        actors = there.streaming(stage.budget.batch_size)
        return Streamed(actors, on_paper(there.of_teacher()), _environment(self._of_actor())) if actors else Live()

    def train(self, job: TrainingJob, on_epoch: Callable[[Epoch], None]) -> Tally:
        """A Ray Train worker group; epochs are shown as they appear on the storage."""
        rows = job.stage.budget.batch_size
        there = self._grown("training workers", self._resources().bounds(rows)[0], lambda there: there.of_worker)
        worker, (least, most) = there.of_worker, there.bounds(rows)
        beside = isinstance(job.answers, Streamed) or (isinstance(job.answers, Cached) and job.answers.follow)
        shared = beside and not worker.gpus and not apart(there.nodes, worker, there.of_teacher())

        def group(count: int) -> WorkerGroup:
            threads = threads_of(_nodes(), worker, max(1, count))
            threads = int(self.worker.cpus or (1 if shared else threads))
            if count > 1:
                self.display.line(f"  {count} training workers")
            return WorkerGroup(count, max(1, threads), worker, _environment(max(1, threads)))

        def lost(epochs: int) -> None:
            self.display.line(f"  training workers were lost: whoever has a place goes on after epoch {epochs}")
            self.count("train", "retries", 1)

        with plain_errors(), Tail(job.folder / "metrics.jsonl", on_epoch):
            # beside teachers on GPUs it must be a group: only that has a GPU which Ray gives to no actor
            if self._own and most == 1 and not (beside and worker.gpus):
                return train_on(job, group(0))
            waits = partial(self._waits, f"{least} training workers", worker)
            return train_together(job, worker, least, most, group=group, waits=waits, lost=lost)

    def count(self, phase: str, what: str, amount: float) -> None:
        """Also as a metric of the cluster, raykd_<what> by phase: Prometheus finds it where it finds Ray's own."""
        super().count(phase, what, amount)
        if amount and ray.is_initialized():
            _metric(what).inc(amount, {"phase": phase})

    def tell(self, event: str, text: str = "", /, **fields: object) -> None:
        """Also as gauges of the cluster, raykd_<what> by stage and phase."""
        super().tell(event, text, **fields)
        if ray.is_initialized():
            for what, value in gauges(event, fields).items():
                _gauge(what).set(value, {"stage": str(fields.get("stage", "")), "phase": str(fields["phase"])})

    def call(self, function: Callable[..., T], *arguments: object) -> T:
        """A task that takes what a teacher's actor takes."""
        if self._own:
            return _call(function, *arguments)
        teacher = self._grown("teacher", 1, Resources.of_teacher).of_teacher()
        environment = {"env_vars": _environment(self._of_actor())}
        task = ray.remote(_call).options(**taking(teacher), runtime_env=environment)
        with plain_errors():
            return ray.get(task.remote(function, *arguments))  # type: ignore[no-any-return]


def cluster_has_gpus(share: Share) -> bool:
    """Whether the cluster that RAY_ADDRESS names has GPUs on nodes of the share's kind. Joins it."""
    if not ray.is_initialized():
        _start()
    return has_gpus(_nodes(), share)


def job_client(address: str, headers: Mapping[str, str]) -> Jobs:
    """The job server at an http(s) address: Ray's client of it.

    Raises `ValueError` where `ray[default]` is missing or the cluster wants another token, `ConnectionError` if no job server
    answers.
    """
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient  # most of a second, and only here

    for name in ("dashboard.modules.job.sdk", "dashboard.modules.dashboard_sdk", "_private.runtime_env.packaging"):
        logging.getLogger(f"ray.{name}").setLevel(logging.WARNING)  # they tell of every request and file
    # Ray's client prefers these to the address that it is given
    before = {name: os.environ.pop(name) for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS") if name in os.environ}
    try:
        client: Jobs = JobSubmissionClient(address, headers=dict(headers))
    except AuthenticationError:
        raise ValueError("the cluster wants a token: RAY_AUTH_MODE=token and RAY_AUTH_TOKEN would be right") from None
    except (RuntimeError, OSError) as error:
        if find_spec("aiohttp") is None:
            raise ValueError("Ray's job client is not installed: pip install 'raykd[cluster]'") from None
        raise ConnectionError(f"no job server answers: {error}") from error
    finally:
        os.environ.update(before)
    return client


@cache
def _metric(what: str) -> Counter:
    return Counter(f"raykd_{what}", f"{what} of raykd's runs, by phase", tag_keys=("phase",))


@cache
def _gauge(what: str) -> Gauge:
    return Gauge(f"raykd_{what}", f"{what} of a stage that raykd makes, by phase", tag_keys=("stage", "phase"))


def _make(
    stage: Stage, todo: Sequence[Stage], storage: Storage, threads: int, settings: Mapping[str, Any]
) -> tuple[Counts, Exception | None]:
    """Make a stage in this process. A mistake is returned: Ray would hand on its traceback, and try again in vain."""
    torch.set_num_threads(threads)
    runner = Local(storage, Display(quiet=True), **settings)
    try:
        runner.make(stage, todo)
    except (ValueError, DivergedError, IncompleteEntry, OSError) as error:
        return runner.counts, error
    return runner.counts, None


def _call(function: Callable[..., T], *arguments: object) -> T:
    return function(*arguments, device())


def _start() -> bool:
    """Join or start a cluster; whether it was started."""
    os.environ.update({name: value for name, value in DRIVER.items() if name not in os.environ})
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}  # errors come back as exceptions
    for name in ("ray.data", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if os.environ.get("RAY_ADDRESS"):
        ray.init(**quiet)
        return False
    ray.init(address="local", include_dashboard=False, **quiet)
    return True


def _nodes() -> list[Node]:
    """The nodes that are there now."""
    return [Node(node["Resources"], node["Labels"]) for node in ray.nodes() if node["Alive"]]


def _environment(threads: int) -> dict[str, str]:
    """What a worker's process starts with. On one machine it finds the modules that this process finds."""
    found = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    if len({node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]}) == 1:
        found["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    return found | {name: os.environ[name] for name in (PATIENCE,) if name in os.environ}
