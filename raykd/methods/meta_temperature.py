"""HPM-KD's temperature: one of three schedules, which the first tenth of the loss curve chooses, revised from time to time.

    T = lowest + (highest - lowest) s

    cosine         s = (1 + cos(pi t / t_max)) / 2            from the highest to the lowest
    loss           s = (L - L_min) / (L_max - L_min)          soft while the loss is high
    convergence    s = exp(-rate |dL/dt|)                     soft once the loss stands still
    movement       s = 1 - exp(-rate |dL/dt|)                 the opposite, which the paper's words describe

L is the training loss of an epoch, dL/dt its change over the last epoch, L_min and L_max the extremes so far. The paper gives
the formulas, and no rule that chooses. Ours [interpretation]: until a tenth of the epochs is behind us, at least 3, tau is
`start`; then, of the curve so far: if the loss rose in more than a quarter of its steps, `convergence`, which answers to noise
with a middling temperature; else if it fell by half or more, `loss`, because there is something to follow; else `cosine`, which
needs nothing of the curve. All of it is a function of the epoch and the losses before it, so it is the same on every worker and
after a resume.

Source: G. C. Haase, P. H. D. da Silva, "HPM-KD: Hierarchical Progressive Multi-Teacher Framework for Knowledge Distillation and
Efficient Model Compression", 2025, the meta-temperature scheduler.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor

from raykd.batch import Batch, Progress
from raykd.objective import Temperature

Schedule = Literal["cosine", "loss", "convergence", "movement"]
By = Literal["auto", "cosine", "loss", "convergence", "movement"]
RISES, FALLS = 0.25, 0.5  # of the rule that chooses


@dataclass(frozen=True)
class MetaTemperature(Temperature):
    """A temperature between `lowest` and `highest`, revised every few epochs.

    Raises `ValueError` for a range that is empty or not above 0, a start outside of it, or an unknown schedule.
    """

    by: By = "auto"
    lowest: float = 2.0
    highest: float = 6.0
    start: float = 4.0
    """Until "auto" has chosen."""
    every: int = 10
    """Epochs between revisions."""
    rate: float = 1.0
    """Of convergence, per unit of loss."""

    def __post_init__(self) -> None:
        if self.by not in get_args(By):
            raise ValueError(f"by={self.by!r} of MetaTemperature: one of {', '.join(get_args(By))} would be right")
        if not 0 < self.lowest <= self.start <= self.highest < math.inf:
            raise ValueError(f"{self!r}: 0 < lowest <= start <= highest would be right")
        if self.every < 1 or not self.rate >= 0:
            raise ValueError(f"{self!r}: an every of 1 or more and a rate of 0 or more would be right")

    def __call__(self, batch: Batch, names: Sequence[str]) -> Tensor:
        """[1, 1]"""
        return torch.full((1, 1), self.at(batch.progress), device=batch.labels_B.device)

    def at(self, progress: Progress) -> float:
        """The temperature in an epoch."""
        chosen = self.chosen(progress)
        if chosen is None:
            return self.start
        revised = progress.epoch // self.every * self.every
        known = progress.losses[: max(0, len(progress.losses) - (progress.epoch - revised))]
        soft = share(chosen, revised / progress.epochs, known, self.rate)
        return self.lowest + (self.highest - self.lowest) * soft

    def chosen(self, progress: Progress) -> Schedule | None:
        """Which schedule holds in an epoch; None while "auto" still watches."""
        if self.by != "auto":
            return self.by
        watched = max(3, math.ceil(progress.epochs / 10))
        if len(progress.losses) < watched:
            return None
        curve = progress.losses[:watched]
        steps = list(pairwise(curve))
        if sum(after > before for before, after in steps) > RISES * len(steps):
            return "convergence"
        return "loss" if curve[0] - curve[-1] >= FALLS * abs(curve[0]) else "cosine"

    def __str__(self) -> str:
        return f"tau {self.lowest:g} to {self.highest:g} by {self.by}"


def share(by: Schedule, done: float, losses: Sequence[float], rate: float) -> float:
    """s, in [0, 1], when this share of the training is done, with these losses. Before a loss can tell, it is 1 or moves."""
    if by == "cosine":
        return (1 + math.cos(math.pi * done)) / 2
    if by == "loss":
        spread = max(losses) - min(losses) if losses else 0.0
        return (losses[-1] - min(losses)) / spread if spread else 1.0
    still = math.exp(-rate * abs(losses[-1] - losses[-2])) if len(losses) > 1 else 0.0
    return still if by == "convergence" else 1 - still
