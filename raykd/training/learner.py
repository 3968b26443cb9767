"""Student and criterion in one module, so that whatever is learned trains together and is reduced together.

Shapes: K terms, B batch.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from raykd import rng
from raykd.batch import Batch
from raykd.models import Network
from raykd.models.weights import load_into
from raykd.objective import STUDENT, Context
from raykd.stage import Stage
from raykd.storage import Storage


class Learner(nn.Module):
    """`learner(inputs_B, batch) -> [K, B]`: the weighted terms of the objective for each row."""

    def __init__(self, stage: Stage, student: Network):
        super().__init__()
        needs = stage.needs
        self.student = student
        self.signals = tuple(sorted(needs.get(STUDENT, ()), key=str))
        self.taps = tuple({tap: None for signal in self.signals for tap in signal.taps()})
        self.criterion = stage.objective.build(_context(stage))

    def forward(self, inputs_B: Tensor, batch: Batch) -> Tensor:
        """Observe the student, then compare."""
        taps = self.student(inputs_B, self.taps)
        student = {signal: signal.observe(taps) for signal in self.signals}
        return self.criterion(replace(batch, student=student))  # type: ignore[no-any-return]


def build(stage: Stage, storage: Storage) -> Learner:
    """The learner before its first step: the same for equal stages, started from `init` where there is one."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(rng.bits(stage.seed) >> 1))
        student = stage.student.build()
        learner = Learner(stage, student)
    if stage.init is not None:
        load_into(student, storage.weights(stage.init))
    return learner


def _context(stage: Stage) -> Context:
    architectures = {STUDENT: stage.student, **{name: teacher.architecture for name, teacher in stage.teachers.items()}}
    shapes = {
        name: {signal: signal.shape(architectures[name].tap_shape) for signal in signals}
        for name, signals in stage.needs.items()
    }
    rows = len(stage.view.dataset.split("train"))
    return Context(shapes, tuple(stage.teachers), stage.view.dataset.classes, rows)
