"""Student and criterion in one module, so that whatever is learned trains together and is reduced together.

Shapes: K terms, B batch.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Self

import torch
from torch import Tensor, nn

from raykd import rng
from raykd.batch import Batch
from raykd.kept import Head
from raykd.models import Network
from raykd.models.weights import load, load_into
from raykd.objective import STUDENT, Context, Tuned
from raykd.stage import Stage
from raykd.storage import Storage


class Learner(nn.Module):
    """`learner(inputs_B, batch) -> [K, B]`: the weighted terms of the objective for each row."""

    def __init__(self, stage: Stage, student: Network, context: Context):
        super().__init__()
        needs = stage.needs
        self.student = student
        self.signals = tuple(sorted(needs.get(STUDENT, ()), key=str))
        self.taps = tuple({tap: None for signal in self.signals for tap in signal.taps()})
        self.criterion = stage.objective.build(context)
        self.tuned = tuple(part for part in self.criterion.modules() if isinstance(part, Tuned))
        self.frozen = [student.body.get_submodule(path) for path in stage.frozen]
        for module in self.frozen:
            module.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """What is frozen stays in evaluation mode, so that its batch norms do."""
        super().train(mode)
        for module in self.frozen:
            module.eval()
        return self

    def forward(self, inputs_B: Tensor, batch: Batch) -> Tensor:
        """Observe the student, then compare: in float32, whatever the student computed in."""
        taps = self.student(inputs_B, self.taps)
        student = {signal: signal.observe(taps) for signal in self.signals}
        with torch.autocast(inputs_B.device.type, enabled=False):
            return self.criterion(replace(batch, student=student))  # type: ignore[no-any-return]


def build(stage: Stage, storage: Storage) -> Learner:
    """The learner before its first step: the same for equal stages, started from `init` where there is one."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(rng.bits(stage.seed) >> 1))
        student = stage.student.build()
        learner = Learner(stage, student, context(stage, storage))
    if stage.init is not None:
        load_into(student, storage.weights(stage.init))
    for path, (name, theirs) in stage.inherit.items():
        teacher = stage.teachers[name]
        whole = load(storage.weights(teacher), teacher.architecture)
        prefix = f"{theirs}." if theirs else ""
        tensors = {tensor.removeprefix(prefix): value for tensor, value in whole.items() if tensor.startswith(prefix)}
        student.body.get_submodule(path).load_state_dict(tensors)
    return learner


def context(stage: Stage, storage: Storage) -> Context:
    """What the pieces of a stage's objective may know."""
    architectures = {STUDENT: stage.student, **{name: teacher.architecture for name, teacher in stage.teachers.items()}}
    shapes = {
        name: {signal: signal.shape(architectures[name].tap_shape) for signal in signals}
        for name, signals in stage.needs.items()
    }

    def head(name: str) -> Head:
        return Head(architectures[name], storage.weights(stage.teachers[name]))

    rows = len(stage.view.dataset.split("train")) * max(stage.view.dataset.targets, 1)
    return Context(shapes, tuple(stage.teachers), stage.view.dataset.classes, rows, heads=head)
