"""What an objective may look at: values of one batch, never a network.

What a teacher said is a tensor, or `Sparse` where its logits are stored as a few classes and a tail.

Shapes: T teachers, B batch, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from raykd.signals import LOGITS, Observable
from raykd.sparse import Sparse


@dataclass(frozen=True)
class Progress:
    """How far the training of a stage is. Epochs and steps count from 0; `steps` are those of one epoch."""

    epoch: int
    epochs: int
    step: int = 0
    steps: int = 1
    losses: tuple[float, ...] = ()
    """The loss of each epoch behind us, its mean over rows."""

    @property
    def epochs_done(self) -> float:
        """Epochs behind us, fractions included."""
        return self.epoch + self.step / self.steps

    @property
    def fraction(self) -> float:
        """Share of the training behind us, in [0, 1)."""
        return self.epochs_done / self.epochs


@dataclass(frozen=True)
class Mix:
    """The other half of mixed rows: `share_B` of a row's label is its own, `1 - share_B` belongs to `labels_B`."""

    labels_B: Tensor
    share_B: Tensor


@dataclass(frozen=True)
class Batch:
    """One batch of a stage: the student's signals carry gradients, the teachers' never do."""

    ids_B: Tensor
    positions_B: Tensor
    """Places of the rows among the training rows, 0 .. rows - 1, for memories with a place for each."""
    labels_B: Tensor
    student: Mapping[Observable, Tensor]
    teachers: Mapping[str, Mapping[Observable, Tensor | Sparse]]
    progress: Progress
    mix: Mix | None = None

    def true_class_probability_TB(self, names: Sequence[str]) -> Tensor:
        """Probability that each named teacher gives to the label. [T, B], in [0, 1]."""
        return self.log_true_class_probability_TB(names).exp()

    def log_true_class_probability_TB(self, names: Sequence[str]) -> Tensor:
        """Its logarithm, which tells apart what is 0 in float32. [T, B]"""
        return torch.stack([_log_probability_B(self.teachers[name][LOGITS], self.labels_B) for name in names])

    def student_true_class_probability_B(self) -> Tensor:
        """The same for the student. [B], detached: it decides, it is not taught."""
        return self.student_log_true_class_probability_B().exp()

    def student_log_true_class_probability_B(self) -> Tensor:
        """Its logarithm. [B], detached."""
        return _log_probability_B(self.student[LOGITS].detach(), self.labels_B)


def _log_probability_B(logits_BC: Tensor | Sparse, labels_B: Tensor) -> Tensor:
    if isinstance(logits_BC, Sparse):
        return logits_BC.probability_of(labels_B).clamp(min=torch.finfo(torch.float32).tiny).log()
    return logits_BC.float().log_softmax(-1).gather(-1, labels_B[:, None]).squeeze(-1)
