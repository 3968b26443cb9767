"""The Ray runner: pools of teachers through Ray Data, students through Ray Train, on whatever cluster there is.

Inside a submitted job, and wherever RAY_ADDRESS says so, it joins that cluster; otherwise it starts a local one and takes it
down again. On a local one, what needs one process is done in this one: a worker group of one would cost 10 s and add nothing.
What a start costs is settled here, once: how often Train's controller polls, and threads.
"""

from __future__ import annotations

import logging
import math
import os
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from operator import add
from threading import Lock
from types import ModuleType
from typing import Any, TypeVar
from uuid import uuid4

import ray
import torch
from ray import cloudpickle
from ray.exceptions import RayError
from ray.util.metrics import Counter

from raykd.answers import Answers, Cached, Tally
from raykd.cache import IncompleteEntry
from raykd.device import device
from raykd.identity import fingerprint, pieces
from raykd.labeling.calibration import calibrate, known
from raykd.labeling.labeler import Labeled, Labeling
from raykd.labeling.live import Live
from raykd.labeling.placement import Actors, pools
from raykd.labeling.pool import Streamed, fill
from raykd.plan import Step, waits
from raykd.runtime.counts import Counts
from raykd.runtime.filling import Missing
from raykd.runtime.pipeline import labeling_s, span, timetable, training_s
from raykd.runtime.progress import Display, epoch_line
from raykd.runtime.runner import Local, Runner
from raykd.stage import Stage
from raykd.storage import Storage
from raykd.training.job import TrainingJob
from raykd.training.loop import DivergedError, Epoch
from raykd.training.metrics import Tail
from raykd.training.worker import RESTARTS, Workers, train_on

T = TypeVar("T")

DRIVER = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # the default of 2 s is paid at the start and the end of every training
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
}


