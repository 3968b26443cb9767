"""How many trials does a search need, with a memory of other tasks and without?

    python benchmarks/search.py --folder /tmp/search-table [--minutes 7] [--seeds 5]

Nine small tasks, and a space of 100 configurations: every configuration is trained on every task, really, with three seeds. Its
score is their mean, because with one seed the best of a table was mostly luck. What is trained lies in a memory
(`raykd.search.memory`), so it is not trained again. Then searches are replayed on that table, each task against a memory of
the others: trials until validation accuracy is 99 % of the best of its table. Replays are kept in the folder too, and made
again where the table or the code that proposes is another one.

random      without replacement
optuna      TPE, cold; ordered knobs as whole numbers, so that it knows the order. What it asks for twice is not counted
+defaults   the same, and the published defaults first
memory16    `proposals.propose`, from 16 random trials of each other task
memory      the same from all 100 trials of each other task

The three last tasks were kept aside while the surrogate was worked on. Where noise is named, the labels of
validation have it too.

Shapes: N rows, D numbers of an input
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import product
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import optuna
import torch
from numpy.typing import NDArray

from raykd import SGD, Budget, CrossEntropy, Dataset, Stage, View
from raykd.data import Arrays, Digits, FashionMNIST, Source
from raykd.identity import digest, fingerprint
from raykd.methods import published
from raykd.models import CNN, MLP
from raykd.models.architecture import Architecture
from raykd.recipes import Knob, Recipe
from raykd.runtime import Display, Local
from raykd.search import Choice, Range, Space, meta, proposals, surrogate
from raykd.search.axes import Axis, Configuration, Value, When, met
from raykd.search.memory import Memory
from raykd.search.meta import features
from raykd.search.proposals import propose
from raykd.search.record import Record, record
from raykd.storage import Storage
from raykd.training.loop import DivergedError

Name = Literal[
    "digits", "digits-noise", "digits-imbalance", "fashion", "tabular", "tabular-noise",
    "digits-weak", "fashion-noise", "tabular-imbalance",
]  # fmt: skip
Method = Literal["kd", "dkd", "dist"]
Arm = Callable[["Table", Sequence["Table"], int], Iterator[Record]]

ASIDE = 3
TRAININGS = 3  # of a cell, whose score is their mean
SHARE = 0.99
THIN = 16  # trials of each other task that a thin memory holds
BATCH = 32
ASKS = 2000  # of a study, after which it is random


@dataclass(frozen=True)
class Steps(Axis):
    """Some numbers of a range, in order: what a table can hold of it."""

    of: Range
    values: tuple[float, ...]

    @property
    def when(self) -> When:  # type: ignore[override]
        """That of the range."""
        return self.of.when

    @property
    def width(self) -> int:
        """1."""
        return 1

    def holds(self, value: object) -> bool:
        """One of the numbers."""
        return value in self.values

    def at(self, share: float) -> Value:
        """Each number has an equal part."""
        return self.values[int(share * len(self.values))]

    def nearest(self, value: Value) -> Value:
        """The number whose place in the range is nearest."""
        return min(self.values, key=lambda each: abs(self.encode(each)[0] - self.encode(value)[0]))

    def encode(self, value: Value) -> list[float]:
        """Its place in the range."""
        return self.of.encode(value)

    def bound(self, knob: Knob) -> Steps:
        """The same for a knob with a type."""
        return replace(self, of=self.of.bound(knob))

    def under(self, when: When) -> Steps:
        """Of the same numbers."""
        return replace(self, of=self.of.under(when))


SPACE = Space({
    "method": Choice(*get_args(Method)),
    "tau": Steps(Range(1.0, 8.0, log=True), (1.0, 2.0, 4.0, 8.0)),
    "lr": Steps(Range(0.01, 1.0, log=True), (0.01, 0.03, 0.1, 0.3, 1.0)),
    "alpha": Steps(Range(0.5, 0.9, when={"method": "kd"}), (0.5, 0.9)),
    "beta": Steps(Range(1.0, 8.0, log=True, when={"method": "dkd"}), (1.0, 8.0)),
})  # fmt: skip
DEFAULTS: Configuration = {"method": "kd", "tau": 4.0, "lr": 0.1, "alpha": 0.9}


@dataclass(frozen=True)
class Task:
    """What is distilled into what."""

    dataset: Dataset
    teacher: Architecture
    student: Architecture
    epochs: int
    teacher_epochs: int = 30


@lru_cache
def task(name: Name) -> Task:
    """The task of this name."""
    image, small = (1, 8, 8), (1, 14, 14)
    match name:
        case "digits":
            data = Dataset(Digits(), validation=0.5, limit=200)
            return Task(data, CNN(16, shape=image), CNN(4, shape=image), 15)
        case "digits-noise":
            data = Dataset(noisy(Digits(), 0.3), validation=0.5)
            return Task(data, CNN(16, shape=image), MLP((24,), shape=image), 10)
        case "digits-imbalance":
            data = Dataset(imbalanced(Digits(), 8.0), validation=0.5)
            return Task(data, MLP((128,), shape=image), MLP((8,), shape=image), 10)
        case "fashion":
            data = Dataset(clothes(4000), validation=0.5, limit=400)
            return Task(data, CNN(12, shape=small), CNN(3, shape=small), 10)
        case "tabular":
            data = Dataset(clusters(3000, 20, 6, seed=1), validation=0.5, limit=400)
            return Task(data, MLP((128, 128), classes=6, shape=(20,)), MLP((8,), classes=6, shape=(20,)), 12)
        case "tabular-noise":
            data = Dataset(noisy(clusters(3000, 10, 4, seed=2), 0.2), validation=0.5)
            return Task(data, MLP((64,), classes=4, shape=(10,)), MLP((6, 6), classes=4, shape=(10,)), 6)
        case "digits-weak":
            data = Dataset(Digits(), validation=0.5, limit=300)
            return Task(data, MLP((32,), shape=image), MLP((12,), shape=image), 8, teacher_epochs=5)
        case "fashion-noise":
            data = Dataset(noisy(clothes(4000), 0.2), validation=0.5, limit=500)
            return Task(data, CNN(8, shape=small), MLP((16,), shape=small), 8)
        case "tabular-imbalance":
            data = Dataset(imbalanced(clusters(4000, 30, 8, seed=3), 10.0), validation=0.5, limit=600)
            return Task(data, MLP((128,), classes=8, shape=(30,)), MLP((12,), classes=8, shape=(30,)), 8)


def clothes(rows: int) -> Source:
    """The first rows of Fashion-MNIST at 14x14."""
    found = FashionMNIST().load()
    images = found.gather(np.arange(rows))
    small = torch.nn.functional.avg_pool2d(images.float(), 2).round().to(torch.uint8)
    return Arrays(small, found.labels[:rows])


def clusters(rows: int, width: int, classes: int, *, seed: int) -> Source:
    """Four Gaussian clusters for each class, at random places: no linear classifier will do."""
    generator = np.random.default_rng(seed)
    labels_N = generator.integers(0, classes, rows)
    centers = generator.normal(0, 1, (classes, 4, width))
    inputs_ND = centers[labels_N, generator.integers(0, 4, rows)] + generator.normal(0, 0.8, (rows, width))
    return Arrays(inputs_ND, labels_N, classes=classes)


def noisy(source: Source, share: float) -> Source:
    """A share of the labels, drawn anew among all classes."""
    rows = source.load()
    generator = np.random.default_rng(0)
    drawn_N = generator.integers(0, source.classes, len(rows))
    labels_N = np.where(generator.random(len(rows)) < share, drawn_N, rows.labels)
    return Arrays(rows.gather(np.arange(len(rows))), labels_N, classes=source.classes)


def imbalanced(source: Source, ratio: float) -> Source:
    """Of each class fewer rows than of the one before it, the last a `ratio`-th of the first."""
    rows = source.load()
    kept_N = np.random.default_rng(0).random(len(rows)) < ratio ** (-rows.labels / (source.classes - 1))
    places: NDArray[np.int64] = np.flatnonzero(kept_N)
    return Arrays(rows.gather(places), rows.labels[places], classes=source.classes)


def distilled(
    name: Name = "digits",
    method: Method = "kd",
    tau: float = 4.0,
    lr: float = 0.1,
    alpha: float = 0.9,
    beta: float = 8.0,
    seed: int = 0,
) -> Stage:
    """The student of a task; the seed is its own, not the teacher's."""
    chosen = task(name)
    view = View(chosen.dataset)
    budget = Budget(chosen.teacher_epochs, batch_size=BATCH, optimiser=SGD(0.05))
    whole = View(replace(chosen.dataset, limit=None))
    teacher = Stage(chosen.teacher, 1.0 * CrossEntropy(), whole, budget=budget, label="teacher")
    objective = {
        "kd": published.kd(alpha, tau),
        "dkd": published.dkd(beta=beta, tau=tau, warmup=2.0),
        "dist": published.dist(tau=tau),
    }[method]
    budget = Budget(chosen.epochs, batch_size=BATCH, optimiser=SGD(lr))
    return Stage(chosen.student, objective, view, {"teacher": teacher}, budget=budget, seed=seed)


