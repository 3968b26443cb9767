"""What a sweep costs when no teacher runs in it: trials that read the cache against trials that ask the teacher at every step.

    python benchmarks/sweep.py [--trials 16] [--online 4] [--rows 12000] [--epochs 3] [--width 4] [--at-once 2]

Both sweeps draw the same configurations of `jobs/fashion.py:kd` and run them through `raykd search`'s own machinery, one on
each core, with nothing stopped early: where cores are idle, a teacher that is asked takes nothing from anybody. The online one
is measured on a part of the trials, and extrapolated by their number; both figures are printed. The ceiling is what FLOPs
promise: 1 + F_t / (3 F_s), F of a forward pass of teacher and student. Teachers are trained, and the first fill is done, before
the clock runs; the fill is shown beside it.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import ray

from raykd import Stage, recipes
from raykd.models import size
from raykd.recipes import Recipe
from raykd.runtime import Display
from raykd.runtime.cluster import Cluster
from raykd.search import space_of
from raykd.search.search import Found, Search
from raykd.search.tune import Resources, search
from raykd.storage import Storage

JOB = Path(__file__).parents[1] / "jobs" / "fashion.py"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--online", type=int, default=4, help="trials of the online sweep")
    parser.add_argument("--rows", type=int, default=12_000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--width", type=int, default=4, help="of the student; the teacher's is 16")
    parser.add_argument("--at-once", type=int, default=2, help="trials, each with a core")
    options = parser.parse_args()
    given = {"rows": options.rows, "epochs": options.epochs, "width": options.width}
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        started = time.perf_counter()
        cached, runner = sweep(recipes.load(f"{JOB}:kd"), given, options.trials, options.at_once, root)
        filled, labeling = dict(runner.counts.teacher_rows), runner.counts.seconds["label"]
        print(f"first fill: {filled} teacher rows, {labeling:.1f} s of labeling")
        print(f"whole command: {time.perf_counter() - started:.1f} s, teachers' training included")
        print(f"teacher rows in the {len(cached.tried)} trials: {sum(each.teacher_rows for each in cached.tried)}")
        online, _ = sweep(asking(), given, options.online, options.at_once, root)
        report(cached, online, options.trials, options.at_once)
    ray.shutdown()


def sweep(recipe: Recipe, given: dict[str, int], trials: int, at_once: int, root: Path) -> tuple[Found, Cluster]:
    """Draws of a seed, so that both sweeps have the same ones."""
    runner = Cluster(Storage(root / "storage"), Display(quiet=True))
    drawn = Search(recipe, space_of(recipe), trials=trials, given=given, searcher="random", scheduler="none")
    return search(drawn, runner, resources=Resources(at_once=at_once), state=root / "state", memory=False), runner


def asking() -> Recipe:
    """The same recipe, whose trials ask the teacher at every step."""
    recipe = recipes.load(f"{JOB}:kd")

    def kd(
        tau: float = 2.0, alpha: float = 0.9, lr: float = 0.2, rows: int = 12_000, epochs: int = 3, width: int = 4
    ) -> Stage:
        return replace(recipe.stage(tau=tau, alpha=alpha, lr=lr, rows=rows, epochs=epochs, width=width), cache="off")

    vars(kd)["space"] = space_of(recipe)
    return Recipe(f"{JOB}:kd online", kd)


def report(cached: Found, online: Found, trials: int, at_once: int) -> None:
    """The two sweeps beside each other."""
    default = cached.search.default
    ceiling = 1 + size(default.teachers["teacher"].architecture).flops / (3 * size(default.student).flops)
    seconds = [[each.seconds for each in found.tried] for found in (cached, online)]
    whole = sum(seconds[0]) / at_once, statistics.mean(seconds[1]) * trials / at_once
    for name, taken in zip(("cached", "online"), seconds, strict=True):
        print(
            f"{name}: {len(taken)} trials, median {statistics.median(taken):.2f} s ({min(taken):.2f} - {max(taken):.2f}),"
            f" {at_once} at once: {sum(taken) / at_once:.1f} s"
        )
    print(f"{trials} trials online, extrapolated: {whole[1]:.1f} s")
    print(
        f"online / cached: {whole[1] / whole[0]:.2f}; ceiling {ceiling:.2f}; share of it {whole[1] / whole[0] / ceiling:.2f}"
    )


if __name__ == "__main__":
    main()
