"""Strings of a grammar with some tokens hidden: a BERT learns which, a narrower one learns it from its answers or its layers.

    raykd run jobs/pcfg.py:curriculum          raykd run jobs/pcfg.py:kd --start m --epochs 60

The grammar is `CFG3B`, or the part of it below a symbol: s are whole strings of 138 to 432 tokens, p 108 to 216, m 30 to 72,
l 18 to 27, j 12 to 18. The defaults are l and networks that two cores train in about two minutes. The published setting, of
the work that the paper builds on (Panigrahi et al., 2024): s, teacher 4 blocks of 32 heads of 8, student 4 of 8 heads, 0.3 of
the tokens hidden, AdamW at 0.005 with betas 0.9 and 0.95, 512 rows a step; here 64, and the rate warms up over 6 % of the
training and falls by a cosine. All recipes see the same rows for the same number of steps. They share:

    start: symbol of the grammar that strings come from
    epochs: passes over the training rows
    rows: training rows
    replicas: times that a row has other tokens hidden, before they come again
    lr: peak learning rate
    seed: of the student's initial weights and order
"""

from dataclasses import replace
from typing import Literal

from raykd import AdamW, Budget, Cosine, CrossEntropy, Dataset, Objective, Stage, View
from raykd.budget import Plateau
from raykd.cli import job
from raykd.data.tasks import CFG3B, PCFG, Masked
from raykd.methods import published
from raykd.methods.extraction import extracted
from raykd.methods.progressive import progressive as progressively
from raykd.models import BERT
from raykd.search import Choice, Range, searched

HELD_OUT = 500
"""Rows to choose by, and as many to test on."""
PLATEAU = Plateau(floor=2, patience=2, tolerance=0.02)
"""Of the loss of a block, where that ends its part."""
SHARES = Range(0.1, 0.8)
WIDTHS = Choice(None, 4, 8, 16)

Symbol = Literal["s", "p", "q", "r", "m", "n", "o", "l", "k", "j"]


def teacher(
    start: Symbol = "l", heads: int = 8, depth: int = 4, epochs: int = 40, rows: int = 3200, replicas: int = 16,
    lr: float = 0.005, seed: int = 0,
) -> Stage:  # fmt: skip
    """A transformer that sees all tokens that are not hidden, with the labels alone.

    heads: of each block, 8 numbers wide
    depth: blocks
    seed: of its initial weights and order
    """
    return _stage(1.0 * CrossEntropy(), "teacher", start, heads, depth, epochs, rows, replicas, lr, seed)


def student(
    start: Symbol = "l", heads: int = 2, depth: int = 4, epochs: int = 40, rows: int = 3200, replicas: int = 16,
    lr: float = 0.005, seed: int = 0,
) -> Stage:  # fmt: skip
    """The student of `kd` with the labels alone, for the same number of steps.

    heads: of each block, 8 numbers wide
    depth: blocks
    """
    return kd(
        start=start, heads=heads, depth=depth, epochs=epochs, rows=rows, replicas=replicas, lr=lr, seed=seed
    ).alone()


@searched(tau=Range(1, 8), alpha=Range(0, 1), lr=Range(0.0005, 0.02, log=True))
def kd(
    tau: float = 1.0, alpha: float = 1.0, start: Symbol = "l", heads: int = 2, depth: int = 4, epochs: int = 40,
    rows: int = 3200, replicas: int = 16, lr: float = 0.005, seed: int = 0,
) -> Stage:  # fmt: skip
    """One-shot distillation (Hinton et al., 2015): the finished teacher's answers from the first step on.

    tau: temperature that softens both distributions
    alpha: weight of the teacher's term; the labels' term has 1 - alpha
    heads: of each of the student's blocks, 8 numbers wide
    depth: blocks of the student
    """
    return _distilled(published.kd(alpha, tau), "kd", start, heads, depth, epochs, rows, replicas, lr, seed)


