"""Several stages at once against one after the other, and against what no schedule can beat.

    python benchmarks/pipeline.py [--runs 3] [--no-real]

4 teachers and 4 candidate students, two of them taught by one, one by two, one by all.

simulated: costs are seconds of sleep.
    expected   of the timetable       1 / W     seconds on one seat over those on W seats
    bound      max(longest path, total / W): no schedule ends before
real: on digits, on a local Ray of two cores.
    two seats  `--parallel 2`: two tasks at once, one core each
    one seat   the same tasks, one at a time
    alone      `--parallel 1`: one stage after the other in the run's own process, with both cores
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import ray

from raykd import SGD, Budget, Constant, CrossEntropy, Dataset, Distill, Stage, View
from raykd.data import Affine, Digits
from raykd.methods.kl import KL
from raykd.models import CNN
from raykd.plan import plan, waits
from raykd.runtime import Display
from raykd.runtime.cluster import Cluster
from raykd.runtime.pipeline import Pipeline, bound, carry_out, labeling_s, span, timetable, training_s
from raykd.storage import Storage

TEACHERS = (0.8, 0.6, 0.4, 0.2)
STUDENTS = (0.3, 0.3, 0.5, 0.7)
SECONDS = (*TEACHERS, *STUDENTS)
PARENTS: list[set[int]] = [set(), set(), set(), set(), {0}, {1}, {2, 3}, {0, 1, 2, 3}]
SHAPE = (1, 8, 8)
ROWS = 400


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--real", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--epochs", type=int, default=60, help="of the real stages")
    options = parser.parse_args()
    simulated()
    if options.real:
        real(options.runs, options.epochs)


def simulated() -> None:
    """The table of simulated costs."""
    independent: list[set[int]] = [set() for _ in SECONDS]
    for name, parents in (("each student waits for its teachers", PARENTS), ("all are independent", independent)):
        print(f"\nsimulated, {name}: {sum(SECONDS):.1f} s of work, longest path {bound(SECONDS, parents, 99):.1f} s")
        print(f"{'W':>2} {'seconds':>8} {'expected':>9} {'bound':>6} {'1 / W':>6} {'/ bound':>8}")
        one = 0.0
        for seats in (1, 2, 3, 4, 8):
            took = slept(SECONDS, parents, seats)
            one = one or took
            expected, least = span(timetable(SECONDS, parents, seats)), bound(SECONDS, parents, seats)
            print(
                f"{seats:2} {took:8.2f} {expected:9.2f} {least:6.2f} {one / took:6.2f} {took / least:8.3f}", flush=True
            )


def slept(seconds: Sequence[float], parents: Sequence[set[int]], seats: int) -> float:
    """Wall-clock seconds of stages that sleep."""
    begun = time.perf_counter()
    with ThreadPoolExecutor(seats) as threads:
        carry_out(
            Pipeline(seconds, parents, seats),
            begin=lambda stage: threads.submit(time.sleep, seconds[stage]),
            alone=lambda stage: time.sleep(seconds[stage]),
        )
    return time.perf_counter() - begun


def stages(epochs: int) -> list[Stage]:
    """Four teachers and four candidate students on digits; two of the students are taught by all."""
    view = View(Dataset(Digits(), validation=0.2, holdout=0.2, limit=ROWS), (Affine(translate=0.1),), replicas=4)
    budget = Budget(epochs, batch_size=32, optimiser=SGD(lr=0.05))
    teachers = {
        f"teacher{width}": Stage(
            CNN(width, shape=SHAPE), 1.0 * CrossEntropy(), view, budget=budget, label=f"teacher{width}"
        )
        for width in (32, 24, 16, 12)
    }
    objective = 0.1 * CrossEntropy() + 0.9 * Distill(KL(), temperature=Constant(4.0))
    of_one = {f"of {name}": {name: teacher} for name, teacher in [*teachers.items()][:2]}
    taught = {**of_one, "of two": dict([*teachers.items()][2:]), "of all": teachers}
    return [
        Stage(CNN(8, shape=SHAPE), objective, view, above, budget=budget, label=f"student {label}")
        for label, above in taught.items()
    ]


def real(runs: int, epochs: int) -> None:
    """The table of stages that are trained."""
    written = stages(epochs)
    cores = 2
    ray.init(address="local", num_cpus=cores, include_dashboard=False, log_to_driver=False)
    with tempfile.TemporaryDirectory() as folder:  # Ray's workers are up, and have imported what they need
        made(tuple(replace(each, budget=Budget(1)) for each in stages(1)), Path(folder), cores, tasks=True)
    steps = [step for step in plan(written, Storage(Path("/nowhere"))).steps if isinstance(step.network, Stage)]
    order = [step.network for step in steps if isinstance(step.network, Stage)]
    expected = [labeling_s(step) + training_s(step) for step in steps]
    print(f"\nreal: {len(order)} stages of {epochs} epochs on {cores} cores; seconds, medians of {runs} rounds")
    found: dict[str, list[float]] = {"two seats": [], "one seat": [], "alone": []}
    ratios = []
    for _ in range(runs):
        for name, seats, tasks in (("two seats", 2, True), ("one seat", 1, True), ("alone", 1, False)):
            with tempfile.TemporaryDirectory() as folder:
                took, each = made(written, Path(folder), seats, tasks=tasks)
            found[name].append(took)
            if name == "one seat":
                least = bound([each[str(stage)] for stage in order], waits(order), 2)
                ratios.append((found["one seat"][-1] / found["two seats"][-1], found["two seats"][-1] / least))
    for name, seconds in found.items():
        print(f"{name:10} {statistics.median(seconds):7.1f}   {min(seconds):.1f} - {max(seconds):.1f}")
    speedup, above = (statistics.median(each) for each in zip(*ratios, strict=True))
    print(f"one seat / two seats {speedup:.2f}, two seats / bound {above:.3f} (of the stages' seconds on one seat)")
    one, two = (span(timetable(expected, waits(order), seats)) for seats in (1, 2))
    print(f"the cost model expects {one / two:.2f}")
    ray.shutdown()


class OneByOne(Cluster):
    """Makes also what is alone as a task, so that one seat and two differ in nothing but their number."""

    def make(self, stage: Stage, todo: Sequence[Stage]) -> None:
        """On a seat."""
        with self.beside(2, todo) as make:
            make(stage)


def made(written: Sequence[Stage], folder: Path, seats: int, *, tasks: bool) -> tuple[float, dict[str, float]]:
    """Wall-clock seconds of making the stages, and of each."""
    kind = OneByOne if tasks else Cluster
    runner = kind(Storage(folder), Display(quiet=True), parallel=seats, any_teacher=True)
    runner._own = True  # noqa: SLF001  what is made alone is trained in this process, as on a Ray of the run's own
    each: dict[str, float] = {}
    make = runner.make

    def timed(stage: Stage, todo: Sequence[Stage]) -> None:
        begun = time.perf_counter()
        make(stage, todo)
        each[str(stage)] = time.perf_counter() - begun

    runner.make = timed  # type: ignore[method-assign]
    begun = time.perf_counter()
    runner.run(*written)
    return time.perf_counter() - begun, each


if __name__ == "__main__":
    main()
