"""What a method costs a step: an epoch of it over an epoch of plain distillation, everything that teachers say from the cache.

    python benchmarks/methods.py [--rounds 5] [--rows 5120] [--only "dkd,smskd stage 2"]

ResNet-20 teaches ResNet-8 on Fashion-MNIST, batches of 128; the mentors of ClassroomKD are five more networks of the student's
kind. Weights are random: what teachers say does not matter here. In each round every method trains once, in turn, through the
loop that everybody uses; the rate is that of the second epoch, steps only. Prints the median ratio of the rounds, the spread,
and the bytes of the cache that a row takes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from raykd import SGD, Budget, Dataset, Objective, Pretrained, Stage, View
from raykd.data import FashionMNIST
from raykd.methods import published
from raykd.methods.classroom import classroom
from raykd.methods.simkd import simkd
from raykd.methods.smskd import REFERENCE, anchored
from raykd.models import Architecture, ResNet
from raykd.models.weights import save
from raykd.runtime import Display, Local
from raykd.storage import Storage

SHAPE = (1, 28, 28)
STUDENT, TEACHER = ResNet(8, shape=SHAPE), ResNet(20, shape=SHAPE)
OBJECTIVES: Mapping[str, Callable[[], Objective]] = {
    "kd": published.kd,
    "dkd": published.dkd,
    "dist": published.dist,
    "standardised": published.standardised,
    "mlkd": published.mlkd,
    "ctkd": published.ctkd,
    "fitnet": published.fitnet,
    "attention": published.attention,
    "nst": published.nst,
    "sp": published.sp,
    "cc": published.cc,
    "rkd": published.rkd,
    "pkt": published.pkt,
    "vid": published.vid,
    "crd": published.crd,
    "review": published.review,
    "ebkd of 2 teachers": published.ebkd,
    "camkd of 2 teachers": published.camkd,
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=5_120)
    parser.add_argument("--only", default="", help="these methods, beside plain distillation")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        dataset = Dataset(FashionMNIST(), validation=0.005, holdout=0.005, limit=options.rows)
        stages = written(View(dataset), Path(folder))
        if options.only:
            stages = {name: stages[name] for name in dict.fromkeys(["kd", *options.only.split(",")])}
        measure(stages, options.rounds, Path(folder))


def written(view: View, folder: Path) -> dict[str, Stage]:
    """A stage for each method."""
    teacher = network(TEACHER, folder, 0)
    mentors = {"teacher": teacher, **{f"peer{i}": network(STUDENT, folder, i) for i in range(1, 5)}}
    base = Stage(
        STUDENT,
        published.kd(),
        view,
        {"teacher": teacher},
        budget=Budget(2, batch_size=128, optimiser=SGD(lr=0.001)),
    )
    several = {
        name: replace(base, teachers={"teacher": teacher, "peer1": mentors["peer1"]})
        for name in ("ebkd of 2 teachers", "camkd of 2 teachers")
    }
    found = {name: replace(several.get(name, base), objective=write()) for name, write in OBJECTIVES.items()}
    found["simkd"] = simkd(base)
    found["classroom of 5 mentors"] = replace(base, objective=classroom(), teachers=mentors)
    second = anchored(base, [published.kd()])
    reference = network(STUDENT, folder, 9)  # in place of the stage before, so that only this one is timed
    found["smskd stage 2"] = replace(second, init=reference, teachers={**second.teachers, REFERENCE: reference})
    return found


def network(architecture: Architecture, folder: Path, number: int) -> Pretrained:
    """A network with random weights."""
    weights = folder / f"{number}.safetensors"
    save(str(weights), architecture.build().body.state_dict(), {})
    return Pretrained(architecture, str(weights))


def measure(stages: Mapping[str, Stage], rounds: int, folder: Path) -> None:
    """The table."""
    rates: dict[str, list[float]] = {name: [] for name in stages}
    for seed in range(rounds + 1):  # the first round fills the cache and warms up
        for name, stage in stages.items():
            rates[name].append(rate(replace(stage, seed=seed), folder))
    print(f"{'method':22} {'rows/s':>8} {'epoch / plain':>14} {'range':>15} {'bytes a row':>12}")
    for name, stage in stages.items():
        ratios = sorted(plain / own for plain, own in zip(rates["kd"][1:], rates[name][1:], strict=True))
        size = sum(
            each.bytes_per_row(stage.teachers[teacher].architecture)
            for teacher, kept in stage.kept.items()
            for each in kept
        )
        spread = f"{ratios[0]:.3f} - {ratios[-1]:.3f}"
        rows = statistics.median(rates[name][1:])
        print(f"{name:22} {rows:8,.0f} {statistics.median(ratios):14.3f} {spread:>15} {size:12,}", flush=True)


def rate(stage: Stage, folder: Path) -> float:
    """Rows per second in the last epoch of a training."""
    runner = Local(Storage(folder), Display(quiet=True), any_teacher=True)
    (trained,) = runner.run(stage)
    lines = Path(trained.weights).with_name("metrics.jsonl").read_text().splitlines()
    return float(json.loads(lines[-1])["rows_per_second"])


if __name__ == "__main__":
    main()
