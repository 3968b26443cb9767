"""A search on Ray Tune: trials side by side, each in a process of its own, on what the pools have labeled before.

    fill the cache (pools of teachers)  ->  trials (no teacher, no Ray inside)  ->  the best one, to its end  ->  the memory

A trial trains its stage as any run does, so its checkpoint is the stage's: whoever asks for the stage later continues there,
and a stopped trial is nothing lost. Tune's own state is code to whoever restores it, so it does not lie in the storage, which
is data: it lies in a folder of this user's, and the same search in that folder continues. Where it is gone, what is trained is
on the storage all the same.
"""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch
from ray import cloudpickle, tune
from ray.tune import schedulers
from ray.tune.logger import JsonLoggerCallback
from ray.tune.search import BasicVariantGenerator, ConcurrencyLimiter, Searcher

from raykd.identity import digest, is_installed
from raykd.runtime.cluster import Cluster
from raykd.search.axes import Axis, Choice, Configuration, Range
from raykd.search.memory import Memory
from raykd.search.meta import features
from raykd.search.record import Record, task_of
from raykd.search.search import POPULATION, Found, Search
from raykd.search.suggest import Suggestions, known, starting
from raykd.search.trial import Trial, merged, read_parts, written_parts
from raykd.search.watch import BEGAN, PARTS, Watch, in_order
from raykd.storage import Storage

QUIET = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # but for the one that results are read from
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # paths in recipes are relative to where the user is
    "TUNE_RESULT_BUFFER_LENGTH": "0",
}
REDUCTION = 3  # one trial in so many goes on from a rung
LOST = 1  # times that a trial whose process died is made again
STATE = "RAYKD_STATE"


@dataclass(frozen=True)
class Resources:
    """What a trial takes, and how many run at once."""

    cpus: float = 1.0
    gpus: float | None = None
    """None: 1 where there are GPUs."""
    at_once: int | None = None
    """None: as many as fit. A population takes turns on what fits."""


def search(
    search: Search, runner: Cluster, *, resources: Resources = Resources(), state: str | Path | None = None,
    memory: bool = True,
) -> Found:  # fmt: skip
    """Carry a search out, or on. What every trial found is added to the memory of the storage.

    `state`: where Tune keeps what it needs to continue; by default RAYKD_STATE, or .local/state/raykd in the home of this user.
    Code is run from there: nobody else may write in it. Raises `ValueError` for a mistake, before any work; what is wrong with
    one trial is its own.
    """
    search.check()
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    _travel(search)
    folder = _folder(state, runner.storage)
    with runner.storage.held(), runner.session():
        per_trial, at_once = _fitting(resources, search.trials)
        first = runner.place(search.default)
        runner.prepare(first)
        task = features(first, runner.storage)
        records = Memory(runner.storage.root).read(search.recipe.function.__name__) if memory else []
        begun = starting(search, records, task, runner.storage)
        runner.prepare(*(runner.place(stage) for stage in _written(search, begun)))
        watch = Watch(search, runner, task, memory)
        _live[search.name] = watch
        try:
            tuner = _tuner(search, runner, records, task, begun, per_trial, at_once, folder)
            with redirect_stdout(sys.stderr):  # where results are not said
                results = tuner.fit()
        finally:
            del _live[search.name]
        ordered = in_order([results[number] for number in range(len(results))])
        found = Found(search, tuple(watch.tried(number, result) for number, result in enumerate(ordered)))
        watch.remember(found)
        return found


def _tuner(
    search: Search, runner: Cluster, records: Sequence[Record], task: Mapping[str, float], begun: list[Configuration],
    per_trial: dict[str, float], at_once: int, folder: Path,
) -> tune.Tuner:  # fmt: skip
    """A new one, or the one that was killed."""
    storage = Storage(runner.storage.root.resolve(), runner.storage.precision, runner.storage.cache_root)
    settings = {name: getattr(runner, name) for name in ("any_teacher", "verify", "precision")}
    population = search.scheduler in POPULATION
    function = _population_trial if population else _trial
    packed = cloudpickle.dumps(Trial(search, storage, settings))
    trainable = tune.with_resources(tune.with_parameters(function, packed=packed, places=tuple(sys.path)), per_trial)
    path = folder / search.name
    if tune.Tuner.can_restore(str(path)):
        runner.display.line(f"continuing the search {path}")
        return tune.Tuner.restore(str(path), trainable, resume_unfinished=True)
    if population:  # all of it takes turns on what there is
        algorithm: Any = BasicVariantGenerator(points_to_evaluate=[dict(each) for each in begun])
    else:
        algorithm = ConcurrencyLimiter(_searcher(search, records, task, begun), at_once)
    return tune.Tuner(
        trainable,
        param_space={name: _domain(axis) for name, axis in search.space.axes.items()} if population else None,
        tune_config=tune.TuneConfig(
            search_alg=algorithm,
            scheduler=_scheduler(search),
            num_samples=search.trials,
            trial_dirname_creator=_short,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name=search.name,
            storage_path=str(folder),
            verbose=0,
            callbacks=[JsonLoggerCallback(), _Tell(search.name)],
            failure_config=tune.FailureConfig(max_failures=LOST),
        ),
    )


