"""What reading the cache costs an epoch: the same student with cached distillation and on labels only, side by side.

    python benchmarks/epoch.py [--pairs 7] [--rows 20000]

Both train one after the other, in turns, through the loop that everybody uses; the rate is that of the second epoch,
steps only, so that what is paid once is left out. Prints the median ratio of the pairs, and their spread.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from raykd import SGD, Budget, Constant, CrossEntropy, Dataset, Distill, Pretrained, Stage, View
from raykd.data import Affine, FashionMNIST, Flip
from raykd.methods.kl import KL
from raykd.models import CNN, Architecture, ResNet
from raykd.models.weights import save
from raykd.runtime import Display, Local
from raykd.storage import Storage

SHAPE = (1, 28, 28)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--rows", type=int, default=20_000)
    options = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {options.rows} rows, {options.pairs} pairs")
    print(
        f"{'student':10} {'view':6} {'labels rows/s':>14} {'cached rows/s':>14} {'cached / labels epoch':>22} {'range':>15}"
    )
    with tempfile.TemporaryDirectory() as folder:
        for student in (ResNet(8, shape=SHAPE), CNN(8, shape=SHAPE)):
            for name, ops in (("plain", ()), ("moved", (Flip(), Affine(translate=0.1)))):
                dataset = Dataset(FashionMNIST(), FashionMNIST("test"), validation=0.02, limit=options.rows)
                stage = distilled(student, View(dataset, ops, replicas=2), Path(folder))
                measure(name, stage, options.pairs, Path(folder))


def distilled(student: Architecture, view: View, folder: Path) -> Stage:
    """Two epochs of distillation from a teacher whose weights are random: what it says does not matter here."""
    teacher = CNN(4, shape=SHAPE)
    weights = folder / "teacher.safetensors"
    if not weights.exists():
        save(str(weights), teacher.build().body.state_dict(), {})
    objective = 0.1 * CrossEntropy() + 0.9 * Distill(KL(), temperature=Constant(4.0))
    budget = Budget(2, batch_size=128, optimiser=SGD(lr=0.01))
    return Stage(student, objective, view, {"teacher": Pretrained(teacher, str(weights))}, budget=budget)


def measure(name: str, stage: Stage, pairs: int, folder: Path) -> None:
    """One line of the table."""
    rates: list[tuple[float, float]] = []
    for seed in range(pairs + 1):  # the first pair warms up
        cached = replace(stage, seed=seed)
        rates.append((rate(cached.alone(), folder), rate(cached, folder)))
    ratios = sorted(labels / cached for labels, cached in rates[1:])
    labels, cached = (statistics.median(column) for column in zip(*rates[1:], strict=True))
    spread = f"{ratios[0]:.3f} - {ratios[-1]:.3f}"
    print(
        f"{stage.student!s:10} {name:6} {labels:14,.0f} {cached:14,.0f} {statistics.median(ratios):22.3f} {spread:>15}",
        flush=True,
    )


def rate(stage: Stage, folder: Path) -> float:
    """Rows per second in the last epoch of a training."""
    runner = Local(Storage(folder), Display(quiet=True), any_teacher=True)
    (trained,) = runner.run(stage)
    lines = Path(trained.weights).with_name("metrics.jsonl").read_text().splitlines()
    return float(json.loads(lines[-1])["rows_per_second"])


if __name__ == "__main__":
    main()
