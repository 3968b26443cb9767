"""What a token takes in the cache, and what it costs to keep less of it: perplexity of students of one teacher.

    python benchmarks/text.py [--ray | --local] [--seeds 3] [--epochs 4] [--files "books/*.txt"] [--storage FOLDER]

All arms are `jobs/text.py:kd`, a token is a byte: the same teacher, rows, steps and seeds, and only the cache differs. Bytes
are those on disk, row ids and checksums included, over the tokens that the teacher answers. Perplexity is of the validation
split, which also chooses the epoch; gap is how much higher it is than with every logit kept, on average over the seeds. What
is in the storage is not done again.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from raykd import Stage, recipes, tokens
from raykd.runtime import Display, Runner, make_runner

JOB = Path(__file__).parents[1] / "jobs" / "text.py"
DENSE = "dense_f16"
ARMS: Mapping[str, Mapping[str, Any]] = {
    DENSE: {"cache": DENSE},
    "features": {"cache": "features"},
    "topk_u8, k = 64": {"cache": "topk_u8", "k": 64},
    "topk_u8, k = 16": {"cache": "topk_u8", "k": 16},
}


def main() -> None:
    """Train what the storage lacks, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", default="", help="text of one's own; default: Python's standard library")
    parser.add_argument("--rows", type=int, help="to train on; default: all")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--tau", type=float, default=1.0)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--storage", type=Path, help="kept; default: temporary")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--ray", action="store_true", help="on Ray, as `raykd run` does")
    where.add_argument("--local", action="store_true", help="in this process; the default")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runner = make_runner(options.storage or folder, local=not options.ray, display=Display(quiet=True))
        with runner.session():
            measure(options, runner)


def measure(options: argparse.Namespace, runner: Runner) -> None:
    """The table, a line for each arm as soon as it is there."""
    knobs = {"files": options.files, "rows": options.rows, "epochs": options.epochs}
    arms = {
        name: [stage("kd", **knobs, **arm, tau=options.tau, seed=seed) for seed in range(options.seeds)]
        for name, arm in ARMS.items()
    }
    some = arms[DENSE][0]
    teacher = some.teachers["teacher"]
    assert isinstance(teacher, Stage)
    (taught,) = runner.run(teacher)
    total = asked(some)
    print(
        f"{type(runner).__name__.lower()}: {teacher.student} teaches {some.student}, {total:,} tokens, tau {options.tau:g}"
    )
    print(f"teacher: validation perplexity {taught.metrics['val_perplexity']:.3f}", flush=True)
    print(f"{'cache':18} {'bytes a token':>14} {'perplexity':>11} {'gap to dense':>13}   by seed", flush=True)
    report("none: labels", None, perplexities(runner, [each.alone() for each in arms[DENSE]]), None)
    dense = None
    for name, stages in arms.items():
        found = perplexities(runner, stages)
        dense = dense or found
        report(name, on_disk(runner, stages[0]) / total, found, dense)


def stage(name: str, **knobs: Any) -> Stage:
    """Of the job."""
    return recipes.load(f"{JOB}:{name}").stage(**knobs)


def asked(written: Stage) -> int:
    """Tokens of all training rows, in all replicas, at which the teacher answers."""
    rows = written.seen.dataset.split("train")
    return int(tokens.counts(rows.inputs(np.arange(len(rows)))).sum()) * written.seen.replicas


def on_disk(runner: Runner, written: Stage) -> int:
    """Bytes of what the teacher said."""
    entries = runner.storage.entries("teacher", written.teachers["teacher"], written.seen, written.kept["teacher"])
    return sum(entry.holdings().bytes for entry in entries)


def perplexities(runner: Runner, stages: list[Stage]) -> list[float]:
    """On the validation split, of each."""
    return [trained.metrics["val_perplexity"] for trained in runner.run(*stages)]


def report(name: str, each: float | None, found: list[float], dense: list[float] | None) -> None:
    """A line of the table."""
    size = "-" if each is None else f"{each:.1f}"
    gap = "-" if dense is None else f"{statistics.mean(a - b for a, b in zip(found, dense, strict=True)):+.4f}"
    seeds = ", ".join(f"{value:.3f}" for value in found)
    print(f"{name:18} {size:>14} {statistics.mean(found):11.4f} {gap:>13}   {seeds}", flush=True)


if __name__ == "__main__":
    main()
