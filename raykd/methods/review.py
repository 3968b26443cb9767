"""Knowledge review: each level of a teacher teaches that level of the student and all deeper ones, fused with attention.

    from deep to shallow   x = reduce(F_S)                          1x1 convolution to few channels, batch norm
                           a, b = sigmoid(attend([x, y]))           y: what the level below carried up, at the size of x
                           x = a x + b y                            resized to the teacher's map, and carried up
                           fused = expand(x)                        3x3 convolution to the teacher's channels, batch norm
    at every level         HCL(fused, F_T) = sum_s w_s mean (pool_s(fused) - pool_s(F_T))^2 / sum_s w_s
                           s: whole, 4, 2, 1, those smaller than the map;  w: 1, 1/2, 1/4, ...

    L = sum over levels of HCL

The last level is the pooled vector, a map of 1x1, as in the paper's runs on small images. Published weights are .6 to 8, by
pair, risen to in 20 epochs. [interpretation] Taps stand after the activation, unless a module path says otherwise.

Shapes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raykd.batch import Batch
from raykd.models.layers import conv
from raykd.objective import STUDENT, Compute, Context, Needs, Term
from raykd.signals import Signal

Shape = tuple[int, ...]
SIDES = (4, 2, 1)


@dataclass(frozen=True)
class ReviewKD(Term):
    """The context losses of all levels, added up; of several teachers, each with a fusion of its own, the mean.

    The fusion trains with the student, and its batch norms see the batch. Raises `ValueError` for other numbers of taps than
    one or more in both networks and, when it is built, for a tap that is neither a map nor a vector.

    Source: P. Chen, S. Liu, H. Zhao, J. Jia, "Distilling Knowledge via Knowledge Review", 2021, section 3.
    """

    taps: tuple[str, ...] = ("stage1", "stage2", "stage3", "pooled")
    """Levels of the student, from shallow to deep."""
    teacher_taps: tuple[str, ...] = ()
    """The same levels of a teacher; empty: at the taps of the same names."""
    width: int = 512
    """Channels inside the fusion, at most; never more than the student's deepest level has."""
    teachers: tuple[str, ...] = ()
    """The teachers it reads; empty: all of the stage."""

    def __post_init__(self) -> None:
        for name in ("taps", "teacher_taps", "teachers"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not self.taps or len(self.levels) != len(self.taps) or len(self.teacher_taps) not in (0, len(self.taps)):
            raise ValueError(f"{self!r}: one or more taps, and as many teacher_taps or none, would be right")
        if self.width < 1:
            raise ValueError(f"{self!r}: a width of 1 or more would be right")

    @property
    def levels(self) -> tuple[tuple[Signal, Signal], ...]:
        """What it reads in the student and in a teacher, level by level."""
        theirs = self.teacher_taps or self.taps
        return tuple((Signal(our), Signal(their)) for our, their in zip(self.taps, theirs, strict=False))

    def needs(self, teachers: Sequence[str]) -> Needs:
        """All levels of both."""
        names = self.teachers or tuple(teachers)
        if not names:
            raise ValueError(f"the term {self} reviews teachers, and this stage has none: give it teachers={{...}}")
        ours, theirs = (frozenset(signals) for signals in zip(*self.levels, strict=True))
        return {STUDENT: ours, **dict.fromkeys(names, theirs)}

    def build(self, context: Context) -> Compute:
        """A fusion for each teacher."""
        names = self.teachers or context.teachers
        if len(names) == 1:
            return _Review(self, context, names[0])
        each = [context.build(replace(self, teachers=(name,)), (name,)) for name in names]
        return lambda batch: torch.stack([review(batch) for review in each]).mean(0)

    def __str__(self) -> str:
        names = f" of {', '.join(self.teachers)}" if self.teachers else ""
        return f"ReviewKD({', '.join(self.taps)}{names})"


class _Review(nn.Module):
    """The term about one teacher."""

    def __init__(self, term: ReviewKD, context: Context, teacher: str):
        super().__init__()
        self.levels, self.teacher = term.levels, teacher
        ours = [_map_shape(term, context.shapes[STUDENT][signal]) for signal, _ in term.levels]
        theirs = [_map_shape(term, context.shapes[teacher][signal]) for _, signal in term.levels]
        width = min(term.width, ours[-1][0])
        self.fusions = nn.ModuleList(
            _Fusion(inputs[0], width, outputs, deeper=level < len(ours) - 1)
            for level, (inputs, outputs) in enumerate(zip(ours, theirs, strict=True))
        )

    def forward(self, batch: Batch) -> Tensor:
        carried: Tensor | None = None
        losses: list[Tensor] = []
        for (our, their), fusion in reversed(list(zip(self.levels, self.fusions, strict=True))):
            carried, fused = fusion(_map(batch.student[our]), carried)
            target = batch.teachers[self.teacher][their]
            assert isinstance(target, Tensor)
            losses.append(context_loss(fused.float(), _map(target).float()))
        return torch.stack(losses).sum(0)


class _Fusion(nn.Module):
    """One level of the student, and what the deeper ones carried up."""

    def __init__(self, inputs: int, width: int, outputs: Shape, *, deeper: bool):
        super().__init__()
        self.size = outputs[1:]
        self.reduce = nn.Sequential(conv(inputs, width, kernel=1), nn.BatchNorm2d(width))
        self.attend = conv(2 * width, 2, kernel=1, bias=True) if deeper else None
        self.expand = nn.Sequential(conv(width, outputs[0]), nn.BatchNorm2d(outputs[0]))

    def forward(self, ours_BCHW: Tensor, deeper_BCHW: Tensor | None) -> tuple[Tensor, Tensor]:
        """What is carried up, and what is compared with the teacher."""
        x_BCHW = self.reduce(ours_BCHW)
        if self.attend is not None and deeper_BCHW is not None:
            y_BCHW = F.interpolate(deeper_BCHW, x_BCHW.shape[2:])
            share_B2HW = self.attend(torch.cat([x_BCHW, y_BCHW], 1)).sigmoid()
            x_BCHW = share_B2HW[:, :1] * x_BCHW + share_B2HW[:, 1:] * y_BCHW
        x_BCHW = F.interpolate(x_BCHW, self.size)
        return x_BCHW, self.expand(x_BCHW)


def context_loss(ours_BCHW: Tensor, theirs_BCHW: Tensor) -> Tensor:
    """HCL: the mean squared error of the maps and of what average pooling leaves of them, weighed. [B]

    Source: P. Chen, S. Liu, H. Zhao, J. Jia, "Distilling Knowledge via Knowledge Review", 2021, section 3.3.
    """
    difference_BCHW = ours_BCHW - theirs_BCHW  # pooling is linear
    smaller = [side for side in SIDES if side < min(difference_BCHW.shape[2:])]
    maps = [difference_BCHW, *(F.adaptive_avg_pool2d(difference_BCHW, side) for side in smaller)]
    weights = [0.5**i for i in range(len(maps))]
    weighed = [weight * each.square().mean((1, 2, 3)) for weight, each in zip(weights, maps, strict=True)]
    return torch.stack(weighed).sum(0) / sum(weights)


def _map(values: Tensor) -> Tensor:
    """Vectors as maps of 1x1."""
    return values if values.ndim == 4 else values[:, :, None, None]


def _map_shape(term: ReviewKD, shape: Shape) -> Shape:
    if len(shape) not in (1, 3):
        raise ValueError(f"{term} fuses maps (C, H, W) and vectors (D,), and one of its taps has the shape {shape}")
    return (*shape, 1, 1)[:3]
