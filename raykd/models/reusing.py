"""A student that answers with its teacher's classifier, from its own last map made into the teacher's.

    student ... tap ─► the smaller map's size ─► 1x1, 3x3, 1x1 convolution ─► "projected" ─► global average ─► classifier

The convolutions end at the teacher's channels, with `1 / reduction` of them between; each has batch norm and ReLU. Of the
student its classifier is missing. The other has the teacher's shape, and random weights until a stage says otherwise.

Shapes: C channels, H height, W width.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from torch import Tensor, nn

from raykd.models.architecture import Architecture
from raykd.models.layers import conv, global_average, initialised
from raykd.models.preprocess import Preprocess


@dataclass(frozen=True)
class Reusing(Architecture):
    """A student up to its last map, a projector, a classifier as the teacher's. Taps: the student's, projected, pooled, logits.

    It reads what the student reads: `classes`, `shape` and `preprocess` are the student's. Its body has the parts "student",
    "projector", "pool" and "classifier".

    Raises `ValueError` for taps that are no maps (networks of vectors have none), a student's tap after which something learned
    follows besides its classifier, a teacher whose classifier is not linear on the average of its map, other classes than the
    teacher's, and a reduction that leaves no channel.

    Source: D. Chen et al., "Knowledge Distillation with the Reused Teacher Classifier", 2022, section 3.2.
    """

    student: Architecture
    teacher: Architecture
    tap: str = "stage3"
    """The student's last map."""
    teacher_tap: str = "stage3"
    """The teacher's."""
    reduction: int = 2
    """The teacher's channels over those between the convolutions."""
    classes: int = field(default=0, kw_only=True)
    shape: tuple[int, ...] = field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        for name, unsaid in (("classes", 0), ("shape", ()), ("preprocess", Preprocess())):
            said, right = getattr(self, name), getattr(self.student, name)
            said = tuple(said) if name == "shape" else said
            if said not in (unsaid, right):
                raise ValueError(f"Reusing {name}={said}: it is the student's, {right}")
            object.__setattr__(self, name, right)
        super().__post_init__()
        self._check()

    def __str__(self) -> str:
        return f"{self.student}-reusing-{self.teacher}"

    @property
    def channels(self) -> int:
        """The student's."""
        return self.student.channels

    @property
    def plain(self) -> Architecture:
        """The student, with a classifier of its own and no projector."""
        return self.student.plain

    def body(self) -> nn.Module:
        """The student, the projector, global average and `classifier`."""
        parts = OrderedDict[str, nn.Module](student=_UpTo(self.student, self.tap))
        parts["projector"] = initialised(self._projector())
        parts["pool"] = global_average()
        theirs = self._classifier()
        parts["classifier"] = nn.Linear(theirs.in_features, theirs.out_features, bias=theirs.bias is not None)
        return nn.Sequential(parts)

    def stages(self) -> dict[str, str]:
        """The student's, and what the teacher's map is compared with."""
        theirs = {name: f"student.body.{path}" for name, path in self.student.stages().items()}
        return {**theirs, "projected": "projector"}

    def _projector(self) -> nn.Sequential:
        (inputs, *size), (outputs, *their_size) = self._maps()
        between = outputs // self.reduction
        smaller = tuple(min(sides) for sides in zip(size, their_size, strict=True))
        return nn.Sequential(
            nn.Identity() if smaller == tuple(size) else nn.AdaptiveAvgPool2d(smaller),
            *_convolved(inputs, between, kernel=1),
            *_convolved(between, between, kernel=3),
            *_convolved(between, outputs, kernel=1),
        )

    def _maps(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return self.student.tap_shape(self.tap), self.teacher.tap_shape(self.teacher_tap)

    def _classifier(self) -> nn.Linear:
        path = self.teacher.classifier
        if path is None:
            raise ValueError(
                f"{self}: the logits of {self.teacher} are not those of a linear layer, so nothing can be reused"
            )
        layer = self.teacher.blueprint().body.get_submodule(path)
        assert isinstance(layer, nn.Linear)
        return layer

    def _check(self) -> None:
        for network, tap in ((self.student, self.tap), (self.teacher, self.teacher_tap)):
            if len(shape := network.tap_shape(tap)) != 3:
                raise ValueError(f"{self}: {tap} of {network} has the shape {shape}, and maps (C, H, W) are projected")
        if self.student.classes != self.teacher.classes:
            raise ValueError(
                f"{self}: {self.student.classes} classes, and the teacher's classifier {self.teacher.classes}"
            )
        outputs, inputs = self._maps()[1][0], self._classifier().in_features
        if inputs != outputs:
            raise ValueError(
                f"{self}: the classifier of {self.teacher} reads {inputs} numbers, and {self.teacher_tap} has {outputs}"
                " channels: name the map whose average it reads"
            )
        if not 1 <= self.reduction <= outputs:
            raise ValueError(f"Reusing reduction={self.reduction}: 1 to the teacher's {outputs} channels")
        if unread := _unread(self.student, self.tap):
            raise ValueError(f"{self}: {unread[0]} of {self.student} is learned after {self.tap}: name its last map")


class _UpTo(nn.Module):
    """A body that ends at one of its modules. What follows it runs, for nothing, but is not learned."""

    def __init__(self, student: Architecture, tap: str) -> None:
        super().__init__()
        self.body, self.path = student.body(), student.stages().get(tap, tap)
        if student.classifier is not None:
            self.body.set_submodule(student.classifier, nn.Identity())

    def forward(self, inputs_B: Tensor) -> Tensor:
        seen: list[Tensor] = []
        last = self.body.get_submodule(self.path)
        with last.register_forward_hook(lambda _, __, output: seen.append(output.clone())):
            self.body(inputs_B)
        return seen[-1]


def _convolved(inputs: int, outputs: int, *, kernel: int) -> nn.Sequential:
    return nn.Sequential(conv(inputs, outputs, kernel=kernel), nn.BatchNorm2d(outputs), nn.ReLU())


def _unread(student: Architecture, tap: str) -> list[str]:
    """The parameters that a tap does not depend on, but for the classifier's."""
    return [name for name in student.unread(tap) if name.rpartition(".")[0] != student.classifier]
