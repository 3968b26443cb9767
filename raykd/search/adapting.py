"""Finding out what the configuration manager decides: short runs, the gate, the winner in full, and the memory of all of it.

    <root>/adaptive/<fingerprint>/<round>.json       what a round proposed and why, written before any of it is tried
    <root>/adaptive/<fingerprint>/lost-<stage>.json  the error that ended a short run

What was proposed once stays proposed, whatever the memory learns later, and all else follows from what lies on the storage: so
a run that was killed goes on where it was, and a second one computes nothing and ends the same.

A short run is a task of its own to the memory, the same data trained for fewer epochs: its results are compared with those of
short runs, and full ones are those of a task that is much alike [interpretation].
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

from raykd.identity import fingerprint
from raykd.places import Place, place
from raykd.plan import needed
from raykd.runtime.runner import Runner
from raykd.runtime.selecting import resolve as select
from raykd.runtime.trained import Trained
from raykd.search.adaptive import Adaptive
from raykd.search.axes import Configuration
from raykd.search.memory import Memory
from raykd.search.meta import Features, features
from raykd.search.proposals import propose
from raykd.search.record import Record, record
from raykd.selection import Selection, cheapest
from raykd.stage import Stage
from raykd.storage import Storage, read_json
from raykd.training.loop import DivergedError

METRIC = "val_top1"


@dataclass(frozen=True)
class Tried:
    """A configuration that was proposed."""

    configuration: Configuration
    reason: str
    """Where it came from, for people."""
    round: int
    """0: before the manager said anything."""
    stage: Stage
    """Its short run."""
    value: float | None = None
    """Validation accuracy after the short run; None without a result."""
    seconds: float = 0.0
    """Of training."""
    error: str = ""
    """What ended it."""
    taken: bool = False

    @property
    def over(self) -> bool:
        """Whether it has a result, or will have none."""
        return self.value is not None or bool(self.error)


def resolve(adaptive: Adaptive, runner: Runner, *, speculative: int = 1, baseline: bool = False) -> Trained:
    """The stage that the manager decides for, made real.

    `speculative`: as in `selecting.resolve`. `baseline`: make the same student without teachers, to compare.

    Raises what the runner raises; a short run that diverges is only a bad one, unless all do.
    """
    storage = runner.storage
    with storage.held(), runner.session() if settled(adaptive, storage) is None else nullcontext():
        configuration = _decide(adaptive, runner)
        written = adaptive.written(configuration)
        first = cheapest(written)
        started = time.perf_counter()

        def remember(stage: Stage, error: DivergedError | None = None) -> None:
            cost = time.perf_counter() - started
            _remember(adaptive, storage, [_record(adaptive, configuration, stage, storage, cost=cost, error=error)])

        try:
            trained = select(
                written if isinstance(written, Selection) else Selection((written,)),
                runner,
                speculative=speculative,
                beside=[first.alone()] if baseline and first.teachers else [],
            )
        except DivergedError as error:
            remember(first, error)
            raise
        remember(trained.stage)
    return trained


def compared(adaptive: Adaptive, storage: Storage) -> list[Tried]:
    """What was proposed so far, in that order, and what came of it."""
    found = [_tried(adaptive, adaptive.defaults, "published defaults", 0, storage)]
    for number, proposals in enumerate(_rounds(adaptive, storage), 1):
        found += [_tried(adaptive, each, reason, number, storage) for each, reason in proposals]
    winner = _winner(adaptive, found, storage)
    return [replace(each, taken=each is winner) for each in found]


def settled(adaptive: Adaptive, storage: Storage) -> Stage | Selection | None:
    """What the manager decided for, by what is on the storage; None if more must be tried to tell."""
    winner = next((each for each in compared(adaptive, storage) if each.taken), None)
    return None if winner is None else adaptive.written(winner.configuration)


def passes(adaptive: Adaptive, defaults: float | None, others: Sequence[float]) -> bool:
    """The gate: whether what was proposed is worth a full run, by what short ones gave."""
    return bool(others) and (defaults is None or max(others) >= adaptive.threshold * defaults)


def _decide(adaptive: Adaptive, runner: Runner) -> Configuration:
    """Try until there is a winner: its configuration."""
    storage = runner.storage
    while True:
        found = compared(adaptive, storage)
        if todo := [each.stage for each in found if not each.over]:
            started = time.perf_counter()
            _make(adaptive, todo, runner)
            cost = (time.perf_counter() - started) / len(todo)
            made = [_tried(adaptive, each.configuration, each.reason, each.round, storage) for each in found]
            _remember(adaptive, storage, _records(adaptive, made, storage, dict.fromkeys(map(fingerprint, todo), cost)))
            continue
        if winner := next((each for each in found if each.taken), None):
            return winner.configuration
        if _finished(adaptive, found, storage):
            raise DivergedError(f"all {len(found)} short runs of {adaptive} diverged; the last one: {found[-1].error}")
        _propose(adaptive, found, storage)


def _propose(adaptive: Adaptive, found: Sequence[Tried], storage: Storage) -> None:
    """Write down the next round, unless somebody has."""
    count = min(adaptive.proposals - 1, adaptive.most - len(found))
    mine = _records(adaptive, found, storage)
    names = {each.fingerprint for each in mine}
    past = Memory(storage.root).read(adaptive.recipe.function.__name__) if adaptive.memory else []
    proposals = propose(
        [*mine, *(each for each in past if each.fingerprint not in names)],
        _short(adaptive, _features(adaptive, storage)),
        adaptive.space,
        adaptive.defaults,
        count,
        seed=adaptive.seed,
    )
    content = {
        "features": _features(adaptive, storage),
        "proposals": [{"configuration": dict(each.configuration), "reason": each.reason} for each in proposals],
    }
    number = len(_rounds(adaptive, storage)) + 1
    _folder(adaptive, storage).create(f"{number}.json", json.dumps(content, indent=1, sort_keys=True).encode())


def _make(adaptive: Adaptive, todo: Sequence[Stage], runner: Runner) -> None:
    """The short runs, several at once if the runner can; notes which of them diverged."""
    storage = runner.storage
    try:
        runner.run(*todo)
        return
    except DivergedError:
        pass  # some of them may be as good as any: which one it was is found one by one
    for stage in todo:
        try:
            runner.run(stage)
        except DivergedError as error:
            if any(isinstance(each, Stage) and storage.result(each) is None for each in needed(stage).values()):
                raise  # a teacher, which no configuration is to blame for
            words = " ".join(f"{type(error).__name__}: {error}".split())
            _folder(adaptive, storage).create(_lost(stage), json.dumps({"error": words}).encode())


def _tried(adaptive: Adaptive, configuration: Configuration, reason: str, number: int, storage: Storage) -> Tried:
    stage = adaptive.brief(configuration)
    result = storage.result(stage)
    if result is None:
        failed = read_json(storage.root / "adaptive" / adaptive.name / _lost(stage))
        return Tried(configuration, reason, number, stage, error=str(failed.get("error", "?")) if failed else "")
    value, seconds = float(result["metrics"][METRIC]), float(result["seconds"])
    return Tried(configuration, reason, number, stage, value, seconds)


def _winner(adaptive: Adaptive, found: Sequence[Tried], storage: Storage) -> Tried | None:
    """The first of the best, if all is over that is to be tried."""
    if not all(each.over for each in found) or not _finished(adaptive, found, storage):
        return None
    return max((each for each in found if each.value is not None), key=lambda each: each.value or 0.0, default=None)


def _finished(adaptive: Adaptive, found: Sequence[Tried], storage: Storage) -> bool:
    """Whether no more is to be proposed: the gate is passed, or there is no more to propose."""
    rounds = _rounds(adaptive, storage)
    if len(found) >= adaptive.most or (rounds and not rounds[-1]):
        return True
    defaults, *others = (each.value for each in found)
    return bool(rounds) and passes(adaptive, defaults, [value for value in others if value is not None])


def _rounds(adaptive: Adaptive, storage: Storage) -> list[list[tuple[Configuration, str]]]:
    """The proposals of each round. Raises `ValueError` for a file that holds anything else."""
    found: list[list[tuple[Configuration, str]]] = []
    while (content := _round(adaptive, storage, len(found) + 1)) is not None:
        try:
            proposals: list[tuple[Configuration, str]] = [
                (dict(each["configuration"]), str(each["reason"])) for each in content["proposals"]
            ]
            for configuration, _ in proposals:
                adaptive.space.check(configuration)
        except (TypeError, KeyError, ValueError) as error:
            path = storage.root / "adaptive" / adaptive.name / f"{len(found) + 1}.json"
            raise ValueError(
                f"{path} holds no proposals of {adaptive} ({type(error).__name__}: {error}): remove it"
            ) from error
        found.append(proposals)
    return found


def _round(adaptive: Adaptive, storage: Storage, number: int) -> dict[str, list[dict[str, Configuration]]] | None:
    return read_json(storage.root / "adaptive" / adaptive.name / f"{number}.json")


def _features(adaptive: Adaptive, storage: Storage) -> Features:
    """Of the task, as they were when the manager first asked for them: more may be known later."""
    first = read_json(storage.root / "adaptive" / adaptive.name / "1.json")
    if first is None:
        return features(adaptive.first, storage)
    told = first.get("features")
    if not isinstance(told, dict) or not all(isinstance(value, int | float) for value in told.values()):
        raise ValueError(
            f"{storage.root / 'adaptive' / adaptive.name / '1.json'} holds no features of a task: remove it"
        )
    return told


def _short(adaptive: Adaptive, task: Features) -> dict[str, float]:
    """The task of a short run."""
    return {**task, "epochs": float(adaptive.epochs)}


def _records(
    adaptive: Adaptive, found: Sequence[Tried], storage: Storage, costs: Mapping[str, float] | None = None
) -> list[Record]:
    """Of the short runs that are over."""
    return [
        _record(
            adaptive,
            each.configuration,
            each.stage,
            storage,
            cost=(costs or {}).get(fingerprint(each.stage), each.seconds),
            short=True,
            words=each.error,
        )
        for each in found
        if each.over
    ]


def _record(
    adaptive: Adaptive, configuration: Configuration, stage: Stage, storage: Storage, *,
    cost: float, error: DivergedError | None = None, short: bool = False, words: str = "",
) -> Record:  # fmt: skip
    task = _features(adaptive, storage)
    knobs = {**adaptive.knobs, **configuration}
    found = record(
        adaptive.recipe, knobs, stage, storage, _short(adaptive, task) if short else task, cost=cost, error=error
    )
    if words:
        return replace(found, status="failed", error=words)
    return replace(found, status="stopped") if short else found


def _remember(adaptive: Adaptive, storage: Storage, records: Sequence[Record]) -> None:
    """Add what the memory does not have."""
    if not adaptive.memory:
        return
    memory = Memory(storage.root)
    there = {(each.fingerprint, each.status) for each in memory.read(adaptive.recipe.function.__name__)}
    memory.append([each for each in records if (each.fingerprint, each.status) not in there])


def _folder(adaptive: Adaptive, storage: Storage) -> Place:
    return place(storage.root).inner(f"adaptive/{adaptive.name}")


def _lost(stage: Stage) -> str:
    return f"lost-{fingerprint(stage)}.json"