RECIPE = Recipe("benchmarks/search.py:distilled", distilled)


def grid() -> list[Configuration]:
    """Every configuration of the space, once."""
    values = {name: axis.values for name, axis in SPACE.axes.items() if isinstance(axis, Choice | Steps)}
    every = (SPACE.active(dict(zip(values, each, strict=True))) for each in product(*values.values()))
    return list({str(each): each for each in every}.values())


def trained(name: Name, configuration: Configuration, seed: int) -> Stage:
    """A training of a cell."""
    return distilled(name, seed=seed, **configuration)  # type: ignore[arg-type]


def fill(name: Name, seed: int, folder: Path, until: float) -> bool:
    """Train what the table lacks of a task and seed; whether it is complete."""
    runner, memory = Local(Storage(folder), Display(quiet=True)), Memory(folder)
    known = {found.fingerprint for found in memory.read()}
    stages = [(each, trained(name, each, seed)) for each in grid()]
    missing = [(knobs, stage) for knobs, stage in stages if fingerprint(stage) not in known]
    if not missing:
        return True
    first = trained(name, DEFAULTS, 0)
    runner.run(first)
    known_of_task, new = features(first, runner.storage), list[Record]()
    for knobs, stage in missing:
        if time.monotonic() > until:
            break
        started, error = time.perf_counter(), None
        try:
            runner.run(stage)
        except DivergedError as found:
            error = found
        cost = time.perf_counter() - started
        knobs = {"name": name, "seed": seed, **knobs}
        new.append(record(RECIPE, knobs, stage, runner.storage, known_of_task, cost=cost, error=error))
    memory.append(new)
    print(f"{name}, seed {seed}: {len(new)} trainings, {sum(each.cost for each in new):.0f} s", flush=True)
    return len(new) == len(missing)