def _trial(config: Mapping[str, Any], *, packed: bytes, places: Sequence[str]) -> None:
    """What Tune runs."""
    trial = _unpacked(packed, places)
    began = time.time()
    trial.run(trial.search.space.nearest(config), lambda metrics: tune.report({**metrics, BEGAN: began}))


def _population_trial(config: Mapping[str, Any], *, packed: bytes, places: Sequence[str]) -> None:
    """What Tune runs where trials take over each other's weights: part after part, from the lineage in the checkpoint."""
    trial = _unpacked(packed, places)
    began, configuration = time.time(), trial.search.space.nearest(config)
    end, parts = trial.search.default.budget.end, []
    checkpoint = tune.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            parts = read_parts((Path(folder) / PARTS).read_text())
    done = parts[-1][1] if parts else trial.search.default.budget.start
    while done < end:
        done = min(done + trial.search.grace, end)
        parts = merged([*parts, (configuration, done)])

        def report(found: Mapping[str, float], parts: list[tuple[Configuration, int]] = parts) -> None:
            with tempfile.TemporaryDirectory() as folder:
                (Path(folder) / PARTS).write_text(written_parts(parts))
                metrics = {**found, PARTS: written_parts(parts), BEGAN: began}
                tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(folder))

        trial.train_part(parts, report)


def _unpacked(packed: bytes, places: Sequence[str]) -> Trial:
    """The trial, in a process that finds the modules that the driver finds, and has the threads of its share."""
    sys.path += [place for place in places if place not in sys.path]
    torch.set_num_threads(max(1, int(os.environ.get("OMP_NUM_THREADS", "1"))))
    trial: Trial = cloudpickle.loads(packed)
    return trial


class _Searcher(Searcher):
    """What the manager suggests, one at a time, to Tune."""

    def __init__(self, suggestions: Suggestions):
        super().__init__(metric=suggestions.search.goal.metric, mode=_mode(suggestions.search))
        self.suggestions = suggestions

    def suggest(self, trial_id: str) -> Any:
        """The next configuration."""
        configuration = self.suggestions.next(trial_id)
        return Searcher.FINISHED if configuration is None else dict(configuration)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """What came of it."""
        metric = self.suggestions.search.goal.metric
        known = not error and result is not None and metric in result
        self.suggestions.told[trial_id] = {metric: float(result[metric])} if known and result is not None else None

    def save(self, checkpoint_path: str) -> None:
        """As JSON."""
        Path(checkpoint_path).write_text(json.dumps([self.suggestions.asked, self.suggestions.told]))

    def restore(self, checkpoint_path: str) -> None:
        """From that."""
        self.suggestions.asked, self.suggestions.told = json.loads(Path(checkpoint_path).read_text())


def _searcher(search: Search, records: Sequence[Record], task: Mapping[str, float], begun: list[Configuration]) -> Any:
    if search.searcher != "optuna":
        return _Searcher(Suggestions(search, records, task, begun))
    import optuna  # here, because a trial's process need not import it
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    metrics, modes = [search.goal.metric, *search.against], [_mode(search), *("min" for _ in search.against)]
    filled = [{**search.defaults, **_all(search), **each} for each in begun]
    found = OptunaSearch(
        {name: _distribution(axis) for name, axis in search.space.axes.items()},
        metric=metrics if search.against else metrics[0],
        mode=modes if search.against else modes[0],
        points_to_evaluate=filled,
        seed=search.seed,
    )
    if not search.against:
        for configuration, result in known(search, records, task_of(task)):
            found.add_evaluated_point({**_all(search), **configuration}, result)
    return found


def _all(search: Search) -> dict[str, Any]:
    """A value for every knob, also where it does not matter: the library's spaces have no conditions."""
    defaults = {name: knob.default for name, knob in search.recipe.knobs.items()}
    return {name: defaults[name] for name in search.space.axes}


