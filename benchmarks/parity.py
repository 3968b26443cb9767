"""How many steps until a narrow network knows a sparse parity: from labels, one-shot, from snapshots, layer by layer?

    python benchmarks/parity.py [--d 50] [--k 5] [--steps 20000] [--seeds 5] [--only labels,one-shot] [--storage FOLDER]
    python benchmarks/parity.py --form tokens ...       of transformers; a width is in heads of 8
    python benchmarks/parity.py --vary ...              extraction with one thing otherwise, instead of the arms

All arms are of `jobs/parity.py`: new rows at every step, as many for each, at a constant rate; SGD with 32 rows a step for
signs, Adam with 64 for tokens. The teacher is one network, wide enough to have learned it. A seed is the student's initial
weights, its order of rows and its projection. Counted are the steps until 90 % of 1,000 held-out rows are right, looked at
every 100 steps; those with snapshots or with the hidden layers, `--share` of all, are among them. Snapshots are from the time
in which the teacher went from chance to 95 %, by its own curve. What is in the storage is not done again.

"one projection" is the same for all students, and "one student" differs in the projection alone: what each adds to the range.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from raykd import AdamW, Distill, Stage, recipes
from raykd.data import Parity, ParityTokens
from raykd.methods.extraction import Extraction, extracted
from raykd.methods.progressive import progressive
from raykd.models import BERT, MLP
from raykd.recipes import Recipe
from raykd.runtime import Display, Local
from raykd.signals import Observable, Projected, Signal
from raykd.storage import Storage

JOB = Path(__file__).parents[1] / "jobs" / "parity.py"
KNOWN = 0.9
STEPS = 100  # of an epoch
HEAD = 8  # its width
FORMS: Mapping[str, Mapping[str, float]] = {
    "signs": {
        "d": 50, "k": 5, "width": 100, "teacher_width": 2048,
        "teacher_steps": 15_000, "steps": 20_000, "share": 0.1, "lr": 0.1, "batch": 32,
    },
    "tokens": {
        "d": 20, "k": 2, "width": 4, "teacher_width": 8,
        "teacher_steps": 2_000, "steps": 3_000, "share": 0.13334, "lr": 1e-3, "batch": 64,
    },
}  # fmt: skip
Curve = Sequence[tuple[int, float]]  # steps behind, accuracy on the validation split
Arms = dict[str, Callable[[int], Stage]]  # of a seed, the stage


def main() -> None:
    """Train what the storage lacks, print the table."""
    options = parsed()
    torch.set_num_threads(1)  # of networks so small a second thread takes longer to wake than to help
    with tempfile.TemporaryDirectory() as folder:
        runner = Local(Storage(options.storage or Path(folder)), Display(quiet=True), any_teacher=True)
        measure(options, runner)


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """What the command line says; of sizes that it does not say, those of the form."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--form", choices=FORMS, default="signs", help="signs for MLPs, or tokens for transformers")
    parser.add_argument("--vary", action="store_true", help="extraction's variations instead of the arms; of signs")
    parser.add_argument("--d", type=int, help="signs of a row")
    parser.add_argument("--k", type=int, help="how many of them make the label")
    parser.add_argument("--width", type=int, help="of the student: its hidden layer, or heads of a block")
    parser.add_argument("--teacher-width", type=int)
    parser.add_argument("--teacher-steps", type=int)
    parser.add_argument("--steps", type=int, help="of the student, at most")
    parser.add_argument("--share", type=float, help="of the steps, with snapshots or the hidden layers")
    parser.add_argument("--snapshots", type=int, default=3)
    parser.add_argument("--lr", type=float)
    parser.add_argument("--batch", type=int, help="rows of a step")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", default="", help="these arms, with commas between them")
    parser.add_argument("--storage", type=Path, help="kept; default: temporary")
    form, _ = parser.parse_known_args(arguments)
    parser.set_defaults(**FORMS[form.form])
    options = parser.parse_args(arguments)
    if options.vary and options.form != "signs":
        parser.error(f"--vary with --form {options.form}: --form signs would be right")
    return options


