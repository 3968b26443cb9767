"""Is HPM-KD better than plain distillation that was searched for as long? Equal budgets, ablations, several seeds, one table.

    python benchmarks/hpm.py --job digits --folder /tmp/hpm [--seeds 5]          run again, it continues

student alone      lr and weight decay, by draws; the published defaults first
tuned KD           `hpm` with all components off: tau, alpha, lr and weight decay, by draws; the published defaults first
hpm                all components
without ...        one of them off; without the manager it is the published defaults through a chain

What hpm trains of students and links, short runs too, in epochs, is what each of the two searches may train, rounded up to
whole trainings: as an epoch of a link costs more than one of the student, `work` is the same with each epoch weighed by its
network's FLOPs over the student's. A short run that is continued counts once. Teachers are there before, once, for all.

The memory that the manager begins with holds short runs of the other job's task, the defaults and draws, in the ablation's
own setting; it is the same for every seed, as if none of the others had been. What filled it is not counted. Each seed is a
whole search: the student's weights and order, the draws and the manager's are all of that seed. All choices are made on
validation, and the test split is, on digits, that of a cut of the rows which no earlier choice has seen.
"""

from __future__ import annotations

import argparse
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from quality import JOBS, LEVEL, Difference, difference

from raykd import Stage
from raykd.identity import fingerprint
from raykd.models import size
from raykd.plan import plan
from raykd.recipes import Recipe, load
from raykd.runtime import Display, Local, Trained
from raykd.runtime.selecting import resolve as select
from raykd.search import Adaptive, Space, searched, space_of
from raykd.search.adapting import compared, resolve, settled
from raykd.search.axes import Configuration
from raykd.search.memory import Memory
from raykd.search.meta import features
from raykd.search.record import Record, record
from raykd.selection import Selection
from raykd.stage import Pretrained
from raykd.storage import Storage
from raykd.training.loop import DivergedError

Job = Literal["digits", "fashion"]

DIGITS, FASHION = (load(f"{JOBS / job}.py:hpm") for job in ("digits", "fashion"))
SWITCHES = ("chain", "attention", "temperature")
OFF = dict.fromkeys(SWITCHES, False)
PAST, SHORT_RUNS = 1000, 12  # seed and number of what fills a memory; a forest needs 8
KD = "tuned KD"


@dataclass(frozen=True)
class Arm:
    """HPM-KD with some of its components."""

    off: str = ""
    """The one that it lacks."""

    @property
    def switches(self) -> dict[str, bool]:
        """Those of the stage."""
        return {name: name != self.off for name in SWITCHES}

    @property
    def memory(self) -> bool:
        """Whether the manager remembers."""
        return self.off not in ("memory", "adaptive")


ARMS = {"hpm": Arm(), **{f"without {off}": Arm(off) for off in ("adaptive", *SWITCHES, "memory")}}


@dataclass(frozen=True)
class Result:
    """What an arm ended with, for one seed."""

    trained: Trained
    epochs: int
    """Trained for it, all students and links."""
    work: float
    """The same in epochs of the student that cost as much."""
    told: str
    """What was chosen."""


@searched(**space_of(DIGITS).axes)
def digits(
    chain: bool = True, attention: bool = True, temperature: bool = True, tau: float = 4.0, alpha: float = 0.9,
    weight_decay: float = 5e-4, epsilon: float = 0.005, lr: float = 0.1, epochs: int = 120, seed: int = 0,
) -> Stage | Selection:  # fmt: skip
    """`jobs/digits.py:hpm` on a cut of the rows that is no other's: teachers of 539 rows, a student of 100."""
    return moved(DIGITS.written(adaptive=False, **locals()), cut_anew)


