"""How soon does a narrow transformer know the hidden tokens of a grammar: one-shot, from snapshots, block by block?

    python benchmarks/pcfg.py [--start l] [--epochs 40] [--seeds 3] [--only one-shot,plateau] [--storage FOLDER] [--plot FILE]

All arms are of `jobs/pcfg.py`: the same rows for as many steps, 64 a step, one schedule over all. The teacher is one network. A
seed is the student's initial weights, its order of rows and its projections. Shown is the share of the hidden tokens of 500
validation rows that are right, mean and range over the seeds, after eighths of the steps, and in the plot after every epoch; at
the end also on the test rows, of the best weights on validation. Of extraction also what an epoch of each part costs.
`--share` of the steps go to snapshots or blocks, and while blocks are matched the layers behind them know nothing yet. What is
in the storage is not done again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from raykd import Stage, recipes
from raykd.budget import Plateau
from raykd.methods.extraction import extracted
from raykd.methods.progressive import progressive
from raykd.models import size
from raykd.objective import STUDENT
from raykd.order import Order
from raykd.recipes import Recipe
from raykd.runtime import Display, Local
from raykd.storage import Storage

JOB = Path(__file__).parents[1] / "jobs" / "pcfg.py"
PLATEAU = Plateau(floor=2, patience=2, tolerance=0.02)
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#8c564b", "#7f7f7f")
WIDTH, HEIGHT, MARGIN = 640, 400, 50
Curve = Sequence[tuple[int, float]]  # steps behind, accuracy on the validation split


def main() -> None:
    """Train what the storage lacks, print the table, write the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--start", default="l", help="symbol of the grammar that strings come from")
    parser.add_argument("--rows", type=int, default=3200)
    parser.add_argument("--replicas", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=40, help="of the student")
    parser.add_argument("--heads", type=int, default=2, help="of the student's blocks")
    parser.add_argument("--depth", type=int, default=4, help="the student's blocks")
    parser.add_argument("--teacher-epochs", type=int, default=40)
    parser.add_argument("--teacher-heads", type=int, default=8)
    parser.add_argument("--share", type=float, default=0.3, help="of the steps, with snapshots or blocks")
    parser.add_argument("--snapshots", type=int, default=3)
    parser.add_argument("--lr", type=float, default=0.005)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default="one-shot,progressive,extraction", help="; also: labels, identity, plateau")
    parser.add_argument("--storage", type=Path, help="kept; default: temporary")
    parser.add_argument("--plot", type=Path, help="an SVG file to write; default: none")
    options = parser.parse_args()
    torch.set_num_threads(1)  # networks so small take longer to wake a second thread than it helps
    with tempfile.TemporaryDirectory() as folder:
        runner = Local(Storage(options.storage or Path(folder)), Display(quiet=True), any_teacher=True)
        curves = measure(options, runner)
    if options.plot:
        options.plot.write_text(drawn(curves, f"hidden tokens known, CFG3B from {options.start}"))