def measure(options: argparse.Namespace, runner: Local) -> None:
    """The table, a line for each arm as soon as it is there."""
    teacher = written("teacher", options, options.teacher_width, options.teacher_steps)
    (trained,) = runner.run(teacher)
    learned = curve(teacher, runner.storage)
    found = f"{options.teacher_steps:,} steps, known after {known(learned) or 'never'}"
    print(f"parity of {options.k} in {options.d} {options.form}; teacher {teacher.student}: {found},", end=" ")
    print(f"test top-1 {trained.metrics['test_top1']:.1%}; the student has {options.steps:,} steps,", end=" ")
    print(f"{round(options.share * (options.steps // STEPS)) * STEPS:,} of them with snapshots or layers", flush=True)
    print(f"{'arm':22} {'steps to 90 %':>14} {'range':>17} {'success':>8} {'test top-1 at the end':>22}")
    arms = varied(options, teacher) if options.vary else compared(options, teacher, learned)
    for name in options.only.split(",") if options.only else arms:
        stages = [arms[name](seed) for seed in range(options.seeds)]
        ends = [each.metrics["test_top1"] for each in runner.run(*stages)]
        report(name, [known(curve(stage, runner.storage)) for stage in stages], ends)


def compared(options: argparse.Namespace, teacher: Stage, learned: Curve) -> Arms:
    """The methods."""
    epochs = options.steps // STEPS
    early = round(options.share * epochs)
    snapshots = during(learned, options.snapshots)
    parts = [early // len(snapshots) + (i < early % len(snapshots)) for i in range(len(snapshots))]

    def one_shot(seed: int) -> Stage:
        return taught(options, teacher, seed)

    return {
        "labels": lambda seed: one_shot(seed).alone(),
        "one-shot": one_shot,
        "progressive": lambda seed: progressive(one_shot(seed), snapshots, parts=[*parts, epochs - early]),
        "extraction": lambda seed: extracted(one_shot(seed), share=options.share, seed=seed),
        "without projection": lambda seed: extracted(one_shot(seed), share=options.share, matrix="identity"),
    }


def varied(options: argparse.Namespace, teacher: Stage) -> Arms:
    """Extraction, and with one thing otherwise."""
    share, width = options.share, options.width

    def one_shot(seed: int) -> Stage:
        return taught(options, teacher, seed)

    return {
        "extraction": lambda seed: extracted(one_shot(seed), share=share, seed=seed),
        "half the share": lambda seed: extracted(one_shot(seed), share=share / 2, seed=seed),
        "twice the share": lambda seed: extracted(one_shot(seed), share=share * 2, seed=seed),
        "half of the units": lambda seed: extracted(one_shot(seed), share=share, seed=seed, dim=width // 2),
        "a quarter of the units": lambda seed: extracted(one_shot(seed), share=share, seed=seed, dim=width // 4),
        "without projection": lambda seed: extracted(one_shot(seed), share=share, matrix="identity"),
        "not normalised": lambda seed: at_length(extracted(one_shot(seed), share=share, seed=seed)),
        "one projection": lambda seed: extracted(one_shot(seed), share=share, seed=0),
        "one student": lambda seed: extracted(one_shot(0), share=share, seed=seed),
    }


def taught(options: argparse.Namespace, teacher: Stage, seed: int) -> Stage:
    """One-shot distillation."""
    stage = written("kd", options, options.width, options.steps, seed, {"teacher": teacher})
    return replace(stage, label=f"one-shot {seed}")


def written(
    name: str, options: argparse.Namespace, width: int, steps: int, seed: int = 0, teachers: Mapping[str, Stage] = {}
) -> Stage:
    """A recipe's stage, of the form asked for."""
    sizes = {"d": options.d, "k": options.k, "rows": options.batch * STEPS, "lr": options.lr}
    stage = recipe(name).stage(**sizes, epochs=steps // STEPS, seed=seed)
    stage = replace(stage, budget=replace(stage.budget, batch_size=options.batch))
    if options.form == "tokens":
        return spelled(stage, width, teachers)
    return replace(stage, student=MLP((width,), classes=2, shape=stage.student.shape), teachers=teachers)


def recipe(name: str) -> Recipe:
    """Of the job."""
    return recipes.load(f"{JOB}:{name}")


def spelled(stage: Stage, heads: int, teachers: Mapping[str, Stage]) -> Stage:
    """The same stage with the same rows as tokens, of a transformer that Adam trains."""
    dataset, optimiser = stage.view.dataset, stage.budget.optimiser
    assert isinstance(dataset.train, Parity)
    assert isinstance(dataset.test, Parity)
    source = ParityTokens(dataset.train)
    dataset = replace(dataset, train=source, test=ParityTokens(dataset.test))
    student = BERT(heads=heads, head_width=HEAD, vocabulary=source.vocabulary, classes=2, shape=source.shape)
    view = replace(stage.view, dataset=dataset, ops=(source.redrawn,))
    budget = replace(stage.budget, optimiser=AdamW(optimiser.lr, weight_decay=0.0))
    return replace(stage, student=student, view=view, budget=budget, teachers=teachers)


@dataclass(frozen=True)
class Length(Projected):
    """Of a signal: a projection of its row that is centred but as long as it was."""

    def observe(self, taps: Mapping[str, Tensor]) -> Tensor:
        """[B, dim]"""
        rows_BD = self.of.observe(taps).float().flatten(1)
        length_B1 = rows_BD.std(1, correction=0, keepdim=True) * math.sqrt(rows_BD.shape[1])
        return super().observe(taps) * length_B1


@dataclass(frozen=True)
class AtLength(Extraction):
    """Extraction with rows centred, and not brought to length 1. The square is the mean over a row's numbers: their sum is too
    steep for the same rate."""

    @property
    def teacher(self) -> Observable:
        """The projection of the teacher's activation."""
        return Length(Signal(self.tap), self.dim, self.seed)

    def __call__(self, student: Tensor, teacher: Tensor, labels_B: Tensor, tau_B: Tensor) -> Tensor:
        """[B]"""
        rows_BD = student.float() - student.float().mean(1, keepdim=True)
        return (rows_BD[:, : self.dim] - teacher.float()).square().mean(1)


def at_length(stage: Stage) -> Stage:
    """A network of one hidden layer by extraction, with the other loss."""
    assert isinstance(stage.init, Stage)
    (name,) = stage.init.teachers
    (width,) = stage.student.tap_shape("layer1")
    match = AtLength("layer1", dim=width, seed=stage.seed)
    return replace(stage, init=replace(stage.init, objective=1.0 * Distill(match, teachers=(name,))))


def during(learned: Curve, count: int) -> list[int]:
    """Epochs after which a network was on its way from chance to 95 %, so many of them, evenly; the middle of its training
    where it never was.
    """
    chance, done = 0.55, 0.95
    behind = list(enumerate((accuracy for _, accuracy in learned), start=1))
    start = next((epochs for epochs, accuracy in behind if accuracy > chance), len(learned) // 2)
    end = next((epochs for epochs, accuracy in behind if accuracy > done), len(learned) - 1)
    places = {start + round(i * (end - start) / max(count - 1, 1)) for i in range(count)}
    return sorted(max(place, 1) for place in places if place < len(learned))


def curve(stage: Stage, storage: Storage) -> Curve:
    """Accuracy of a student over all the stages that it went through, by steps."""
    before = curve(stage.init, storage) if isinstance(stage.init, Stage) else []
    lines = (storage.folder(stage) / "metrics.jsonl").read_text().splitlines()
    return [*before, *(((line["epoch"] + 1) * STEPS, line["val_top1"]) for line in map(json.loads, lines))]


def known(learned: Curve) -> int | None:
    """Steps until it was known; None if never."""
    return next((steps for steps, accuracy in learned if accuracy >= KNOWN), None)


def report(name: str, steps: Sequence[int | None], ends: Sequence[float]) -> None:
    """A line of the table. Of what was not known in the end the steps are more than all."""
    found = sorted(each for each in steps if each is not None)
    middle = statistics.median_low([each if each is not None else float("inf") for each in steps])
    median = "never" if middle == float("inf") else f"{middle:,.0f}"
    spread = f"{found[0]:,} - {found[-1]:,}" if found else "-"
    success = f"{len(found)}/{len(steps)}"
    print(f"{name:22} {median:>14} {spread:>17} {success:>8} {statistics.mean(ends):22.1%}", flush=True)


if __name__ == "__main__":
    main()
