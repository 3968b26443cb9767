"""Larger and smaller members of a family: its knobs are turned until the parameters are as many as asked for.

    scaled(ResNet(56), 300_000)              -> ResNet(20)              the member nearest in log to so many parameters
    geometric(teacher, student, links)       -> sizes |teacher| r^(i / L), i = 1 .. L - 1, L = links + 1,
                                                r = |student| / |teacher|, within the family of one of them

A family is what its knobs give: the width of CNN and MobileNetV2, width and depth of MLP, ResNet and WideResNet, the depths of
VGG, the published widths of ShuffleNetV2. Knobs turn in whole steps, so a size is met as nearly as its family allows: by a
channel of a CNN, a unit of an MLP's widest layer, a twentieth of MobileNetV2's width, a block in each stage of a residual
network or its whole width. Sizes within `NEAR` of the target count as met, and among those the depth decides that is nearest
to the given one [interpretation]: who asks for fewer parameters does not ask for another shape.

A pruned copy of a network is a shallower member of its own family whose weights are the network's: see `pruning`.

Source: Haase, da Silva, "HPM-KD", arXiv 2512.09886, 2025, progressive chain.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Literal

import torch

from raykd.models.architecture import Architecture
from raykd.models.cnn import CNN
from raykd.models.mlp import MLP
from raykd.models.mobilenet import MobileNetV2
from raykd.models.pruning import shallower
from raykd.models.resnet import ResNet
from raykd.models.shufflenet import WIDTHS, ShuffleNetV2
from raykd.models.sizing import size
from raykd.models.vgg import CONVOLUTIONS, VGG
from raykd.models.wrn import WideResNet

Family = Literal["student", "teacher", "pruned"]
"""Of the student, of the teacher, or shallower copies of the teacher."""
NEAR = 0.02
"""Natural logarithm of the factor within which two sizes count as the same."""
BLOCKS = 18
"""Blocks in a stage of a residual network, at most: those of ResNet-110. A given one may have more."""


def scaled(architecture: Architecture, parameters: float) -> Architecture:
    """The member of the same family with most nearly so many parameters, of the same classes, shape and preprocessing.

    One that has them already is returned as it is. Raises `ValueError` for a family without knobs, and for less than one
    parameter.
    """
    return _nearest(architecture, parameters, _lines(architecture))


def geometric(
    teacher: Architecture, student: Architecture, links: int, *, family: Family = "student"
) -> tuple[Architecture, ...]:
    """So many networks between a teacher and its student; all their sizes together are a geometric series.

    They belong to the family of the student, or of the teacher; where both are of one, each knob stands between theirs. Pruned
    ones are the teacher with fewer layers. Sizes fall strictly: what the family cannot tell from its neighbours is left out, so
    there may be fewer.

    Raises `ValueError` for a student that is not smaller than its teacher, and for a family without knobs, or of one depth.
    """
    large, small = size(teacher).parameters, size(student).parameters
    if links < 0:
        raise ValueError(f"links={links} between {teacher} and {student}: 0 or more would be right")
    if small >= large:
        raise ValueError(
            f"the student {student} has {small:,} parameters and its teacher {teacher} {large:,}: it must be smaller"
        )
    start, other = (student, teacher) if family == "student" else (teacher, student)
    lines = _pruned(teacher) if family == "pruned" else _lines(start)
    if family != "pruned" and type(start) is type(other):
        lines = [_between(line, start, other) for line in lines]
    lines = [line for line in lines if line]
    found: list[Architecture] = []
    above = large
    for i in range(1, links + 1 if lines else 1):
        member = _nearest(start, large * (small / large) ** (i / (links + 1)), lines)
        if small < _parameters(member) < above:
            found.append(member)
            above = _parameters(member)
    return tuple(found)


@dataclass(frozen=True)
class _Line:
    """Members of one depth by a whole number from `least` to `most`, each at least as large as the one before."""

    depth: int
    member: Callable[[int], Architecture]
    least: int = 1
    most: float = math.inf

    def __bool__(self) -> bool:
        return self.least <= self.most

    def around(self, parameters: float) -> Iterator[Architecture]:
        """The last member that is smaller, and the first that is not."""
        low = high = self.least
        while high < self.most and _parameters(self.member(high)) < parameters:
            low, high = high, int(min(2 * high, self.most))
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if _parameters(self.member(middle)) < parameters else (low, middle)
        yield self.member(low)
        yield self.member(high)


def _nearest(start: Architecture, parameters: float, lines: Iterable[_Line]) -> Architecture:
    if not parameters >= 1:
        raise ValueError(f"a {type(start).__name__} of {parameters:g} parameters: 1 or more would be right")

    def off(member: Architecture) -> float:
        return abs(math.log(_parameters(member) / parameters))

    if off(start) <= NEAR:
        return start
    members = ((line.depth, member) for line in lines for member in line.around(parameters))
    depth, _ = _place(start)
    return min(members, key=lambda each: (max(off(each[1]), NEAR), abs(each[0] - depth), off(each[1])))[1]


def _pruned(architecture: Architecture) -> list[_Line]:
    members = shallower(architecture)
    return [_Line(0, lambda place: members[place - 1], most=len(members))]


def _between(line: _Line, one: Architecture, other: Architecture) -> _Line:
    """What of a line stands between two members of the family."""
    (low, high), (least, most) = (sorted(each) for each in zip(_place(one), _place(other), strict=True))
    return replace(line, least=least, most=most if low <= line.depth <= high else 0)


def _lines(architecture: Architecture) -> list[_Line]:
    """All members of a family, by depth."""
    match architecture:
        case CNN():
            return [_Line(0, lambda width: replace(architecture, width=width))]
        case MobileNetV2():
            return [_Line(0, lambda step: replace(architecture, width=step / 20))]
        case ShuffleNetV2():
            widths = sorted(WIDTHS)
            return [_Line(0, lambda place: replace(architecture, width=widths[place - 1]), most=len(widths))]
        case VGG():
            depths = sorted(CONVOLUTIONS)
            return [_Line(0, lambda place: replace(architecture, depth=depths[place - 1]), most=len(depths))]
        case MLP():
            return [_Line(depth, partial(_perceptron, architecture, depth)) for depth in _counted(architecture, 1)]
        case ResNet() | WideResNet():
            return [
                _Line(blocks, partial(_residual, architecture, blocks)) for blocks in _counted(architecture, BLOCKS)
            ]
    families = "CNN, MLP, MobileNetV2, ResNet, ShuffleNetV2, VGG and WideResNet"
    raise ValueError(
        f"{architecture} is a {type(architecture).__name__}, which has one size only: {families} have others"
    )


def _place(architecture: Architecture) -> tuple[int, int]:
    """Where a member stands: the depth of its line, and its number there."""
    match architecture:
        case CNN():
            return 0, architecture.width
        case MobileNetV2():
            return 0, round(20 * architecture.width)
        case ShuffleNetV2():
            return 0, sorted(WIDTHS).index(architecture.width) + 1
        case VGG():
            return 0, sorted(CONVOLUTIONS).index(architecture.depth) + 1
        case MLP():
            return len(architecture.hidden), max(architecture.hidden, default=1)
        case ResNet() | WideResNet():
            return architecture.depth // 6, architecture.width
    raise AssertionError("asked of a family with lines")


def _counted(architecture: Architecture, at_least: int) -> range:
    return range(1, max(at_least, _place(architecture)[0]) + 1)


def _perceptron(architecture: MLP, depth: int, widest: int) -> MLP:
    """The first hidden layers, as wide in relation to each other as they are."""
    hidden = architecture.hidden[:depth] or (1,)
    return replace(architecture, hidden=tuple(max(1, round(width * widest / max(hidden))) for width in hidden))


def _residual(architecture: ResNet | WideResNet, blocks: int, width: int) -> Architecture:
    return replace(architecture, depth=6 * blocks + architecture.depth % 6, width=width)


@lru_cache(maxsize=4096)
def _parameters(architecture: Architecture) -> int:
    """As `size` counts them, without a pass through the network."""
    with torch.device("meta"):
        return sum(weight.numel() for weight in architecture.body().parameters())
