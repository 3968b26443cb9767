"""Recipes for the tests of the command line."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import tiny
from torch import Tensor

from raykd import SGD, Dataset, Pretrained, Stage, View
from raykd.data import Arrays, Draws, Operation
from raykd.methods import published
from raykd.methods.auto_chain import auto_chain
from raykd.methods.hpm import hpm
from raykd.models import MLP
from raykd.search import Adaptive, Range, searched
from raykd.selection import Selection


def kd(
    tau: float = 2.0, epochs: int = 2, kind: Literal["sgd", "adam"] = "sgd", replicas: int = 1, mixed: bool = False
) -> Stage:
    """A tiny distillation.

    tau: temperature that softens both
    """
    assert kind in ("sgd", "adam")
    assert isinstance(mixed, bool)
    return replace(tiny.student(tau=tau, epochs=epochs, replicas=replicas), label="tiny kd")


def required(steps: int) -> Stage:
    """Needs a knob."""
    return kd(epochs=steps)


def nothing() -> Stage:
    """Returns no stage."""
    return None  # type: ignore[return-value]


def given(weights: str, hidden: int = 32) -> Stage:
    """Distils a network that came from a file."""
    return replace(tiny.student(), teachers={"teacher": Pretrained(MLP((hidden,), shape=tiny.SHAPE), weights)})


def _arrays(inputs: np.ndarray, labels: np.ndarray, **changes: int) -> Stage:
    dataset = Dataset(Arrays(inputs, labels, **changes))  # type: ignore[arg-type]
    return replace(tiny.teacher(), student=MLP((4,), classes=3, shape=(4,)), view=View(dataset))


def poisoned(what: Literal["nan", "label", "empty"] = "nan") -> Stage:
    """Rows with something wrong."""
    inputs, labels = np.zeros((60, 4), np.float32), np.arange(60) % 3
    if what == "nan":
        inputs[7, 2] = np.nan
    if what == "label":
        labels[11] = 3
    if what == "empty":
        inputs, labels = inputs[:0], labels[:0]
    return _arrays(inputs, labels, classes=3)


def elsewhere(folder: str = "/no/such/folder") -> Stage:
    """Data that are not there."""
    from raykd.data import FashionMNIST

    return replace(
        tiny.teacher(), student=MLP((4,), shape=(1, 28, 28)), view=View(Dataset(FashionMNIST(folder=folder)))
    )


def mismatched() -> Stage:
    """A student with other classes than the data."""
    return replace(tiny.student(), student=MLP((8,), classes=7, shape=tiny.SHAPE))


def untaught() -> Stage:
    """A term that names no teacher."""
    from raykd import Distill
    from raykd.methods.kl import KL

    return replace(tiny.student(), objective=1.0 * Distill(KL(), teachers=("tutor",)))


def observed(tap: str = "nowhere") -> Stage:
    """A term that reads a tap."""
    from raykd import Distill

    return replace(tiny.student(), objective=1.0 * Distill(tiny.At(tap)))


@dataclass(frozen=True)
class Slow(Operation):
    """Changes nothing, and takes its time."""

    seconds: float

    def __call__(self, images_BCHW: Tensor, draws: Draws) -> Tensor:
        time.sleep(self.seconds)
        return images_BCHW


def slow(replicas: int = 16, epochs: int = 12, tau: float = 2.0, seconds: float = 0.02, batch: int = 32) -> Stage:
    """A distillation that takes long enough to be killed in the middle of labeling and, in small batches, of training."""
    written = tiny.with_batch(tiny.student(tau=tau, epochs=epochs, replicas=replicas), batch)
    return replace(written, view=replace(written.view, ops=(Slow(seconds),)), label="slow")


def chained(most: int = 2, epsilon: float = 0.001, epochs: int = 2) -> Selection:
    """A tiny distillation through as many links as it gains by.

    epsilon: what one more link must gain
    """
    written = replace(tiny.student(epochs=epochs, replicas=1), student=MLP((4,), shape=tiny.SHAPE), label="chained")
    return auto_chain(written, most, epsilon=epsilon)


@searched(tau=Range(2.0, 8.0), alpha=Range(0.1, 1.0), epsilon=Range(0.005, 0.05))
def managed(
    tau: float = 4.0, alpha: float = 0.9, lr: float = 0.05, epsilon: float = 0.005, epochs: int = 8, most: int = 0,
    teachers: int = 1, proposals: int = 3, refine: int = 4, threshold: float = 1.0, adaptive: bool = True,
    memory: bool = True, attention: bool = True, temperature: bool = True,
) -> Stage | Selection | Adaptive:  # fmt: skip
    """All of HPM-KD, tiny.

    adaptive: short runs decide about tau, alpha and epsilon
    """
    knobs = dict(locals())
    if adaptive:
        fixed = () if most else ("epsilon",)
        rules = {"proposals": proposals, "most": refine, "threshold": threshold}
        return Adaptive(managed, {**knobs, "adaptive": False}, fixed=fixed, memory=memory, **rules)  # type: ignore[arg-type]
    stage = replace(tiny.student(epochs=epochs, replicas=1), student=MLP((4,), shape=tiny.SHAPE), label="managed")
    budget = replace(stage.budget, optimiser=SGD(lr))
    stage = replace(stage, objective=published.kd(alpha, tau), teachers=tiny_teachers(teachers), budget=budget)
    return hpm(stage, chain=most > 0, attention=attention, temperature=temperature, epsilon=epsilon, most=most)


def tiny_teachers(count: int) -> dict[str, Stage]:
    """So many, each narrower."""
    return {f"teacher{i or ''}": tiny.teacher(width=32 - 8 * i) for i in range(count)}
