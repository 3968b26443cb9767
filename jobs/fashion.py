"""Distillation on Fashion-MNIST: 60,000 images of 28x28 pixels, some minutes on two cores.

    python jobs/fashion.py kd --tau 2          raykd run jobs/fashion.py:kd --tau 2

The defaults were chosen on the validation split, by short runs (`RESULTS.md`).
"""

from raykd import SGD, Budget, Constant, CrossEntropy, Dataset, Distill, Stage, View
from raykd.cli import job
from raykd.data import Crop, FashionMNIST, Flip
from raykd.methods.kl import KL
from raykd.models import CNN

FASHION = Dataset(FashionMNIST(), FashionMNIST("test"), validation=1 / 12)
SHAPE = (1, 28, 28)


def teacher(width: int = 16, epochs: int = 10, replicas: int = 4, seed: int = 0) -> Stage:
    """A convolutional network, trained on shifted and mirrored images.

    width: channels of its first block
    epochs: passes over the training rows
    replicas: shifted and mirrored copies of each training row
    seed: of initial weights and order
    """
    budget = Budget(epochs, batch_size=128, optimiser=SGD(lr=0.1))
    network = CNN(width, shape=SHAPE)
    return Stage(network, 1.0 * CrossEntropy(), _view(replicas), budget=budget, seed=seed, label="teacher")


def kd(
    tau: float = 2.0,
    alpha: float = 0.9,
    width: int = 4,
    epochs: int = 8,
    lr: float = 0.2,
    replicas: int = 4,
    seed: int = 0,
) -> Stage:
    """Knowledge distillation (Hinton et al., 2015) of the teacher into a network with a quarter of its channels.

    tau: temperature that softens both distributions
    alpha: weight of the teacher's term; the labels' term has 1 - alpha
    width: channels of the student's first block
    epochs: passes over the training rows
    lr: peak learning rate
    replicas: shifted and mirrored copies of each training row that the teacher labels
    seed: of the student's initial weights and order
    """
    objective = (1 - alpha) * CrossEntropy() + alpha * Distill(KL(), temperature=Constant(tau))
    budget = Budget(epochs, batch_size=128, optimiser=SGD(lr))
    network = CNN(width, shape=SHAPE)
    return Stage(network, objective, _view(replicas), {"teacher": teacher()}, budget=budget, seed=seed, label="kd")


def student(width: int = 4, epochs: int = 8, lr: float = 0.2, replicas: int = 4, seed: int = 0) -> Stage:
    """The student of `kd` with the labels alone, at the same budget.

    width: channels of its first block
    epochs: passes over the training rows
    lr: peak learning rate
    replicas: shifted and mirrored copies of each training row
    seed: of the student's initial weights and order
    """
    return kd(width=width, epochs=epochs, lr=lr, replicas=replicas, seed=seed).alone()


def _view(replicas: int) -> View:
    return View(FASHION, (Crop(2), Flip()), replicas)


if __name__ == "__main__":
    job(__file__)
