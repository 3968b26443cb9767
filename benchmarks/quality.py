"""Is the distilled student better than the same student alone? Equal budgets, several seeds, one table.

    python benchmarks/quality.py --job digits --seeds 5

The teacher is trained once, so the interval is that of the student's seed: initial weights and the order of rows. Seeds are
paired: alone and distilled start from the same weights and see the same rows in the same order.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.stats import t as student_t  # type: ignore[import-untyped]  # comes with scikit-learn

from raykd.recipes import load
from raykd.runtime import Display, Local, Trained
from raykd.storage import Storage

JOBS = Path(__file__).parents[1] / "jobs"
LEVEL = 0.95


@dataclass(frozen=True)
class Difference:
    """Mean of paired differences and half the width of its confidence interval."""

    mean: float
    half_width: float

    @property
    def verdict(self) -> int:
        """1 above zero, -1 below, 0 if the interval has zero in it."""
        return int(self.mean - self.half_width > 0) - int(self.mean + self.half_width < 0)


def difference(distilled: Sequence[float], alone: Sequence[float]) -> Difference:
    """Student's t interval of the mean of `distilled - alone`; needs two pairs."""
    paired = np.subtract(distilled, alone)
    standard_error = paired.std(ddof=1) / np.sqrt(len(paired))
    half_width = student_t.ppf((1 + LEVEL) / 2, len(paired) - 1) * standard_error
    return Difference(float(paired.mean()), float(half_width))


def compare(job: str, seeds: int, storage: Path) -> tuple[Trained, list[Trained], list[Trained]]:
    """The teacher, the students alone and the students distilled, by seed."""
    runner = Local(Storage(storage.absolute()), Display(quiet=True))
    stages = [load(f"{JOBS / job}.py:kd").stage(seed=seed) for seed in range(seeds)]
    distilled = runner.run(*stages)
    alone = runner.run(*(stage.alone() for stage in stages))
    (teacher,) = runner.run(load(f"{JOBS / job}.py:teacher").stage())
    return teacher, alone, distilled


def column(trained: Sequence[Trained], metric: str) -> list[float]:
    """One metric of several networks."""
    return [network.metrics[metric] for network in trained]


def report(job: str, teacher: Trained, alone: Sequence[Trained], distilled: Sequence[Trained]) -> None:
    """Print the table, then what it says."""
    top1 = difference(column(distilled, "test_top1"), column(alone, "test_top1"))
    nll = difference(column(distilled, "test_nll"), column(alone, "test_nll"))
    grid = Table("", "network", "top-1 %", "NLL", title=f"{job}, test split, mean of {len(alone)} seeds")
    for role, rows in (("teacher", [teacher]), ("student alone", alone), ("student distilled", distilled)):
        mean_top1, mean_nll = (np.mean(column(rows, metric)) for metric in ("test_top1", "test_nll"))
        grid.add_row(role, str(rows[0].stage.student), f"{100 * mean_top1:.2f}", f"{mean_nll:.4f}")
    grid.add_row(
        "distilled - alone",
        f"{LEVEL:.0%} interval",
        f"{100 * top1.mean:+.2f} ± {100 * top1.half_width:.2f}",
        f"{nll.mean:+.4f} ± {nll.half_width:.4f}",
    )
    console = Console(width=100)
    console.print(grid)
    console.print(f"distilled and teacher agree on {np.mean(column(distilled, 'agreement')):.1%} of the test rows")
    words = {1: "gained", 0: "nothing gained: the interval has zero in it", -1: "lost"}
    console.print(f"top-1: {words[top1.verdict]}\nNLL: {words[-nll.verdict]}", markup=False)


def main() -> None:
    """Train what the storage lacks, print the table."""
    parser = argparse.ArgumentParser(description="distilled against alone, at equal budgets")
    parser.add_argument("--job", choices=["digits", "fashion"], default="digits")
    parser.add_argument("--seeds", type=int, default=5, help="at least 2, for an interval")
    parser.add_argument("--storage", type=Path, help="kept, and what is in it is not done again; default: temporary")
    chosen = parser.parse_args()
    if chosen.seeds < 2:
        parser.error(f"--seeds {chosen.seeds}: at least 2, for an interval")
    with tempfile.TemporaryDirectory() as temporary:
        report(chosen.job, *compare(chosen.job, chosen.seeds, chosen.storage or Path(temporary)))


if __name__ == "__main__":
    main()
