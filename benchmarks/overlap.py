"""Teacher and student at the same time, each on a core of its own, against one after the other.

    python benchmarks/overlap.py [--runs 5]

fill: a pool of one actor labels everything, its start included.     train: the student alone on the full cache, one thread.
beside: `raykd run --overlap`, both at once.                          sum: fill + train.

A student can be no further than its teacher: in E epochs over K replicas it first sees the last row K/E of the way through, so
any order that sees each row once an epoch takes at least fill + (1 - K/E) train. Where every epoch has a replica of its own
(K = E) that is no limit, and the goal is 1.15 x max(fill, train).
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from raykd import SGD, Budget, Constant, CrossEntropy, Dataset, Distill, Pretrained, Stage, View
from raykd.data import Affine, FashionMNIST, Flip
from raykd.device import device
from raykd.labeling.labeler import Labeling
from raykd.labeling.placement import Actors
from raykd.methods.kl import KL
from raykd.models import CNN, ResNet
from raykd.models.weights import save
from raykd.runtime import Display, Local
from raykd.runtime.cluster import Cluster
from raykd.runtime.filling import Filling
from raykd.storage import Storage
from raykd.training.evaluate import evaluate

SHAPE = (1, 28, 28)


@dataclass(frozen=True)
class Case:
    """A size of both sides."""

    name: str
    teacher: ResNet
    epochs: int
    replicas: int


CASES = (
    Case("as long as each other, K = E", ResNet(14, shape=SHAPE), 6, 6),
    Case("teacher longer, K = E", ResNet(20, shape=SHAPE), 6, 6),
    Case("student longer, K = 2, E = 12", ResNet(8, shape=SHAPE), 12, 2),
)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--rows", type=int, default=10_240)
    parser.add_argument("--case", type=int, choices=range(len(CASES)), default=None, help="only this one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as session, Cluster(Storage(Path(session))).session():
        for case in CASES if options.case is None else (CASES[options.case],):
            print(f"\n{case.name}: {case.teacher} teaches cnn16, {options.rows} rows")
            print(f"{'fill s':>7} {'train s':>8} {'beside s':>9} {'/ max':>7} {'/ sum':>7} {'/ bound':>8}", flush=True)
            ratios = [measure(case, options.rows) for _ in range(options.runs)]
            print(
                f"beside / max(fill, train): median {statistics.median(ratios):.3f}, {min(ratios):.3f} - {max(ratios):.3f}"
            )


def measure(case: Case, rows: int) -> float:
    """One line of the table; beside / max(fill, train)."""
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
        filled = fill(stage(case, rows, one), Path(one))
        trained = train(stage(case, rows, one), Path(one))
        runner = Cluster(Storage(Path(two)), Display(quiet=True), any_teacher=True, overlap=True, actors=Actors(most=1))
        runner._own = True  # noqa: SLF001  the student is trained in this process, as on a Ray of the run's own
        evaluated(stage(case, rows, two), runner.storage)
        begun = time.perf_counter()
        runner.run(stage(case, rows, two))
        beside = time.perf_counter() - begun
    bound = max(filled, trained, filled + (1 - case.replicas / case.epochs) * trained)
    print(
        f"{filled:7.1f} {trained:8.1f} {beside:9.1f} {beside / max(filled, trained):7.3f}"
        f" {beside / (filled + trained):7.3f} {beside / bound:8.3f}",
        flush=True,
    )
    return beside / max(filled, trained)


def evaluated(written: Stage, storage: Storage) -> None:
    """The teacher's accuracy, which a run asks for once, is on the storage already: it is no part of fill or train."""
    teacher = written.teachers["teacher"]
    assert isinstance(teacher, Pretrained)
    evaluate(teacher, written.view, storage.evaluation(teacher, written.view), storage.precision, device())


def stage(case: Case, rows: int, folder: str) -> Stage:
    """The distillation, its teacher's weights random: what it says does not matter here."""
    weights = f"{folder}/teacher.safetensors"
    if not Path(weights).exists():
        save(weights, case.teacher.build().body.state_dict(), {})
    objective = 0.1 * CrossEntropy() + 0.9 * Distill(KL(), temperature=Constant(4.0))
    dataset = Dataset(FashionMNIST(), FashionMNIST("test"), validation=0.01, limit=rows)
    view = View(dataset, (Flip(), Affine(translate=0.1)), replicas=case.replicas)
    budget = Budget(case.epochs, batch_size=128, optimiser=SGD(lr=0.01))
    return Stage(CNN(16, shape=SHAPE), objective, view, {"teacher": Pretrained(case.teacher, weights)}, budget=budget)


def fill(written: Stage, folder: Path) -> float:
    """Seconds of the pool alone."""
    runner = Cluster(Storage(folder), Display(quiet=True), actors=Actors(most=1))
    teacher = written.teachers["teacher"]
    assert isinstance(teacher, Pretrained)
    labeling = Labeling("teacher", teacher, written.view, written.kept["teacher"], runner.storage)

    def label(several: object, missing: object) -> object:
        return runner.label(several, missing, beside=None)  # type: ignore[arg-type]

    begun = time.perf_counter()
    Filling([labeling], label, "compute", runner.display, lambda _, __: None, runner.counts.teacher_rows).run()  # type: ignore[arg-type]
    return time.perf_counter() - begun


def train(written: Stage, folder: Path) -> float:
    """Seconds of the student alone, on a full cache."""
    torch.set_num_threads(1)
    begun = time.perf_counter()
    Local(Storage(folder), Display(quiet=True), any_teacher=True).run(replace(written, label="alone on its core"))
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