@searched(**space_of(FASHION).axes)
def fashion(
    chain: bool = True, attention: bool = True, temperature: bool = True, tau: float = 2.0, alpha: float = 0.9,
    weight_decay: float = 5e-4, epsilon: float = 0.005, lr: float = 0.2, epochs: int = 20, seed: int = 0,
) -> Stage | Selection:  # fmt: skip
    """`jobs/fashion.py:hpm` of teachers half as wide: 8,000 rows for them, 1,000 for the student, 2,000 to choose by."""
    knobs = {**locals(), "rows": 1000, "width": 16}
    return moved(FASHION.written(adaptive=False, **knobs), made_small)


RECIPES = {name: Recipe(name, function) for name, function in (("digits", digits), ("fashion", fashion))}


def cut_anew(stage: Stage) -> Stage:
    """On a cut into train, validation and test that no choice has seen."""
    return replace(stage, view=replace(stage.view, dataset=replace(stage.view.dataset, seed=3)))


def made_small(stage: Stage) -> Stage:
    """Fewer rows, and for few of them small batches."""
    dataset = replace(stage.view.dataset, validation=1 / 30)
    if dataset.limit is None:
        return replace(stage, view=replace(stage.view, dataset=replace(dataset, limit=8000)))
    return replace(stage, view=replace(stage.view, dataset=dataset), budget=replace(stage.budget, batch_size=32))


def moved(written: Stage | Selection, to: Callable[[Stage], Stage]) -> Stage | Selection:
    """The same elsewhere, teachers and links too."""
    if isinstance(written, Selection):
        return replace(written, candidates=tuple(_moved(each, to) for each in written.candidates))
    return _moved(written, to)


def _moved(stage: Stage, to: Callable[[Stage], Stage]) -> Stage:
    teachers: dict[str, Stage | Pretrained] = {
        name: _moved(each, to) if isinstance(each, Stage) else each for name, each in stage.teachers.items()
    }
    return to(replace(stage, teachers=teachers))


