"""A choice between stages that a run makes: the last one that was worth what it costs more than the one before.

    candidates, the cheapest first -> make them in turn -> until one gains less than epsilon over the one before: that one stays

So the last candidate that is made may be one that is not taken, and its cost counts. A stage is a selection of one candidate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from raykd.identity import fingerprint
from raykd.stage import Stage

METRICS = ("val_top1", "val_nll")
"""Those of the validation split: the test split is for the final figure. Of the second less is better."""


@dataclass(frozen=True)
class Selection:
    """Stages that yield the same student in ways that cost more and more. Equal stages are one candidate.

    Raises `ValueError` for no candidates, for other students or datasets among them, for a metric that is not of the validation
    split, and for an epsilon below 0.
    """

    candidates: tuple[Stage, ...]
    epsilon: float = 0.001
    """What the next candidate must gain at least; 0.001 of `val_top1` is a tenth of a percentage point."""
    metric: str = "val_top1"
    relative: bool = False
    """Whether the gain is a share of the metric."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "candidates", tuple({fingerprint(each): each for each in self.candidates}.values()))
        if not self.candidates:
            raise ValueError("a Selection without candidates: at least one stage")
        for name, found in (
            ("students", {fingerprint(each.student): str(each.student) for each in self.candidates}),
            ("datasets", {fingerprint(each.view.dataset): str(each.view.dataset) for each in self.candidates}),
        ):
            if len(found) > 1:
                raise ValueError(f"a Selection of {name} {' and '.join(found.values())}: all candidates have the same")
        if self.metric not in METRICS:
            raise ValueError(f"metric={self.metric!r} of Selection: {' or '.join(METRICS)} would be right")
        if not (math.isfinite(self.epsilon) and self.epsilon >= 0):
            raise ValueError(f"epsilon={self.epsilon} of Selection: a number from 0 would be right")

    def gain(self, before: float, after: float) -> float:
        """How much better the metric became; of a relative gain from 0, whatever it is."""
        gain = before - after if self.metric == "val_nll" else after - before
        return gain / abs(before) if self.relative and before else gain

    def chosen(self, values: Sequence[float]) -> int | None:
        """The candidate to take, if the first ones have these values of the metric; None if the next must be made to tell."""
        for last, (before, after) in enumerate(pairwise(values)):
            if self.gain(before, after) < self.epsilon:
                return last
        return len(values) - 1 if len(values) == len(self.candidates) else None

    def __str__(self) -> str:
        return f"{self.candidates[0]}, or one of {len(self.candidates) - 1} others"


def cheapest(written: Stage | Selection) -> Stage:
    """A stage, or the first of several."""
    return written.candidates[0] if isinstance(written, Selection) else written
