"""CA-MKD: of several teachers, those that give the label more count more, for what they say and for what they hold inside.

    w_k = (1 - softmax_k(CE)) / (K - 1)        CE_k = -log p_k(label)
    features   sum_k w_k mean_D (r_k(F_S) - F_k)^2        CE_k of W_k r_k(F_S): what teacher k's own classifier makes of it

`Distill(KL(), CAMKD(), Constant(4.0))` is the part of the predictions; `CAMKDFeatures` that of the features, where each teacher
has its adapter r_k and lends its classifier W_k, frozen. Weights sum to 1 for each row and carry no gradient.

[interpretation] Predictions are those at temperature 1, a mixed row has its own label, adapters are linear (1x1 convolutions of
maps), the larger map is pooled to the size of the smaller, and the squared distance is a mean over the teacher's values, not a
sum. One teacher has the weight 1.

Source: H. Zhang, D. Chen, C. Wang, "Confidence-Aware Multi-Teacher Knowledge Distillation", 2022, section 2.

Shapes: K teachers, the T of the signatures; B batch, C classes, D width, H height, W width of a map.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raykd.batch import Batch
from raykd.features import layer, to_smaller
from raykd.methods.ebkd import others_TB
from raykd.objective import STUDENT, Compute, Context, Needs, Term, Weighting
from raykd.signals import LOGITS, Signal


@dataclass(frozen=True)
class CAMKD(Weighting):
    """Each teacher by how likely it finds the label.

    Source: H. Zhang, D. Chen, C. Wang, "Confidence-Aware Multi-Teacher Knowledge Distillation", 2022, section 2, the loss of
        teacher predictions.
    """

    reads: ClassVar[frozenset[str]] = frozenset({"dense", "topk"})

    def needs(self, teachers: Sequence[str]) -> Needs:
        """Their logits."""
        return {name: frozenset({LOGITS}) for name in teachers}

    def __call__(self, batch: Batch, names: Sequence[str]) -> Tensor:
        """[T, B]"""
        return others_TB((-batch.log_true_class_probability_TB(names)).softmax(0))

    def __str__(self) -> str:
        return "CA-MKD"


@dataclass(frozen=True)
class CAMKDFeatures(Term):
    """The student's last feature against that of each teacher, weighed by what the teacher's classifier makes of it.

    A map is pooled over its places before the classifier. Raises `ValueError` when it is built for features that are neither
    vectors nor maps, or that the teacher's classifier does not read.

    Source: H. Zhang, D. Chen, C. Wang, "Confidence-Aware Multi-Teacher Knowledge Distillation", 2022, section 2, the loss of
        intermediate teacher features.
    """

    tap: str = "pooled"
    """Where the student is read."""
    teacher_tap: str = ""
    """Where teachers are; empty: the same name."""
    teachers: tuple[str, ...] = ()
    """The teachers it reads; empty: all of the stage."""

    def __post_init__(self) -> None:
        if isinstance(self.teachers, str):
            raise ValueError(f"teachers={self.teachers!r} of {type(self).__name__}: a tuple of names would be right")
        object.__setattr__(self, "teachers", tuple(self.teachers))

    @property
    def theirs(self) -> Signal:
        """What it reads in teachers."""
        return Signal(self.teacher_tap or self.tap)

    def needs(self, teachers: Sequence[str]) -> Needs:
        """The features."""
        names = self.teachers or tuple(teachers)
        if not names:
            raise ValueError(
                f"the term {self} compares with teachers, and this stage has none: give it teachers={{...}}"
            )
        return {STUDENT: frozenset({Signal(self.tap)}), **{name: frozenset({self.theirs}) for name in names}}

    def build(self, context: Context) -> Compute:
        """An adapter for each teacher, with its classifier."""
        if context.heads is None:
            raise ValueError(f"{self} asks the teachers' classifiers, and there are no weights here")
        names = self.teachers or context.teachers
        ours = context.shapes[STUDENT][Signal(self.tap)]
        shapes = {name: context.shapes[name][self.theirs] for name in names}
        return _Features(self, ours, shapes, {name: context.heads(name) for name in names})

    def __str__(self) -> str:
        names = f" of {', '.join(self.teachers)}" if self.teachers else ""
        return f"CAMKDFeatures({self.tap}, {self.theirs}{names})"


class _Features(nn.Module):
    def __init__(
        self,
        spec: CAMKDFeatures,
        ours: tuple[int, ...],
        theirs: Mapping[str, tuple[int, ...]],
        heads: Mapping[str, nn.Module],
    ):
        super().__init__()
        self.names, self.ours, self.theirs = tuple(theirs), Signal(spec.tap), spec.theirs
        self.adapters = nn.ModuleList(layer(spec, ours, shape)(ours[0], shape[0]) for shape in theirs.values())
        self.heads = nn.ModuleList(heads[name] for name in self.names)
        for name, shape, head in zip(self.names, theirs.values(), self.heads, strict=True):
            _check_width(spec, name, shape[0], head)

    def forward(self, batch: Batch) -> Tensor:
        """[B]"""
        costs, distances = [], []
        for name, adapter, head in zip(self.names, self.adapters, self.heads, strict=True):
            teacher = batch.teachers[name][self.theirs]
            assert isinstance(teacher, Tensor), "only logits are stored sparse"
            student, teacher = to_smaller(batch.student[self.ours], teacher)
            ours = adapter(student).float()
            distances.append((ours - teacher).square().flatten(1).mean(1))
            with torch.no_grad():
                costs.append(F.cross_entropy(head(_vector(ours)).float(), batch.labels_B, reduction="none"))
        weight_TB = others_TB(torch.stack(costs).softmax(0))
        return (weight_TB * torch.stack(distances)).sum(0)


def _check_width(spec: CAMKDFeatures, name: str, width: int, head: nn.Module) -> None:
    try:
        head(torch.zeros(1, width))
    except RuntimeError:  # the one way in which a module says that it does not read this
        raise ValueError(
            f"{spec}: the classifier of {name} does not read features of width {width}; the last tap before it would be right"
        ) from None


def _vector(features: Tensor) -> Tensor:
    return features if features.ndim == 2 else features.mean((2, 3))