def _distribution(axis: Axis) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(axis, Choice):
        return CategoricalDistribution(axis.values)
    assert isinstance(axis, Range)
    if axis.whole:
        return IntDistribution(int(axis.low), int(axis.high), log=axis.log)
    return FloatDistribution(axis.low, axis.high, log=axis.log)


def _scheduler(search: Search) -> schedulers.TrialScheduler:
    goal: dict[str, Any] = {"metric": search.goal.metric, "mode": _mode(search), "time_attr": "epoch"}
    if search.scheduler == "asha":
        return schedulers.AsyncHyperBandScheduler(
            **goal, max_t=search.epochs, grace_period=min(search.grace, search.epochs), reduction_factor=REDUCTION,
            stop_last_trials=False,
        )  # fmt: skip
    if search.scheduler == "median":
        return schedulers.MedianStoppingRule(**goal, grace_period=search.grace, min_samples_required=3)
    if search.scheduler == "none":
        return schedulers.FIFOScheduler()
    if search.scheduler == "pb2":
        bounds: dict[str, Any] = {
            name: [axis.low, axis.high] for name, axis in search.space.axes.items() if isinstance(axis, Range)
        }
        from ray.tune.schedulers.pb2 import PB2  # here, as all that a trial's process need not import

        return PB2(**goal, perturbation_interval=search.grace, hyperparam_bounds=bounds)
    # of a choice it takes a list, whose neighbours it moves to
    draws = {
        name: list(axis.values) if isinstance(axis, Choice) else _domain(axis)
        for name, axis in search.space.axes.items()
    }
    return schedulers.PopulationBasedTraining(**goal, perturbation_interval=search.grace, hyperparam_mutations=draws)


def _domain(axis: Axis) -> Any:
    if isinstance(axis, Choice):
        return tune.choice(list(axis.values))
    assert isinstance(axis, Range)
    return tune.loguniform(axis.low, axis.high) if axis.log else tune.uniform(axis.low, axis.high)


_live: dict[str, Watch] = {}
"""Searches of this process that are under way: Tune pickles its callbacks, and a watch is not to be pickled."""


class _Tell(tune.Callback):
    """Tells the watch of a search what Tune tells."""

    def __init__(self, name: str):
        self.name = name

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """It ended, or was stopped."""
        self._ended(trial, failed=False)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """It failed."""
        self._ended(trial, failed=True)

    def _ended(self, trial: Any, *, failed: bool) -> None:
        if (watch := _live.get(self.name)) is not None:
            watch.ended(trial.config, trial.last_result or {}, failed=failed)


def _mode(search: Search) -> str:
    return "max" if search.goal.larger else "min"


def _short(trial: Any) -> str:
    return str(trial.trial_id)


def _written(search: Search, configurations: Sequence[Configuration]) -> list[Any]:
    """Their stages; what a recipe refuses is found by its trial."""
    found = []
    for configuration in configurations:
        try:
            found.append(search.stage(configuration))
        except ValueError:
            continue
    return found


def _travel(search: Search) -> None:
    """A recipe that is not installed travels with its code, and with its knobs: the hints of its types stay behind."""
    assert search.recipe.knobs is not None, "they are remembered from now on"
    module = sys.modules[search.recipe.function.__module__]
    if not is_installed(module):
        cloudpickle.register_pickle_by_value(module)


def _folder(state: str | Path | None, storage: Storage) -> Path:
    """Where Tune keeps the searches of a storage. Raises `ValueError` if others can write there: what is restored is run."""
    default = os.environ.get(STATE) or Path.home() / ".local" / "state" / "raykd"
    folder = Path(state or default).expanduser().resolve()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if folder.stat().st_uid != os.getuid() or folder.stat().st_mode & 0o022:
        raise ValueError(f"others can write in {folder}, and a search runs what lies there: name a folder of your own")
    return folder / digest(str(storage.root.resolve()))[:12]


def _fitting(resources: Resources, trials: int) -> tuple[dict[str, float], int]:
    """What a trial takes, and how many fit on the cluster at once. Raises `ValueError` if none does."""
    there = {"cpu": float(ray.cluster_resources().get("CPU", 0)), "gpu": float(ray.cluster_resources().get("GPU", 0))}
    gpus = resources.gpus if resources.gpus is not None else min(1.0, there["gpu"])
    asked = {"cpu": resources.cpus, "gpu": gpus}
    for name, amount in asked.items():
        if amount < 0 or amount > there[name]:
            raise ValueError(
                f"a trial asks for {amount:g} {name}s, and the cluster has {there[name]:g}: less would be right"
            )
    fitting = min((math.floor(there[name] / amount) for name, amount in asked.items() if amount), default=trials)
    return asked, max(1, min(trials, fitting, resources.at_once or trials))