@dataclass(frozen=True)
class Study:
    """One job, its teachers and all that was trained of it."""

    job: Job
    folder: Path
    given: Configuration
    """Knobs that differ from the recipe's."""

    @property
    def recipe(self) -> Recipe:
        """What writes its stages."""
        return RECIPES[self.job]

    @property
    def runner(self) -> Local:
        """On the job's own storage."""
        return Local(Storage((self.folder / self.job).absolute()), Display(quiet=True))

    @property
    def space(self) -> Space:
        """What is searched."""
        return space_of(self.recipe)

    def plain(self, seed: int, configuration: Configuration | None = None) -> Stage:
        """All components off."""
        return self.recipe.stage(**OFF, **self.given, seed=seed, **(configuration or {}))

    def adaptive(self, arm: Arm, seed: int) -> Adaptive:
        """The arm's manager."""
        fixed = (*SWITCHES, *(("epsilon",) if arm.off == "chain" else ()))
        knobs = {**arm.switches, **self.given, "seed": seed}
        return Adaptive(self.recipe.function, knobs, fixed=fixed, memory=arm.memory, seed=seed)

    def hpm(self, arm: Arm, seed: int, past: Study) -> Result:
        """An arm of HPM-KD; `past` is what its memory knows."""
        runner = self.runner
        if arm.off == "adaptive":
            written = self.recipe.written(**arm.switches, **self.given, seed=seed)
            assert isinstance(written, Selection)
            return self._result(select(written, runner), used(written, runner), "defaults")
        adaptive = self.adaptive(arm, seed)
        shutil.rmtree(runner.storage.root / "memory", ignore_errors=True)
        if arm.memory:
            name = self.recipe.function.__name__
            Memory(runner.storage.root).append(replace(each, recipe=name) for each in past.learned(arm))
        trained = resolve(adaptive, runner)
        tried = compared(adaptive, runner.storage)
        (taken,) = (each for each in tried if each.taken)
        found = settled(adaptive, runner.storage)
        assert found is not None
        made = [*(each.stage for each in tried), *used(found, runner)]
        return self._result(trained, made, f"{shown(taken.configuration)} ({taken.reason}; {len(tried)} short runs)")

    def learned(self, arm: Arm) -> list[Record]:
        """What short runs of the defaults and of draws found here, with the components of an arm."""
        adaptive, runner = self.adaptive(arm, PAST), self.runner
        tried = [adaptive.defaults, *adaptive.space.samples(PAST, SHORT_RUNS - 1)]
        made = [(each, adaptive.brief(each)) for each in tried]
        ran(runner, [stage for _, stage in made])
        task = {**features(adaptive.first, runner.storage), "epochs": float(adaptive.epochs)}
        records = (
            record(self.recipe, {**adaptive.knobs, **each}, stage, runner.storage, task, cost=0.0)
            for each, stage in made
            if runner.storage.result(stage) is not None
        )
        return [replace(each, status="stopped") for each in records]

    def drawn(self, seed: int, trainings: int, *, alone: bool) -> Result:
        """The best of so many trainings by draws."""
        others = ("tau", "alpha", "epsilon") if alone else ("epsilon",)
        defaults = self.space.defaults(self.recipe)
        space = self.space.given(**{name: defaults[name] for name in others})
        tried = [space.defaults(self.recipe), *space.samples(seed, trainings - 1)]
        stages = [self.plain(seed, each) for each in tried]
        stages = [each.alone() for each in stages] if alone else stages
        made = ran(self.runner, stages)
        best = max(made, key=lambda each: each.metrics["val_top1"])
        place = [fingerprint(each) for each in stages].index(fingerprint(best.stage))
        return self._result(best, stages, f"{shown(tried[place])} (number {place + 1} of {trainings})")

    def untuned(self, seed: int) -> Result:
        """Plain distillation with the published defaults."""
        stage = self.plain(seed)
        return self._result(self.runner.run(stage)[0], [stage], "defaults")

    def _result(self, trained: Trained, made: Sequence[Stage], told: str) -> Result:
        """`made`: what it took, teachers aside."""
        epochs: dict[str, tuple[Stage, int]] = {}
        for stage in made:
            whole = fingerprint(replace(stage, budget=replace(stage.budget, until=None)))
            longest = max(epochs.get(whole, (stage, 0))[1], stage.budget.trained)
            epochs[whole] = stage, longest
        flops = size(trained.stage.student).flops
        work = sum(size(stage.student).flops / flops * count for stage, count in epochs.values())
        return Result(trained, sum(count for _, count in epochs.values()), work, told)


def used(written: Stage | Selection, runner: Local) -> list[Stage]:
    """Students and links of the candidates that it takes to decide, the rejected one included."""
    selection = written if isinstance(written, Selection) else Selection((written,))
    teachers = {fingerprint(each) for each in selection.candidates[0].teachers.values()}
    made, accuracies = list[Stage](), list[float]()
    while selection.chosen(accuracies) is None:
        candidate = selection.candidates[len(accuracies)]
        accuracies.append(runner.run(candidate)[0].metrics[selection.metric])
        made += [each.network for each in plan([candidate], runner.storage).steps if isinstance(each.network, Stage)]
    return [each for each in made if fingerprint(each) not in teachers]


def ran(runner: Local, stages: Sequence[Stage]) -> list[Trained]:
    """Those that did not diverge."""
    made = []
    for stage in stages:
        try:
            made += runner.run(stage)
        except DivergedError:
            continue  # a draw that is no good
    return made


def shown(configuration: Configuration) -> str:
    """A configuration, for people."""
    return ", ".join(f"{name} {value:.3g}" for name, value in configuration.items())


