"""Teachers asked at every step, nothing stored: for views whose replicas never repeat.

    inputs of a batch, as the student is about to see them -> each teacher's predictor -> signals

In the process that trains; `stream.Streamed` has actors do it ahead of the training.

Shapes: B rows of this process in a batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from raykd.answers import Asked, Signals, Tally
from raykd.labeling.predictor import Predictor
from raykd.signals import Observable
from raykd.stage import Stage
from raykd.storage import Storage

Said = Mapping[str, Mapping[Observable, Tensor]]


def predictors(stage: Stage, storage: Storage, device: torch.device) -> dict[str, Predictor]:
    """The teachers that the stage reads, loaded."""
    found = {}
    for name, kept in stage.kept.items():
        teacher = storage.finished(stage.teachers[name])
        signals = tuple(each.signal for each in kept)
        found[name] = Predictor(
            teacher.architecture, teacher.weights, signals, device=device, precision=storage.precision
        )
    return found


@dataclass(frozen=True)
class Live:
    """Answers of teachers in the process that trains."""

    def open(self, stage: Stage, storage: Storage, device: torch.device, rank: int, world: int) -> LiveAnswers:
        """Loads the teachers."""
        return LiveAnswers(predictors(stage, storage, device), device)


class LiveAnswers:
    """Asks each teacher about each batch."""

    def __init__(self, teachers: Mapping[str, Predictor], device: torch.device):
        self.tally = Tally()
        self._teachers = teachers
        self._device = device

    def prepare(self, asked: Asked) -> Said:
        """What they say, in host memory."""
        self.tally.teacher_rows += len(asked.positions_B)
        return {
            name: {signal: torch.from_numpy(values) for signal, values in teacher(asked.inputs_B).items()}
            for name, teacher in self._teachers.items()
        }

    def finish(self, prepared: Said) -> Signals:
        """On the device."""
        return {
            name: {signal: values.to(self._device) for signal, values in said.items()}
            for name, said in prepared.items()
        }

    def close(self) -> None:
        """Nothing is open."""