def progressive(
    snapshots: int = 3, tau: float = 1.0, alpha: float = 1.0, start: Symbol = "l", heads: int = 2, depth: int = 4,
    epochs: int = 40, rows: int = 3200, replicas: int = 16, lr: float = 0.005, seed: int = 0,
) -> Stage:  # fmt: skip
    """Progressive distillation (Panigrahi et al., 2024): the teacher's answers while it learned, then when it was finished.

    Snapshots from before it knew much may need `--any-teacher`.

    snapshots: how many, evenly over the teacher's training; student's epochs are shared between them and the teacher
    tau: temperature that softens both distributions
    alpha: weight of the teacher's term; the labels' term has 1 - alpha
    heads: of each of the student's blocks, 8 numbers wide
    depth: blocks of the student
    """
    objective = published.kd(alpha, tau)
    last = _distilled(objective, "progressive", start, heads, depth, epochs, rows, replicas, lr, seed)
    whole = teacher().budget.epochs
    return progressively(last, [whole * (i + 1) // (snapshots + 1) for i in range(snapshots)])


@searched(share=SHARES, dim=WIDTHS, lr=Range(0.0005, 0.02, log=True))
def curriculum(
    share: float = 0.3, dim: int | None = None, schedule: Literal["equal", "plateau"] = "equal", tau: float = 1.0,
    alpha: float = 1.0, start: Symbol = "l", heads: int = 2, depth: int = 4, epochs: int = 40, rows: int = 3200,
    replicas: int = 16, lr: float = 0.005, seed: int = 0,
) -> Stage:  # fmt: skip
    """Curriculum Extraction (Gupta and Karmalkar, 2025): the finished teacher's blocks one after the other, then its answers.

    share: of the epochs, that is for the blocks
    dim: numbers of a block that are matched; all by default
    schedule: equal parts for the blocks, or at most these, each over where its loss has stopped falling
    tau: temperature that softens both distributions
    alpha: weight of the teacher's term; the labels' term has 1 - alpha
    heads: of each of the student's blocks, 8 numbers wide
    depth: blocks of the student
    """
    objective = published.kd(alpha, tau)
    last = _distilled(objective, "curriculum", start, heads, depth, epochs, rows, replicas, lr, seed)
    plateau = PLATEAU if schedule == "plateau" else None
    return extracted(last, dim=dim, share=share, plateau=plateau, seed=seed)


def _distilled(
    objective: Objective, label: str, start: Symbol, heads: int, depth: int, epochs: int, rows: int, replicas: int,
    lr: float, seed: int,
) -> Stage:  # fmt: skip
    """The student under an objective, taught by `teacher`."""
    teachers = {"teacher": teacher(start, rows=rows, replicas=replicas)}
    return _stage(objective, label, start, heads, depth, epochs, rows, replicas, lr, seed, teachers)


def _stage(
    objective: Objective, label: str, start: Symbol, heads: int, depth: int, epochs: int, rows: int, replicas: int,
    lr: float, seed: int, teachers: dict[str, Stage] | None = None,
) -> Stage:  # fmt: skip
    strings = PCFG(CFG3B.starting(start), rows + HELD_OUT)
    source = Masked(strings)
    test = Masked(replace(strings, rows=HELD_OUT, first=rows + HELD_OUT))
    dataset = Dataset(source, test, validation=HELD_OUT / (rows + HELD_OUT))
    view = View(dataset, (source.remasked,), replicas=replicas)
    optimiser, schedule = AdamW(lr, betas=(0.9, 0.95)), Cosine(warmup=0.06 * epochs)
    budget = Budget(epochs, batch_size=64, optimiser=optimiser, schedule=schedule)
    network = BERT(
        depth=depth, heads=heads, head_width=8, vocabulary=source.vocabulary, classes=source.classes, shape=source.shape
    )
    return Stage(network, objective, view, teachers or {}, budget=budget, seed=seed, label=label)


if __name__ == "__main__":
    job(__file__)
