"""Sparse parity: is the product of k of d signs positive? Every row is new, and steps are counted, not passes.

    raykd run jobs/parity.py:curriculum --no-baseline          raykd run jobs/parity.py:kd --epochs 200

A wide network finds the k signs soon, a narrow one waits on a plateau, and the answers of a finished teacher help it little
more than labels: they say nothing about fewer than k signs. The teacher's hidden layer does, and its answers while it learned.
The defaults run in seconds and are easy for all; `benchmarks/parity.py` has sizes where it matters. All recipes see the same
rows for the same number of steps, at a constant rate, without momentum and weight decay. They share:

    d: signs of a row
    k: how many of them make the label
    epochs: an epoch is `rows` new rows
    rows: of an epoch; 32 a step
    lr: learning rate
    seed: of the student's initial weights and order
"""

from dataclasses import replace
from typing import Literal

from raykd import SGD, Budget, CrossEntropy, Dataset, Objective, Stage, Steps, View
from raykd.budget import Plateau
from raykd.cli import job
from raykd.data import Parity
from raykd.methods import published
from raykd.methods.extraction import extracted
from raykd.methods.progressive import progressive as progressively
from raykd.models import MLP
from raykd.search import Choice, Range, searched

HELD_OUT = 1000
"""Rows to choose by, and as many to test on."""
PLATEAU = Plateau(floor=3, patience=2)


def teacher(
    d: int = 30, k: int = 4, width: int = 1024, epochs: int = 80, rows: int = 3200, lr: float = 0.1, seed: int = 0
) -> Stage:
    """A wide network of one hidden layer, with the labels alone.

    width: of its hidden layer
    seed: of its initial weights and order
    """
    return _stage(1.0 * CrossEntropy(), "teacher", d, k, width, epochs, rows, lr, seed)


def student(
    d: int = 30, k: int = 4, width: int = 100, epochs: int = 100, rows: int = 3200, lr: float = 0.1, seed: int = 0
) -> Stage:
    """The student of `kd` with the labels alone, for the same number of steps.

    width: of its hidden layer
    """
    return kd(d=d, k=k, width=width, epochs=epochs, rows=rows, lr=lr, seed=seed).alone()


def kd(
    tau: float = 1.0, alpha: float = 1.0, d: int = 30, k: int = 4, width: int = 100, epochs: int = 100, rows: int = 3200,
    lr: float = 0.1, seed: int = 0,
) -> Stage:  # fmt: skip
    """One-shot distillation (Hinton et al., 2015): the finished teacher's answers from the first step on.

    tau: temperature that softens both distributions
    alpha: weight of the teacher's term; the labels' term has 1 - alpha
    width: of the student's hidden layer
    """
    return _distilled(published.kd(alpha, tau), "kd", d, k, width, epochs, rows, lr, seed)


def progressive(
    snapshots: int = 3, tau: float = 1.0, alpha: float = 1.0, d: int = 30, k: int = 4, width: int = 100,
    epochs: int = 100, rows: int = 3200, lr: float = 0.1, seed: int = 0,
) -> Stage:  # fmt: skip
    """Progressive distillation (Panigrahi et al., 2024): the teacher's answers while it learned, then when it was finished.

    Snapshots from before it knew anything are no better than chance, and need `--any-teacher`.

    snapshots: how many, evenly over the teacher's training; student's epochs are shared between them and the teacher
    tau: temperature that softens both distributions
    alpha: weight of the teacher's term; the labels' term has 1 - alpha
    width: of the student's hidden layer
    """
    last = _distilled(published.kd(alpha, tau), "progressive", d, k, width, epochs, rows, lr, seed)
    whole = teacher().budget.epochs
    return progressively(last, [whole * (i + 1) // (snapshots + 1) for i in range(snapshots)])


@searched(share=Range(0.02, 0.5), dim=Choice(None, 8, 16, 32, 64))
def curriculum(
    share: float = 0.1, dim: int | None = None,
    schedule: Literal["equal", "plateau"] = "equal", tau: float = 1.0, alpha: float = 1.0, d: int = 30, k: int = 4,
    width: int = 100, epochs: int = 100, rows: int = 3200, lr: float = 0.1, seed: int = 0,
) -> Stage:  # fmt: skip
    """Curriculum Extraction (Gupta and Karmalkar, 2025): the finished teacher's hidden layer, then its answers.

    share: of the epochs, that is for the hidden layer
    dim: units of the student's layer that are matched; all by default
    schedule: the whole share for the hidden layer, or at most that, over where its loss has stopped falling
    tau: temperature that softens both distributions
    alpha: weight of the teacher's term; the labels' term has 1 - alpha
    width: of the student's hidden layer
    """
    last = _distilled(published.kd(alpha, tau), "curriculum", d, k, width, epochs, rows, lr, seed)
    plateau = PLATEAU if schedule == "plateau" else None
    return extracted(last, dim=dim, share=share, plateau=plateau, seed=seed)


def _distilled(
    objective: Objective, label: str, d: int, k: int, width: int, epochs: int, rows: int, lr: float, seed: int
) -> Stage:
    """The student under an objective, taught by `teacher`."""
    return _stage(objective, label, d, k, width, epochs, rows, lr, seed, {"teacher": teacher(d, k, rows=rows)})


def _stage(
    objective: Objective, label: str, d: int, k: int, width: int, epochs: int, rows: int, lr: float, seed: int,
    teachers: dict[str, Stage] | None = None,
) -> Stage:  # fmt: skip
    source = Parity(d, k, rows + HELD_OUT)
    test = replace(source, rows=HELD_OUT, first=rows + HELD_OUT)
    dataset = Dataset(source, test, validation=HELD_OUT / (rows + HELD_OUT))
    view = View(dataset, (source.redrawn,), replicas=epochs)
    budget = Budget(epochs, batch_size=32, optimiser=SGD(lr, momentum=0.0, weight_decay=0.0), schedule=Steps(()))
    network = MLP((width,), classes=2, shape=(d,))
    return Stage(network, objective, view, teachers or {}, budget=budget, seed=seed, label=label)


if __name__ == "__main__":
    job(__file__)
