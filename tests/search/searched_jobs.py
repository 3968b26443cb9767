"""Recipes with spaces, for the tests of searches."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Literal

import tiny

from raykd import SGD, Budget, Stage
from raykd.methods import published
from raykd.models import MLP
from raykd.search import Choice, Range, searched


def _written(tau: float, lr: float, width: int, epochs: int, seed: int) -> Stage:
    stage = tiny.student(tau=tau, epochs=epochs, replicas=1, seed=seed)
    budget = Budget(epochs, batch_size=32, optimiser=SGD(lr))
    return replace(stage, student=MLP((width,), shape=tiny.SHAPE), budget=budget, label="searched")


@searched(tau=Range(1.0, 8.0), lr=Range(0.01, 0.5, log=True))
def kd(tau: float = 2.0, lr: float = 0.05, width: int = 16, epochs: int = 4, seed: int = 0) -> Stage:
    """A tiny distillation."""
    return _written(tau, lr, width, epochs, seed)


@searched(tau=Range(1.0, 8.0), lr=Choice(0.02, 0.05, 0.2))
def mixed(tau: float = 2.0, lr: float = 0.05, epochs: int = 6) -> Stage:
    """One with a range and a choice."""
    return _written(tau, lr, 16, epochs, 0)


@searched(width=Range(2, 32, log=True), lr=Range(0.01, 0.5, log=True))
def sized(width: int = 16, lr: float = 0.05, epochs: int = 2) -> Stage:
    """One whose student may be small."""
    return _written(2.0, lr, width, epochs, 0)


@searched(method=Choice(), tau=Range(1.0, 8.0), beta=Range(1.0, 10.0, when={"method": "dkd"}))
def methods(
    method: Literal["kd", "dkd", "refused"] = "kd", tau: float = 2.0, beta: float = 8.0, epochs: int = 2
) -> Stage:
    """One whose method is a knob, and whose third method cannot be written."""
    if method == "refused":
        raise ValueError("method=refused cannot be written")
    written = _written(tau, 0.05, 16, epochs, 0)
    return written if method == "kd" else replace(written, objective=published.dkd(beta=beta, tau=tau, warmup=1.0))


@searched(tau=Range(1.0, 8.0), lr=Range(0.01, 0.5))
def slow(tau: float = 2.0, lr: float = 0.05, epochs: int = 2) -> Stage:
    """One that takes a while, so that it can be killed."""
    time.sleep(0.3)
    return _written(tau, lr, 16, epochs, 0)


@searched(epochs=Range(1, 8))
def long(epochs: int = 2) -> Stage:
    """One that may be short or long."""
    return _written(2.0, 0.05, 16, epochs, 0)
