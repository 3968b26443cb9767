"""Where labeling and training meet.

runner.py      Runner: walks the plan.   Local: one process, no Ray
cluster.py     Cluster: the same on Ray
resources.py   who gets what of a cluster
pipeline.py    which stages are made at once, and which first
selecting.py   several stages to choose from
progress.py    what is seen of it
events.py      what is kept of it: the log of a run
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal

import torch

from raykd.answers import Verify
from raykd.device import PRECISIONS, device
from raykd.labeling.placement import OTHERS, Actors
from raykd.places import redacted
from raykd.recipes import Deferred, Written
from raykd.runtime.filling import OnMissing
from raykd.runtime.progress import Display
from raykd.runtime.resources import Workers, said
from raykd.runtime.runner import Local, Runner
from raykd.runtime.selecting import chosen, resolve
from raykd.runtime.trained import Trained
from raykd.selection import Selection
from raykd.shares import Share
from raykd.stage import Pretrained, Stage
from raykd.storage import Storage
from raykd.training.evaluate import evaluate

__all__ = [
    "PRECISIONS",
    "Display",
    "Local",
    "Runner",
    "Trained",
    "check_actors",
    "chosen",
    "evaluation",
    "make_runner",
    "recorded",
    "resolve",
    "run",
]

NONE_DECLARED = Actors()
NONE_SAID = Share()
Precision = Literal["auto", "float32", "bfloat16", "float16"]


def run(
    stage: Written,
    *,
    storage: str | Path = "storage",
    local: bool = False,
    workers: Workers = None,
    worker: Share = NONE_SAID,
    precision: str = "auto",
    on_missing: OnMissing = "compute",
    any_teacher: bool = False,
    cache: str = "",
    overlap: bool | None = None,
    parallel: int | None = None,
    actors: Actors = NONE_DECLARED,
    grows: bool = False,
    verify: Verify = "sample",
    quiet: bool = False,
) -> Trained:
    """Make what a recipe returns real and return its network and metrics; what exists on the storage is not done again.

    On Ray, or with `local=True` in this process. Raises `ValueError` for a mistake, before any work.
    """
    written = stage.default if isinstance(stage, Deferred) else stage
    selection = written if isinstance(written, Selection) else Selection((written,))
    runner = make_runner(
        storage,
        local=local,
        workers=workers,
        worker=worker,
        precision=precision,
        on_missing=on_missing,
        any_teacher=any_teacher,
        cache=cache,
        overlap=overlap,
        parallel=parallel,
        actors=check_actors(actors, *selection.candidates),
        grows=grows,
        verify=verify,
        display=Display(quiet),
    )
    with recorded(runner, target=str(selection.candidates[0])):
        if isinstance(stage, Deferred):
            trained: Trained = stage.resolve(runner, speculative=parallel or 1)
            return trained
        return resolve(selection, runner, speculative=parallel or 1)


def recorded(runner: Runner, **about: object) -> AbstractContextManager[None]:
    """Log what the runner does inside (`events.py`); `about`: what was asked for."""
    counts = runner.counts
    return runner.display.events.run(
        runner.storage, lambda: {"teacher_rows": dict(counts.teacher_rows), **counts.as_json()}, **about
    )


def check_actors(actors: Actors, *stages: Stage) -> Actors:
    """The same; raises `ValueError` if it names a teacher that neither the stages have nor a stage before them."""
    known: set[str] = {OTHERS}
    left = list(stages)
    while left:
        teachers = left.pop().teachers
        known |= set(teachers)
        left += [teacher for teacher in teachers.values() if isinstance(teacher, Stage)]
    for name in set(actors.gpus) - known:
        has = f"the teachers are {', '.join(sorted(known - {OTHERS}))}" if len(known) > 1 else "there are no teachers"
        raise ValueError(f"GPUs are declared for the teacher {name!r}: {has}")
    return actors


def make_runner(
    storage: str | Path,
    *,
    local: bool,
    workers: Workers = None,
    worker: Share = NONE_SAID,
    precision: str = "auto",
    cache: str = "",
    overlap: bool | None = None,
    parallel: int | None = None,
    actors: Actors = NONE_DECLARED,
    grows: bool = False,
    **settings: Any,
) -> Runner:
    """A runner on a storage, with precisions settled for the hardware. `settings` are those of every `Runner`.

    `workers` train a stage together, each of which takes `worker` of a node; `actors` are the teachers'. Where the cluster
    `grows`, what has no place is waited for, and teachers compute as with GPUs; else it is refused when the run begins.
    """
    teachers = "float16" if precision == "auto" and grows else precision  # their GPUs may be still to come
    place = open_storage(storage, teachers, local=local, cache=cache, kind=actors.takes)
    settings["precision"] = precision
    if local:
        asked = {
            f"workers={said(workers)}": workers not in (None, 1),
            "what a training worker takes": worker != NONE_SAID,
            "a cluster that grows": grows,
            "overlap": bool(overlap),
            f"parallel={parallel}": parallel not in (None, 1),
            "actors or GPUs of teachers": actors != NONE_DECLARED,
        }
        wrong = [name for name, found in asked.items() if found]
        if wrong:
            raise ValueError(f"{wrong[0]} with local: one process does one thing at a time; leave one of them out")
        return Local(place, **settings)
    from raykd.runtime.cluster import Cluster  # here, because importing Ray takes a second that Local need not pay

    return Cluster(
        place,
        workers=workers,
        worker=worker,
        overlap=overlap,
        parallel=parallel,
        actors=actors,
        grows=grows,
        **settings,
    )


def evaluation(stage: Stage, storage: str | Path, *, weights: str | None, precision: str) -> dict[str, float]:
    """Metrics of a stage's student on its validation and test splits, with its own weights or those of a file.

    Raises `ValueError` if the stage is not trained and no weights are given.
    """
    place = open_storage(storage, precision)
    if weights is None and place.result(stage) is None:
        raise ValueError(f"{stage} is not trained on this storage: run it first, or name a file with --weights")
    network = Pretrained(stage.student, weights) if weights else place.finished(stage)
    return evaluate(network, stage.view, place.evaluation(network, stage.view), place.precision, device())


def open_storage(
    storage: str | Path, precision: str = "auto", *, local: bool = False, cache: str = "", kind: Share = NONE_SAID
) -> Storage:
    """The storage in a folder; the cache of teacher outputs may lie elsewhere, also behind a URL.

    Teachers compute in float16 where there are GPUs on the `kind` of nodes that is theirs: their outputs are kept in float16
    anyway. Raises `ValueError` for a storage at a URL.
    """
    if "://" in str(storage):
        raise ValueError(f"storage {redacted(str(storage))!r} is a URL: name a folder that all workers see")
    if precision == "auto":
        precision = "float16" if _gpus(local, kind) else "float32"
    if cache and "://" not in cache:
        cache = str(Path(cache).absolute())
    return Storage(Path(storage).absolute(), precision, cache)


def _gpus(local: bool, kind: Share) -> bool:
    """Whether this run has GPUs: of this machine, or of the cluster that it joins."""
    if local or torch.cuda.is_available() or not os.environ.get("RAY_ADDRESS"):
        return torch.cuda.is_available()
    from raykd.runtime.cluster import cluster_has_gpus

    return cluster_has_gpus(kind)