def studied(study: Study, past: Study, seed: int) -> dict[str, Result]:
    """All arms of one seed, told as they come."""

    def tell(name: str, result: Result) -> None:
        found[name] = result
        metrics = result.trained.metrics
        print(
            f"seed {seed}, {name}: validation {100 * metrics['val_top1']:.2f}, test {100 * metrics['test_top1']:.2f},"
            f" {result.epochs} epochs, {result.trained.stage}: {result.told}",
            flush=True,
        )

    found: dict[str, Result] = {}
    tell("hpm", study.hpm(ARMS["hpm"], seed, past))
    full = study.plain(seed).budget.trained
    trainings = math.ceil(found["hpm"].epochs / full)
    tell("student alone", study.drawn(seed, trainings, alone=True))
    tell("KD, untuned", study.untuned(seed))
    tell(KD, study.drawn(seed, trainings, alone=False))
    for name, arm in ARMS.items():
        if name not in found:
            tell(name, study.hpm(arm, seed, past))
    return found


def report(study: Study, found: Sequence[Mapping[str, Result]]) -> None:
    """Print the table."""
    stage = study.plain(0)
    teachers = [each for each in stage.teachers.values() if isinstance(each, Stage)]
    largest, *_ = made = study.runner.run(*sorted(teachers, key=lambda each: -size(each.student).parameters))
    large, small = (size(each).parameters for each in (largest.stage.student, stage.student))
    top1 = largest.metrics["test_top1"]
    said = ", ".join(
        f"{each.stage.student} {100 * each.metrics['test_top1']:.2f} / {each.metrics['test_nll']:.4f}" for each in made
    )
    print(f"\n{study.job}, test split, {len(found)} seeds, {LEVEL:.0%} intervals; teachers, top-1 % / NLL: {said}")
    print(f"student {stage.student}: {small:,} parameters, {large / small:.1f} times smaller than {large:,}\n")
    print("| arm | top-1 % | NLL | top-1 - tuned KD | NLL - tuned KD | top-1 - hpm | epochs | work | retention % |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in ("student alone", "KD, untuned", KD, *ARMS):
        cells = [told(metric, found, name, against) for against in ("", KD) for metric in ("test_top1", "test_nll")]
        cells.append(told("test_top1", found, name, "hpm"))
        epochs, work = ([getattr(each[name], cost) for each in found] for cost in ("epochs", "work"))
        retention = 100 * float(np.mean(values("test_top1", found, name))) / top1
        print(f"| {name} | {' | '.join(cells)} | {np.mean(epochs):.0f} | {np.mean(work):.0f} | {retention:.1f} |")


def told(metric: str, found: Sequence[Mapping[str, Result]], name: str, against: str) -> str:
    """Mean and half an interval of a metric, or of its paired difference to another arm."""
    if name == against:
        return ""
    mine = values(metric, found, name)
    theirs = values(metric, found, against) if against else [0.0] * len(mine)
    gap = difference(mine, theirs) if len(mine) > 1 else Difference(float(np.subtract(mine, theirs)[0]), math.nan)
    sign = "+" if against else ""
    if metric == "test_top1":
        return f"{100 * gap.mean:{sign}.2f} ± {100 * gap.half_width:.2f}"
    return f"{gap.mean:{sign}.4f} ± {gap.half_width:.4f}"


def values(metric: str, found: Sequence[Mapping[str, Result]], name: str) -> list[float]:
    """A metric of an arm, by seed."""
    return [each[name].trained.metrics[metric] for each in found]


def main() -> None:
    """Train what the folder lacks, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--job", choices=["digits", "fashion"], default="digits")
    parser.add_argument("--seeds", type=int, default=5, help="at least 2, for an interval")
    parser.add_argument("--folder", type=Path, required=True, help="kept, and what is in it is not done again")
    parser.add_argument("--epochs", type=int, help="of a whole training; the recipe's by default")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    given = {} if chosen.epochs is None else {"epochs": chosen.epochs}
    past: Job = "fashion" if chosen.job == "digits" else "digits"
    study, memory = Study(chosen.job, chosen.folder, given), Study(past, chosen.folder, given)
    report(study, [studied(study, memory, seed) for seed in range(chosen.seeds)])


if __name__ == "__main__":
    main()
