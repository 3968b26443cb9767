"""What training may spend, and how: epochs, batches, optimiser, learning rate over time. All of it is identity.

The learning rate is a pure function of how much training is done: `lr * schedule(epochs_done, epochs)`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import accumulate, pairwise
from typing import Literal

from torch import nn, optim


def _positive(spec: object, name: str) -> None:
    value = getattr(spec, name)
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name}={value} of {type(spec).__name__}: a number above 0 would be right")


class Optimiser(ABC):
    """A spec that builds a torch optimiser; `lr` is the peak learning rate."""

    lr: float

    @abstractmethod
    def build(self, parameters: Iterable[nn.Parameter]) -> optim.Optimizer:
        """The optimiser over these parameters."""


@dataclass(frozen=True)
class SGD(Optimiser):
    """Stochastic gradient descent with momentum."""

    lr: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4
    nesterov: bool = False

    def __post_init__(self) -> None:
        _positive(self, "lr")

    def build(self, parameters: Iterable[nn.Parameter]) -> optim.Optimizer:
        """torch's SGD."""
        return optim.SGD(
            parameters, lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay, nesterov=self.nesterov
        )


@dataclass(frozen=True)
class AdamW(Optimiser):
    """Adam with decoupled weight decay."""

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.01

    def __post_init__(self) -> None:
        _positive(self, "lr")

    def build(self, parameters: Iterable[nn.Parameter]) -> optim.Optimizer:
        """torch's AdamW."""
        return optim.AdamW(parameters, lr=self.lr, betas=self.betas, weight_decay=self.weight_decay)


class Schedule(ABC):
    """A spec of the learning rate's factor over time."""

    warmup: float
    """Epochs of linear rise from 0 to the peak."""

    @abstractmethod
    def after_warmup(self, epochs_done: float, epochs: int) -> float:
        """The factor when the warm-up is over, in [0, 1]."""

    def __call__(self, epochs_done: float, epochs: int) -> float:
        """Factor of the peak learning rate when `epochs_done` of `epochs` are behind."""
        if epochs_done < self.warmup:
            return epochs_done / self.warmup
        return self.after_warmup(epochs_done, epochs)


@dataclass(frozen=True)
class Cosine(Schedule):
    """Half a cosine from the peak to `floor` of it."""

    warmup: float = 0.0
    floor: float = 0.0

    def after_warmup(self, epochs_done: float, epochs: int) -> float:
        """1 at the end of the warm-up, `floor` at the end."""
        fraction = (epochs_done - self.warmup) / max(epochs - self.warmup, 1e-12)
        return self.floor + (1 - self.floor) * (1 + math.cos(math.pi * min(fraction, 1.0))) / 2


@dataclass(frozen=True)
class Steps(Schedule):
    """Multiplied by `factor` at each milestone (in epochs)."""

    milestones: tuple[float, ...]
    factor: float = 0.1
    warmup: float = 0.0

    def after_warmup(self, epochs_done: float, epochs: int) -> float:
        """`factor` to the number of milestones behind."""
        return self.factor ** sum(epochs_done >= milestone for milestone in self.milestones)