def measure(options: argparse.Namespace, runner: Local) -> dict[str, list[Curve]]:
    """The table, a line for each arm as soon as it is there; of each arm the curves of its seeds."""
    task = {name: getattr(options, name) for name in ("start", "rows", "replicas", "lr")}
    teacher = recipe("teacher").stage(**task, heads=options.teacher_heads, epochs=options.teacher_epochs)
    (trained,) = runner.run(teacher)
    steps = Order.of(teacher).steps
    print(f"CFG3B from {options.start}; teacher {teacher.student}: {options.teacher_epochs * steps:,} steps,", end=" ")
    print(f"test top-1 {trained.metrics['test_top1']:.1%}", flush=True)
    looks = sorted({max(1, options.epochs * i // 8) for i in (1, 2, 3, 4, 6, 8)})
    print(f"{'arm':12}" + "".join(f"{look * steps:>22,}" for look in looks) + f"{'test top-1':>22}")
    arms = written(options, task, teacher)
    found: dict[str, list[Curve]] = {}
    for name in options.only.split(","):
        stages = [arms[name](seed) for seed in range(options.seeds)]
        ends = [each.metrics["test_top1"] for each in runner.run(*stages)]
        found[name] = [curve(stage, runner.storage) for stage in stages]
        seen = [[at(each, look * steps) for each in found[name]] for look in looks]
        print(f"{name:12}" + "".join(f"{spread(values):>22}" for values in (*seen, ends)), flush=True)
        if name == "extraction":
            costs(stages, runner.storage)
    return found


def written(options: argparse.Namespace, task: Mapping[str, Any], teacher: Stage) -> dict[str, Callable[[int], Stage]]:
    """The arms: of a seed, the stage."""
    early, whole = round(options.share * options.epochs), teacher.budget.epochs
    count = min(options.snapshots, early, whole - 1)
    snapshots = [whole * (i + 1) // (count + 1) for i in range(count)]
    parts = [early // count + (i < early % count) for i in range(count)] if count else []

    def one_shot(seed: int) -> Stage:
        knobs = {"heads": options.heads, "depth": options.depth, "epochs": options.epochs, "seed": seed}
        return replace(recipe("kd").stage(**task, **knobs), teachers={"teacher": teacher}, label=f"one-shot {seed}")

    return {
        "labels": lambda seed: one_shot(seed).alone(),
        "one-shot": one_shot,
        "progressive": lambda seed: progressive(one_shot(seed), snapshots, parts=[*parts, options.epochs - early]),
        "extraction": lambda seed: extracted(one_shot(seed), share=options.share, seed=seed),
        "identity": lambda seed: extracted(one_shot(seed), share=options.share, matrix="identity"),
        "plateau": lambda seed: extracted(one_shot(seed), share=options.share, seed=seed, plateau=PLATEAU),
    }


def recipe(name: str) -> Recipe:
    """Of the job."""
    return recipes.load(f"{JOB}:{name}")


def curve(stage: Stage, storage: Storage) -> Curve:
    """Accuracy of a student over all the stages that it went through, by steps."""
    before = curve(stage.init, storage) if isinstance(stage.init, Stage) else []
    steps = Order.of(stage).steps
    lines = (storage.folder(stage) / "metrics.jsonl").read_text().splitlines()
    return [*before, *(((line["epoch"] + 1) * steps, line["val_top1"]) for line in map(json.loads, lines))]


def costs(stages: Sequence[Stage], storage: Storage) -> None:
    """What an epoch of each part costs beside one of the output: FLOPs of the student, and seconds."""
    parts = list(zip(*map(lineage, stages), strict=True))
    seconds = [statistics.median(each for stage in part for each in taken(stage, storage)) for part in parts]
    flops = [size(part[0].student, taps(part[0])).flops for part in parts]
    shares = [f"{f / flops[-1]:.2f} / {s / seconds[-1]:.2f}" for f, s in zip(flops, seconds, strict=True)]
    print(f"{'':12}FLOPs / seconds of an epoch, in those of the last part: {', '.join(shares)}", flush=True)


def lineage(stage: Stage) -> list[Stage]:
    """What a student went through, the first stage first."""
    return [*(lineage(stage.init) if isinstance(stage.init, Stage) else []), stage]


def taken(stage: Stage, storage: Storage) -> list[float]:
    """Seconds of each epoch, less its validation's: those that its rows took."""
    lines = (storage.folder(stage) / "metrics.jsonl").read_text().splitlines()
    return [
        Order.of(stage).steps * stage.budget.batch_size / line["rows_per_second"] for line in map(json.loads, lines)
    ]


def taps(stage: Stage) -> tuple[str, ...]:
    """What is observed in its student."""
    return tuple(sorted({tap for signal in stage.needs[STUDENT] for tap in signal.taps()}))


def at(learned: Curve, steps: int) -> float:
    """Accuracy when so many steps are behind."""
    return next(accuracy for behind, accuracy in reversed(learned) if behind <= steps)


def spread(values: Sequence[float]) -> str:
    """Mean and range."""
    return f"{statistics.mean(values):.1%} ({min(values):.1%}-{max(values):.1%})"


def drawn(curves: Mapping[str, Sequence[Curve]], title: str) -> str:
    """An SVG: of each arm the mean over its seeds by steps, and the range as a band."""
    last = max(steps for arm in curves.values() for steps, _ in arm[0])

    def place(steps: float, accuracy: float) -> str:
        x = MARGIN + (WIDTH - 2 * MARGIN) * steps / last
        return f"{x:.1f},{HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * accuracy:.1f}"

    parts = [f'<text x="{WIDTH / 2}" y="25" text-anchor="middle">{title}</text>']
    for share in (0, 0.25, 0.5, 0.75, 1):
        (left, y), (x, bottom) = place(0, share).split(","), place(share * last, 0).split(",")
        parts.append(f'<path d="M{left},{y} H{WIDTH - MARGIN}" stroke="#ddd"/>')
        parts.append(f'<text x="{MARGIN - 6}" y="{float(y) + 4:.1f}" text-anchor="end">{share:.0%}</text>')
        parts.append(f'<text x="{x}" y="{float(bottom) + 18:.1f}" text-anchor="middle">{share * last:,.0f}</text>')
    for number, (name, arm) in enumerate(curves.items()):
        colour = COLOURS[number % len(COLOURS)]
        points = [(each[0][0], [accuracy for _, accuracy in each]) for each in zip(*arm, strict=True)]
        band = [place(steps, max(values)) for steps, values in points]
        band += [place(steps, min(values)) for steps, values in reversed(points)]
        line = [place(steps, statistics.mean(values)) for steps, values in points]
        parts.append(f'<polygon points="{" ".join(band)}" fill="{colour}" opacity="0.2"/>')
        parts.append(f'<polyline points="{" ".join(line)}" fill="none" stroke="{colour}" stroke-width="2"/>')
        below = HEIGHT - MARGIN - 12 - 18 * number
        parts.append(f'<text x="{WIDTH - MARGIN - 8}" y="{below}" text-anchor="end" fill="{colour}">{name}</text>')
    style = 'font-family="sans-serif" font-size="12"'
    size = f'width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>'
    return "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', *parts, "</svg>", ""])


if __name__ == "__main__":
    main()
