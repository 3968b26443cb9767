"""Distillation on scikit-learn's handwritten digits: 1,797 images of 8x8 pixels, a minute on a laptop.

python jobs/digits.py kd --tau 4          raykd run jobs/digits.py:kd --tau 4
"""

from raykd import SGD, Budget, Constant, CrossEntropy, Dataset, Distill, Stage, View
from raykd.cli import job
from raykd.data import Affine, Digits
from raykd.methods.kl import KL
from raykd.models import CNN, MLP

DIGITS = Dataset(Digits(), validation=0.2, holdout=0.3)
SHAPE = (1, 8, 8)


def teacher(epochs: int = 30, seed: int = 0) -> Stage:
    """A small convolutional network, trained on slightly moved digits.

    epochs: passes over the training rows
    seed: of initial weights and order
    """
    view = View(DIGITS, (Affine(degrees=10, translate=0.1),), replicas=8)
    budget = Budget(epochs, batch_size=64, optimiser=SGD(lr=0.1))
    return Stage(CNN(32, shape=SHAPE), 1.0 * CrossEntropy(), view, budget=budget, seed=seed, label="teacher")


def kd(
    tau: float = 4.0, alpha: float = 0.9, hidden: int = 8, epochs: int = 40, replicas: int = 8, seed: int = 0
) -> Stage:
    """Knowledge distillation (Hinton et al., 2015) of the teacher into one narrow hidden layer.

    tau: temperature that softens both distributions
    alpha: weight of the teacher's term; the labels' term has 1 - alpha
    hidden: units of the student's hidden layer
    epochs: passes over the training rows
    replicas: moved copies of each training row that the teacher labels
    seed: of the student's initial weights and order
    """
    view = View(DIGITS, (Affine(degrees=10, translate=0.1),), replicas=replicas)
    objective = (1 - alpha) * CrossEntropy() + alpha * Distill(KL(), temperature=Constant(tau))
    budget = Budget(epochs, batch_size=64, optimiser=SGD(lr=0.1))
    student = MLP((hidden,), shape=SHAPE)
    return Stage(student, objective, view, {"teacher": teacher()}, budget=budget, seed=seed, label="kd")


def student(hidden: int = 8, epochs: int = 40, replicas: int = 8, seed: int = 0) -> Stage:
    """The student of `kd` with the labels alone, at the same budget."""
    return kd(hidden=hidden, epochs=epochs, replicas=replicas, seed=seed).alone()


if __name__ == "__main__":
    job(__file__)