@dataclass
class Cluster(Runner):
    """Runs on Ray. `workers` train a stage together."""

    workers: int = 1
    actors: Actors = Actors()
    """What was declared of the teachers' actors."""
    overlap: bool | None = None
    """Whether students start while their teachers still fill the cache; None: where both have a GPU of their own."""
    parallel: int | None = None
    """How many stages that wait for none of each other are made at once; None: as many as there are GPUs, or nodes where there
    are none, if that is expected to take less time than to give all of them to one stage after the other."""
    _own: bool = field(default=False, init=False)
    """Whether the cluster is this machine alone, started for this run."""

    def __post_init__(self) -> None:
        if self.workers > 1 and self.parallel not in (None, 1):
            raise ValueError(
                f"parallel={self.parallel} with workers={self.workers}: one of several stages at once is trained by one"
                " worker; leave one of them out"
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
        """Join the cluster, or start a local one for as long as the block runs."""
        if ray.is_initialized():
            yield
            return
        with self.counts.phase("start"):
            self._own = _start()
        try:
            yield
        finally:
            self._own = False
            ray.shutdown()

    def label(
        self, labelings: Sequence[Labeling], missing: Missing, *, beside: bool
    ) -> Iterator[tuple[Labeling, Labeled]]:
        """Pools of actors, one for each GPU, or for each CPU core where there are none; what a student needs is left."""
        cpus, gpus = _resources()
        devices = (gpus or cpus) - (self.workers if beside else 0)
        found = pools(
            labelings, missing, self._seconds(labelings, "gpu" if gpus else "cpu"), actors=self.actors,
            devices=max(1, devices), gpus=gpus > 0, environment=_environment(1),
        )  # fmt: skip
        with _plain_errors():
            yield from fill(found, self.storage.root / "ray")

    def _seconds(self, labelings: Sequence[Labeling], kind: str) -> list[float]:
        """What a row costs each teacher; where one works alone it does not matter."""
        if len(labelings) == 1:
            return [1.0]
        unknown = [labeling for labeling in labelings if known(labeling, kind) is None]
        if unknown:
            with self.counts.phase("calibrate"):
                self.call(calibrate, unknown, kind)
        return [known(labeling, kind) or 1.0 for labeling in labelings]

    def overlaps(self) -> bool:
        """Said by `overlap`; if not, where there are more GPUs than the training workers take."""
        if self.overlap is not None:
            return self.overlap
        return _resources()[1] > self.workers

    def seats(self, steps: Sequence[Step]) -> int:
        """Said by `parallel`; if not, by what is expected of these stages on this cluster."""
        if self.parallel is not None:
            return self.parallel
        if self.workers > 1 or self.overlap is not None or self.actors != Actors():  # said for one stage at a time
            return 1
        seats = _resources()[1] or len(_nodes())
        labeling, training = [labeling_s(step) for step in steps], [training_s(step) for step in steps]
        stages = [step.network for step in steps if isinstance(step.network, Stage)]
        turns = timetable(list(map(add, labeling, training)), waits(stages), seats)
        # one after the other all seats label, and one trains
        return seats if span(turns) < sum(labeling) / seats + sum(training) else 1

    @contextmanager
    def beside(self, seats: int, todo: Sequence[Stage]) -> Iterator[Callable[[Stage], None]]:
        """Each stage is a task in which a runner without Ray makes it, on one device. A task asks for nothing more, so one that
        waits for its place waits for another to end and for nothing else.
        """
        cpus, gpus = _resources()
        threads = 1 if gpus else _threads(seats)
        task = ray.remote(_make).options(
            num_cpus=1 / math.ceil(seats / cpus),
            num_gpus=1 / math.ceil(seats / gpus) if gpus else 0,
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

            def show(epoch: Epoch) -> None:
                self.display.line(f"  {stage}{epoch_line(epoch, stage.budget.end)}")

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

    def live(self) -> Answers:
        """Actors beside the training, where both have a device; else in the training's own process."""
        cpus, gpus = _resources()
        devices = (gpus or cpus) // self.workers - 1
        if devices < 1 or (gpus == 0 and not self.overlaps()):
            return Live()
        return Streamed(devices, cpus=0.5, gpus=1.0 if gpus else 0.0, environment=_environment(1))

    def train(self, job: TrainingJob, on_epoch: Callable[[Epoch], None]) -> Tally:
        """A Ray Train worker group; epochs are shown as they appear on the storage."""
        cpus, gpus = _resources()
        if self.workers > (gpus or cpus):
            raise ValueError(
                f"workers={self.workers}: the cluster has {cpus} CPUs and {gpus} GPUs, one is needed for each"
            )
        beside = isinstance(job.answers, Streamed) or (isinstance(job.answers, Cached) and job.answers.follow)
        threads = 1 if beside and not gpus else _threads(self.workers)
        # beside teachers on GPUs it must be a group: only that has a GPU which Ray gives to no actor
        here = self._own and self.workers == 1 and not (beside and gpus)
        group = 0 if here else self.workers
        workers = Workers(group, threads, gpu=gpus > 0, environment=_environment(threads))
        # Train resumes a name that it knows; we resume from our own storage
        name = f"{fingerprint(job.stage)}-{uuid4().hex[:8]}"
        with _plain_errors(), Tail(job.folder / "metrics.jsonl", on_epoch):
            return train_on(job, workers, name)

    def count(self, phase: str, what: str, amount: float) -> None:
        """Also as a metric of the cluster, raykd_<what> by phase: Prometheus finds it where it finds Ray's own."""
        super().count(phase, what, amount)
        if amount and ray.is_initialized():
            _metric(what).inc(amount, {"phase": phase})

    def call(self, function: Callable[..., T], *arguments: object) -> T:
        """A task with a GPU where there are some."""
        if self._own:
            return _call(function, *arguments)
        _, gpus = _resources()
        environment = {"env_vars": _environment(1)}
        task = ray.remote(_call).options(num_gpus=1 if gpus else 0, runtime_env=environment)
        with _plain_errors():
            found: T = ray.get(task.remote(function, *arguments))
        return found


@contextmanager
def _plain_errors() -> Iterator[None]:
    """A mistake found by a worker is the same one-line error here: what Ray wraps around it helps nobody.

    Errors of other kinds pass as they are, with the worker's traceback.
    """
    try:
        yield
    except Exception as error:
        mistake = _mistake(error)
        if mistake is None:
            raise
        raise mistake from None


def _mistake(error: BaseException) -> ValueError | IncompleteEntry | None:
    """The mistake that a worker raised, inside what Ray made of it."""
    if isinstance(error, ValueError | IncompleteEntry) and not isinstance(error, RayError):
        return error
    inner = [getattr(error, "cause", None), error.__cause__, *getattr(error, "worker_failures", {}).values()]
    found = (_mistake(each) for each in inner if isinstance(each, BaseException))
    return next((each for each in found if each is not None), None)


def is_installed(module: ModuleType) -> bool:
    """Whether workers can import the module: raykd itself, and what lies in a site-packages or belongs to Python."""
    origin = getattr(module, "__file__", None) or ""
    places = {sysconfig.get_path(name) for name in ("purelib", "platlib", "stdlib")}
    return module.__name__.split(".")[0] == "raykd" or any(origin.startswith(place) for place in places)


def cluster_has_gpus() -> bool:
    """Whether the cluster that RAY_ADDRESS names has GPUs. Joins it."""
    if not ray.is_initialized():
        _start()
    return _resources()[1] > 0


@cache
def _metric(what: str) -> Counter:
    return Counter(f"raykd_{what}", f"{what} of raykd's runs, by phase", tag_keys=("phase",))


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


def _resources() -> tuple[int, int]:
    """CPUs and GPUs of the cluster."""
    found: dict[str, float] = ray.cluster_resources()
    return int(found.get("CPU", 0)), int(found.get("GPU", 0))


def _threads(workers: int) -> int:
    """Threads of each of so many training workers, if they spread over the nodes that have CPUs."""
    nodes = _nodes()
    return max(1, min(nodes) // math.ceil(workers / len(nodes)))


def _nodes() -> list[int]:
    """CPUs of each node that has some."""
    return [int(node["Resources"]["CPU"]) for node in ray.nodes() if node["Alive"] and "CPU" in node["Resources"]]


def _environment(threads: int) -> dict[str, str]:
    """What a worker's process starts with. On one machine it finds the modules that this process finds."""
    found = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    if len(ray.nodes()) == 1:
        found["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    return found
