"""One teacher at a time: of several, each row listens to a single one.

    Best, Worst     w_k = 1 for the teacher that gives the label the highest, the lowest probability
    RandomOne       w_k = 1 for a teacher drawn anew for each row in each epoch

A draw is a function of (seed, row, epoch, name) and nothing else, so it is the same in any batch and at any number of workers,
and one more teacher takes some rows from the others without shuffling theirs. Of equal teachers the first counts.

[interpretation] The source switches teachers from one minibatch to the next; here each row has its own. That the label may
choose is ours: two bounds for weightings that try to. A mixed row is judged by its own label.

Shapes: T teachers, B batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from raykd.batch import Batch
from raykd.identity import digest
from raykd.objective import Needs, Weighting
from raykd.rng import bits_there
from raykd.signals import LOGITS

READS = frozenset({"dense", "topk"})


@dataclass(frozen=True)
class Best(Weighting):
    """The teacher that finds the label likeliest: what a perfect choice of one would give.

    Source: T. Fukuda et al., "Efficient Knowledge Distillation from an Ensemble of Teachers", 2017, for one teacher at
        a time.
    """

    reads: ClassVar[frozenset[str]] = READS

    def needs(self, teachers: Sequence[str]) -> Needs:
        """Their logits."""
        return {name: frozenset({LOGITS}) for name in teachers}

    def __call__(self, batch: Batch, names: Sequence[str]) -> Tensor:
        """[T, B]"""
        return _only_TB(batch.log_true_class_probability_TB(names).argmax(0), len(names))

    def __str__(self) -> str:
        return "best"


@dataclass(frozen=True)
class Worst(Weighting):
    """The teacher that finds the label least likely: what a choice can cost.

    Source: T. Fukuda et al., "Efficient Knowledge Distillation from an Ensemble of Teachers", 2017, for one teacher at
        a time.
    """

    reads: ClassVar[frozenset[str]] = READS

    def needs(self, teachers: Sequence[str]) -> Needs:
        """Their logits."""
        return {name: frozenset({LOGITS}) for name in teachers}

    def __call__(self, batch: Batch, names: Sequence[str]) -> Tensor:
        """[T, B]"""
        return _only_TB(batch.log_true_class_probability_TB(names).argmin(0), len(names))

    def __str__(self) -> str:
        return "worst"


@dataclass(frozen=True)
class RandomOne(Weighting):
    """A teacher drawn for each row, each as likely as the others.

    Source: T. Fukuda et al., "Efficient Knowledge Distillation from an Ensemble of Teachers", 2017, for switching at random.
    """

    seed: int = 0

    def __call__(self, batch: Batch, names: Sequence[str]) -> Tensor:
        """[T, B]"""
        drawn = [bits_there(self.seed, batch.ids_B, batch.progress.epoch, number_of(name)) for name in names]
        return _only_TB(torch.stack(drawn).argmax(0), len(names))

    def __str__(self) -> str:
        return f"one at random {self.seed}"


def number_of(name: str) -> int:
    """A teacher's name as a coordinate of a draw."""
    return int(digest(name)[:15], 16)


def _only_TB(chosen_B: Tensor, teachers: int) -> Tensor:
    return F.one_hot(chosen_B, teachers).T.float()