@dataclass(frozen=True)
class Table:
    """All that can be found on a task."""

    records: Sequence[Record]
    error: float = math.nan
    """Standard error of a score among the best quarter, from the seeds alone: all were judged on the same rows."""

    @classmethod
    def of(cls, cells: Sequence[Sequence[Record]]) -> Table:
        """From the trainings of each cell."""
        good = sorted(cells, key=lambda cell: -score(averaged(cell)))[: len(cells) // 4]
        variance = statistics.fmean(statistics.variance(map(score, cell)) for cell in good)
        return cls([averaged(cell) for cell in cells], math.sqrt(variance / TRAININGS))

    @property
    def best(self) -> float:
        """The best result."""
        return max(map(score, self.records))

    @property
    def good(self) -> int:
        """Configurations that end a search."""
        return sum(score(each) >= SHARE * self.best for each in self.records)

    def __getitem__(self, configuration: Configuration) -> Record:
        """The trial of a configuration."""
        return self._places[frozenset(configuration.items())]

    @cached_property
    def _places(self) -> Mapping[frozenset[tuple[str, Value]], Record]:
        return {frozenset(SPACE.active(each.configuration).items()): each for each in self.records}


def averaged(trainings: Sequence[Record]) -> Record:
    """One record for all trainings of a configuration: their mean, or diverged if one of them is."""
    first = trainings[0]
    lost = next((each for each in trainings if each.status == "failed"), None)
    if lost is not None:
        return replace(first, status="failed", error=lost.error, results={})
    return replace(first, results={"val_top1": statistics.fmean(map(score, trainings))})


def score(found: Record) -> float:
    """Validation accuracy; 0 for a training that diverged."""
    return found.results.get("val_top1", 0.0) if found.status == "done" else 0.0


def at_random(table: Table, _: Sequence[Table], seed: int) -> Iterator[Record]:
    """Without replacement."""
    order = np.random.default_rng(seed).permutation(len(table.records))
    yield from (table.records[place] for place in order)


def cold(table: Table, others: Sequence[Table], seed: int, start: Configuration | None = None) -> Iterator[Record]:
    """Optuna's TPE; what it asks for again is told again, and not yielded."""
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
    if start is not None:
        study.enqueue_trial({name: indexed(name, value) for name, value in start.items()})
    seen: list[Record] = []
    for _ in range(ASKS):
        trial = study.ask()
        found = table[SPACE.active(suggested(trial))]
        study.tell(trial, score(found))
        if found not in seen:
            seen.append(found)
            yield found
    yield from (each for each in at_random(table, others, seed) if each not in seen)


def from_defaults(table: Table, others: Sequence[Table], seed: int) -> Iterator[Record]:
    """TPE with the published defaults as its first trial."""
    return cold(table, others, seed, DEFAULTS)


def remembered(table: Table, others: Sequence[Table], seed: int) -> Iterator[Record]:
    """raykd's proposals, with all that is known of the other tasks."""
    memory = [record for other in others for record in other.records]
    own: list[Record] = []
    while len(own) < len(table.records):
        known = [*memory, *own]
        (proposal,) = propose(known, table.records[0].features, SPACE, DEFAULTS, 1, seed=seed)
        own.append(table[proposal.configuration])
        yield own[-1]


def thinly(table: Table, others: Sequence[Table], seed: int) -> Iterator[Record]:
    """The same, with some random trials of each of the other tasks."""
    generator = np.random.default_rng((seed, 1))
    few = [generator.permutation(len(other.records))[:THIN] for other in others]
    thin = [Table([other.records[i] for i in places]) for other, places in zip(others, few, strict=True)]
    return remembered(table, thin, seed)


ARMS: Mapping[str, Arm] = {
    "random": at_random, "optuna": cold, "+defaults": from_defaults, "memory16": thinly, "memory": remembered
}  # fmt: skip


def indexed(name: str, value: Value) -> Value:
    """The place of a value that has an order; a text is what it is."""
    axis = SPACE.axes[name]
    return axis.values.index(value) if isinstance(axis, Steps) else value


def suggested(trial: optuna.Trial) -> dict[str, Value]:
    """What a study asks for: only knobs that matter."""
    found: dict[str, Value] = {}
    for name, axis in SPACE.axes.items():
        if not met(axis.when, found):
            continue
        if isinstance(axis, Steps):
            found[name] = axis.values[trial.suggest_int(name, 0, len(axis.values) - 1)]
        elif isinstance(axis, Choice):
            found[name] = trial.suggest_categorical(name, list(axis.values))
    return found


def trials(arm: Arm, table: Table, others: Sequence[Table], seed: int) -> int:
    """How many until a result is good enough."""
    wanted = SHARE * table.best
    return next(count for count, each in enumerate(arm(table, others, seed), 1) if score(each) >= wanted)


def tables(folder: Path, names: Sequence[Name]) -> dict[Name, Table]:
    """Those of these tasks."""
    known = {each.fingerprint: each for each in Memory(folder).read(RECIPE.function.__name__)}
    every = {
        name: [[fingerprint(trained(name, each, seed)) for seed in range(TRAININGS)] for each in grid()]
        for name in names
    }
    return {name: Table.of([[known[each] for each in cell] for cell in cells]) for name, cells in every.items()}


@dataclass(frozen=True)
class Replays:
    """Trials that were counted before, in a file of JSON lines."""

    file: Path
    of: str
    """What they depend on: the scores, and the code that proposes."""

    @classmethod
    def on(cls, found: Mapping[Name, Table], folder: Path) -> Replays:
        """Those on these tables."""
        code = [Path(str(module.__file__)).read_text() for module in (meta, proposals, surrogate)]
        scores = {name: list(map(score, table.records)) for name, table in found.items()}
        return cls(folder / "replays.jsonl", digest([code, scores]))

    def read(self) -> dict[tuple[str, str, int], int]:
        """Trials by task, arm and seed."""
        lines = self.file.read_text().splitlines() if self.file.exists() else []
        values = [value for value in map(json.loads, lines) if value["of"] == self.of]
        return {(value["task"], value["arm"], value["seed"]): value["trials"] for value in values}

    def append(self, task: str, arm: str, seed: int, trials: int) -> None:
        """Add a line."""
        with self.file.open("a") as file:
            line = {"of": self.of, "task": task, "arm": arm, "seed": seed, "trials": trials}
            file.write(json.dumps(line) + "\n")


def replay(found: Mapping[Name, Table], seeds: int, replays: Replays, until: float) -> bool:
    """Count what was not counted yet; whether that is all."""
    known = replays.read()
    for seed, (name, table), (label, arm) in product(range(seeds), found.items(), ARMS.items()):
        if (name, label, seed) in known:
            continue
        if time.monotonic() > until:
            return False
        others = [other for each, other in found.items() if each != name]
        replays.append(name, label, seed, trials(arm, table, others, seed))
    return True


def printed(found: Mapping[Name, Table], seeds: int, replays: Replays) -> dict[Name, dict[str, list[int]]]:
    """Trials of each task, arm and seed; as a table too."""
    known = replays.read()
    counted = {name: {arm: [known[name, arm, seed] for seed in range(seeds)] for arm in ARMS} for name in found}
    print(f"{'task':18} {'best %':>7} {'error':>6} {'good':>5} " + " ".join(f"{arm:>12}" for arm in ARMS))
    for name, table in found.items():
        cells = (f"{statistics.median(each):g} ({min(each)}-{max(each)})" for each in counted[name].values())
        print(
            f"{name:18} {100 * table.best:7.2f} {100 * table.error:6.2f} {table.good:5} "
            + " ".join(f"{cell:>12}" for cell in cells)
        )
    return counted


def summary(what: str, counted: Mapping[Name, Mapping[str, Sequence[int]]]) -> None:
    """Medians of the tasks, and the ratio of the memory's to Optuna's."""
    print(f"\n{what}, {len(counted)} tasks")
    for base in ("optuna", "+defaults"):
        for arm in ("memory16", "memory"):
            ratios = [statistics.median(each[arm]) / statistics.median(each[base]) for each in counted.values()]
            print(
                f"{arm:9} / {base:9} median {statistics.median(ratios):.2f}, {min(ratios):.2f} - {max(ratios):.2f};"
                f" at most half on {sum(ratio <= 0.5 for ratio in ratios)}"
            )


def main() -> None:
    """Fill the table, replay, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="of the table, which is kept")
    parser.add_argument("--minutes", type=float, default=60.0, help="that it takes at most; the next call goes on")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--aside", action=argparse.BooleanOptionalAction, default=True, help="use the tasks kept aside")
    options = parser.parse_args()
    options.folder = options.folder.absolute()
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    until = time.monotonic() + 60 * options.minutes
    cells = product(range(TRAININGS), get_args(Name))
    if not all(fill(name, seed, options.folder, until) for seed, name in cells):
        print("the table is not complete: call again")
        return
    names = get_args(Name)
    found = tables(options.folder, names if options.aside else names[:-ASIDE])
    replays = Replays.on(found, options.folder)
    if not replay(found, options.seeds, replays, until):
        print("not every search is replayed: call again")
        return
    counted = printed(found, options.seeds, replays)
    for what, part in (("developed on", names[:-ASIDE]), ("kept aside", names[-ASIDE:]), ("all", names)):
        if all(name in counted for name in part):
            summary(what, {name: counted[name] for name in part})


if __name__ == "__main__":
    main()
