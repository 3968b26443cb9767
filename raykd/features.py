"""Divergences between activations: what stands at a tap of the student against what stands at a tap of a teacher.

    FitNet("stage2")      RKD()      AttentionTransfer("stage3", "layer4.1", size=4)

Several taps are several terms: `Distill(VID("stage2")) + Distill(VID("stage3"))`. tau is not read. A learned part is built for
each teacher and trains with the student.

A relational divergence compares relations between the rows of a batch: published as one number for a batch, it is here the
share of each row in it, and the mean of the shares is that number. With several workers each compares its own rows. Products of
activations are taken in float32, whatever precision the networks compute in.

Shapes: B batch, D width; maps are C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raykd.objective import STUDENT, Context, Divergence, Spec
from raykd.signals import Observable, Resized, Signal

SHORTEST = 1e-12  # a shorter vector has no direction


@dataclass(frozen=True)
class Features(Divergence):
    """A divergence between activations. A family gives `__call__` or `build`, and a default tap."""

    tap: str = "pooled"
    """Where the student is observed."""
    teacher_tap: str = ""
    """Where a teacher is; empty: at the tap of the same name."""
    _: KW_ONLY
    size: int = 0
    """Maps are average-pooled to size x size where the networks run, so that the cache is smaller; 0: as they are."""

    @property
    def student(self) -> Observable:
        """The student's activation."""
        return self.signal(self.tap)

    @property
    def teacher(self) -> Observable:
        """The teacher's."""
        return self.signal(self.teacher_tap or self.tap)

    def signal(self, tap: str) -> Observable:
        """What is observed at a tap."""
        return Resized(tap, self.size) if self.size else Signal(tap)

    def shapes(self, context: Context) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Of one row of the student and of the teacher, or of the mixture of several.

        Raises `ValueError` for a mixture of different shapes.
        """
        theirs = {name: context.shapes[name][self.teacher] for name in context.teachers}
        if len(set(theirs.values())) > 1:
            raise ValueError(f"{self} of a mixture: its teachers have the shapes {theirs}, and one is needed")
        return context.shapes[STUDENT][self.student], next(iter(theirs.values()))

    def __str__(self) -> str:
        taps = self.tap if self.teacher_tap in ("", self.tap) else f"{self.tap} to {self.teacher_tap}"
        return f"{type(self).__name__}({taps}{f', {self.size}x{self.size}' if self.size else ''})"


def layer(of: Spec, ours: tuple[int, ...], theirs: tuple[int, ...]) -> Callable[[int, int], nn.Module]:
    """What turns one width into another, for rows of these shapes: 1x1 convolutions for maps, linear layers for vectors.

    Raises `ValueError` for other shapes, and for a map against a vector.
    """
    if len(ours) == len(theirs) == 3:
        return lambda inputs, outputs: nn.Conv2d(inputs, outputs, 1)
    if len(ours) == len(theirs) == 1:
        return nn.Linear
    raise ValueError(f"{of} compares maps (C, H, W) or vectors (D,), and these are {ours} and {theirs}")


def to_smaller(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both in float32; of two maps the larger is average-pooled to the height and width of the smaller."""
    student, teacher = student.float(), teacher.float()
    if student.ndim != 4 or student.shape[2:] == teacher.shape[2:]:
        return student, teacher
    (height, width), (their_height, their_width) = student.shape[2:], teacher.shape[2:]
    smaller = (min(height, their_height), min(width, their_width))
    return F.adaptive_avg_pool2d(student, smaller), F.adaptive_avg_pool2d(teacher, smaller)


def vectors(values: Tensor) -> Tensor:
    """Each row as one vector. [B, D] float32"""
    return values.float().flatten(1)


def lengths(values: Tensor) -> Tensor:
    """Along the last dimension, which stays with the size 1. Where it is 0, so is its gradient."""
    squares = values.square().sum(-1, keepdim=True)
    some = squares > SHORTEST**2
    return torch.where(some, torch.where(some, squares, 1.0).sqrt(), 0.0)


def directions(values: Tensor) -> Tensor:
    """Unit vectors along the last dimension. What has no length has the direction 0, and no gradient."""
    length = lengths(values)
    return torch.where(length > 0, values / torch.where(length > 0, length, 1.0), 0.0)


def products(values: Tensor) -> Tensor:
    """Inner products of all pairs. [..., N, D] -> [..., N, N], in float32 under mixed precision too."""
    with torch.autocast(values.device.type, enabled=False):
        return values @ values.mT
