"""Distillation on scikit-learn's handwritten digits, 8x8 pixels: a teacher of 539 rows, a student of 100, half a minute.

    python jobs/digits.py kd --tau 4          raykd run jobs/digits.py:kd --tau 4

The defaults were chosen on the validation split, the learning rate so that it is near the best of the student alone as well
as of the distilled one (`RESULTS.md`). With all rows for both there is little to gain: the student alone is good enough.
"""

from dataclasses import replace

from raykd import SGD, Budget, Constant, CrossEntropy, Dataset, Distill, Stage, View
from raykd.cli import job
from raykd.data import Affine, Digits
from raykd.methods.kl import KL
from raykd.models import CNN

DIGITS = Dataset(Digits(), validation=0.4, holdout=0.5)
MOVED = (Affine(degrees=10, translate=0.1),)
SHAPE = (1, 8, 8)


def teacher(epochs: int = 40, replicas: int = 8, seed: int = 0) -> Stage:
    """A convolutional network, trained on slightly moved digits.

    epochs: passes over the training rows
    replicas: moved copies of each training row
    seed: of initial weights and order
    """
    budget = Budget(epochs, batch_size=64, optimiser=SGD(lr=0.1))
    view = View(DIGITS, MOVED, replicas)
    return Stage(CNN(32, shape=SHAPE), 1.0 * CrossEntropy(), view, budget=budget, seed=seed, label="teacher")


def kd(
    tau: float = 4.0,
    alpha: float = 0.9,
    width: int = 8,
    rows: int = 100,
    epochs: int = 120,
    lr: float = 0.1,
    replicas: int = 32,
    seed: int = 0,
) -> Stage:
    """Knowledge distillation (Hinton et al., 2015) of the teacher into a network with a quarter of its channels.

    tau: temperature that softens both distributions
    alpha: weight of the teacher's term; the labels' term has 1 - alpha
    width: channels of the student's first block
    rows: labelled training rows that the student sees
    epochs: passes over these rows
    lr: peak learning rate
    replicas: moved copies of each row that the teacher labels
    seed: of the student's initial weights and order
    """
    objective = (1 - alpha) * CrossEntropy() + alpha * Distill(KL(), temperature=Constant(tau))
    budget = Budget(epochs, batch_size=25, optimiser=SGD(lr))
    view = View(replace(DIGITS, limit=rows), MOVED, replicas)
    network = CNN(width, shape=SHAPE)
    return Stage(network, objective, view, {"teacher": teacher()}, budget=budget, seed=seed, label="kd")


def student(
    width: int = 8,
    rows: int = 100,
    epochs: int = 120,
    lr: float = 0.1,
    replicas: int = 32,
    seed: int = 0,
) -> Stage:
    """The student of `kd` with the labels alone, at the same budget.

    width: channels of its first block
    rows: labelled training rows that it sees
    epochs: passes over these rows
    lr: peak learning rate
    replicas: moved copies of each row
    seed: of initial weights and order
    """
    return kd(width=width, rows=rows, epochs=epochs, lr=lr, replicas=replicas, seed=seed).alone()


if __name__ == "__main__":
    job(__file__)