@dataclass(frozen=True)
class Falling(Schedule):
    """Straight down to `floor` of the peak in the first `fall` epochs, then times `factor` after each `every` epochs more."""

    fall: float
    every: float
    floor: float = 0.2
    factor: float = 0.1
    warmup: float = 0.0

    def __post_init__(self) -> None:
        _positive(self, "every")
        if not self.warmup < self.fall:
            raise ValueError(
                f"fall={self.fall} of Falling: more than the {self.warmup:g} epochs of warmup would be right"
            )

    def after_warmup(self, epochs_done: float, epochs: int) -> float:
        """1 at the end of the warm-up, `floor` after `fall` epochs."""
        fallen = (epochs_done - self.warmup) / (self.fall - self.warmup)
        if fallen < 1:
            return 1 - (1 - self.floor) * fallen
        return float(self.floor * self.factor ** ((epochs_done - self.fall) // self.every))


@dataclass(frozen=True)
class Plateau:
    """Where a loss has stopped falling: `patience` epochs behind which none was lower than the lowest by `tolerance` of it.

    Waiting begins after `floor` epochs, so a plateau before that ends nothing: many losses stand still before they fall.

    Raises `ValueError` for a floor below 0, a patience below 1 and a tolerance outside of [0, 1).
    """

    floor: int = 5
    patience: int = 3
    tolerance: float = 0.01

    def __post_init__(self) -> None:
        if self.floor < 0 or self.patience < 1 or not 0 <= self.tolerance < 1:
            raise ValueError(f"{self}: floor 0 or more, patience 1 or more and 0 <= tolerance < 1 would be right")

    def epochs(self, losses: Sequence[float]) -> int:
        """How many of these epochs are trained: up to where they have stood still for long enough, or all."""
        return next((n for n in range(1, len(losses)) if self.over(losses[:n])), len(losses))

    def over(self, losses: Sequence[float]) -> bool:
        """Whether these, of all epochs so far, have stood still for long enough."""
        lowest, since = math.inf, 0
        for epoch, loss in enumerate(losses, start=1):
            if epoch == 1 or loss < lowest - self.tolerance * abs(lowest):
                lowest, since = loss, epoch
        return len(losses) - max(since, self.floor) >= self.patience


@dataclass(frozen=True)
class Budget:
    """One training: `epochs` times over the rows, `batch_size` rows a step over all workers together."""

    epochs: int = 30
    batch_size: int = 64
    optimiser: Optimiser = SGD()
    schedule: Schedule = Cosine()
    clip: float | None = None
    """Largest norm of the gradient; None: not clipped."""
    ema: float | None = None
    """Decay of an exponential moving average of the weights, which is then what is evaluated and kept; None: no average."""
    start: int = 0
    """The first epoch that is trained; those before it were, by what the stage starts from. Order of rows, replicas and
    learning rate go on as in one training; the optimiser starts anew."""
    until: int | None = None
    """Stop after so many of the epochs; None: train to the end. What is longer but otherwise equal continues from there, so
    snapshots of one training cost no more than it. 0: nothing is trained, the network is what it starts from."""
    keep: Literal["best", "last"] = "best"
    """Which epoch's weights the stage yields: the first with the highest validation accuracy, or the last."""
    plateau: Plateau | None = None
    """End where the training loss has stopped falling, if that is before the end. What goes on from where this was to end goes
    on from where it did, and a part that may end early itself is then as much earlier over: epochs that one part does not need
    are the last one's. None: train to the end."""

    def identity(self) -> object:
        """Its fields; without a plateau what they were when there was none."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return values if self.plateau else {name: value for name, value in values.items() if name != "plateau"}

    def __post_init__(self) -> None:
        _positive(self, "epochs")
        _positive(self, "batch_size")
        if self.clip is not None:
            _positive(self, "clip")
        if self.ema is not None and not 0 < self.ema < 1:
            raise ValueError(f"ema={self.ema} of Budget: a decay between 0 and 1, such as 0.999, would be right")
        if self.until is not None and not 0 <= self.until <= self.epochs:
            raise ValueError(f"until={self.until} of Budget: 0 to {self.epochs}, its epochs, would be right")
        if not 0 <= self.start <= self.end:
            raise ValueError(f"start={self.start} of Budget: 0 to {self.end}, where it ends, would be right")
        if self.keep not in ("best", "last"):
            raise ValueError(f"keep={self.keep!r} of Budget: 'best' or 'last' would be right")
        if self.schedule.warmup > self.epochs:
            raise ValueError(f"warmup={self.schedule.warmup} of the schedule is longer than the {self.epochs} epochs")

    @property
    def end(self) -> int:
        """The epoch that it stops before."""
        return self.epochs if self.until is None else self.until

    @property
    def trained(self) -> int:
        """How many epochs are trained."""
        return self.end - self.start

    def parts(self, epochs: int | Sequence[int]) -> tuple[Budget, ...]:
        """The same training in consecutive parts: so many that are as equal as can be, or of so many epochs each.

        All but the last keep their last weights, from which the next one is to start. One part is the whole.

        Raises `ValueError` unless each part has an epoch, and together they have those of the whole.
        """
        if isinstance(epochs, int):
            count = max(epochs, 1)
            epochs = [self.trained // count + (part < self.trained % count) for part in range(epochs)]
        if not epochs or min(epochs) < 1 or sum(epochs) != self.trained:
            raise ValueError(
                f"parts of {', '.join(map(str, epochs)) or 'no'} epochs: each needs one, and together"
                f" {self.trained}, those of the whole, would be right"
            )
        bounds = list(pairwise(accumulate(epochs, initial=self.start)))
        return (
            *(replace(self, start=start, until=until, keep="last") for start, until in bounds[:-1]),
            replace(self, start=bounds[-1][0]),
        )

    def lr(self, epochs_done: float) -> float:
        """Learning rate when `epochs_done` are behind."""
        return self.optimiser.lr * self.schedule(epochs_done, self.epochs)
