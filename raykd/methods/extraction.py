"""Curriculum Extraction: a student learns a finished teacher's layers one after the other, then what it answers.

    stage l = 1 .. L    min over the layers up to l of |n(h_S^l) - P_l n(h_T^m)|^2, m = round(l L_T / L_S)
    then                the stage's own objective, from there

P_l is random and fixed, and applied where the teacher runs: the cache holds what is projected. In stage l nothing beyond
layer l is computed or trained, and deeper layers stay as they start, to the bit. So its validation figures are those of a
network whose last layers know nothing, and choose nothing: every stage but the last keeps its last weights.

[interpretation] P_l has entries of N(0, 1 / d_S) and a seed for each layer. n is layer norm without parameters, at length 1,
on both sides, so that a student equal to its teacher is right under P = I; the square is summed over the numbers of a row.
Maps are average-pooled to 4x4 and flattened; of tokens each position asked is a row. The stages share the budget evenly, as
they are told, or a layer gives what is left of its share to the output once its loss has stopped falling. One schedule of the
learning rate runs over all of them, and the optimiser starts anew in each. Half-way places of m are rounded up, and no layer
follows the input or the embedding.

Shapes: B batch, or the positions asked in it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace
from itertools import pairwise

from torch import Tensor

from raykd import rng
from raykd.budget import Plateau
from raykd.features import Features
from raykd.methods.chain import the_teacher
from raykd.models import Architecture
from raykd.objective import Compute, Context
from raykd.signals import Matrix, Observable, Projected, Resized, Signal, normalised
from raykd.stage import Stage
from raykd.terms import Distill

EMBEDDING = "embedding"
"""The place before the first block of a network of tokens."""


@dataclass(frozen=True)
class Extraction(Features):
    """The squared distance of a student's layer, normalised, from a random projection of a teacher's.

    Raises `ValueError`, when it is built, for a student with fewer numbers than are matched.

    Source: S. Gupta, S. Karmalkar, "Efficient Knowledge Distillation via Curriculum Extraction", 2025, section 3.
    """

    _: KW_ONLY
    dim: int = 4
    """How many numbers of the student's row are matched, the first ones; the others are free [interpretation]."""
    teacher_size: int = 0
    """What `size` is for the student: the side that the teacher's maps are pooled to; 0: as they are."""
    seed: int = 0
    """Of the projection."""
    matrix: Matrix = "gaussian"
    """Or "identity": the first `dim` numbers of the teacher's row as they are."""

    @property
    def teacher(self) -> Observable:
        """The projection of the teacher's activation."""
        tap = self.teacher_tap or self.tap
        source = Resized(tap, self.teacher_size) if self.teacher_size else Signal(tap)
        return Projected(source, self.dim, self.seed, self.matrix)

    def build(self, context: Context) -> Compute:
        """Itself, where the student is wide enough."""
        width = math.prod(self.shapes(context)[0])
        if self.dim > width:
            raise ValueError(f"dim={self.dim} of {self}: 1 to {width}, the student's numbers, would be right")
        return self

    def __call__(self, student: Tensor, teacher: Tensor, labels_B: Tensor, tau_B: Tensor) -> Tensor:
        """[B]"""
        return (normalised(student)[:, : self.dim] - teacher.float()).square().sum(1)


def extracted(
    stage: Stage,
    layers: Sequence[str] | None = None,
    *,
    teacher_layers: Sequence[str] = (),
    dim: int | None = None,
    seed: int = 0,
    matrix: Matrix = "gaussian",
    size: int = 4,
    epochs: Sequence[int] = (),
    share: float | None = None,
    plateau: Plateau | None = None,
    teacher: str = "",
) -> Stage:
    """`stage`, its student taken through its teacher's layers first.

    `layers`: taps of the student from input to output; None: the places that its architecture names, less the embedding; none
    of them: the stage itself, which is one-shot distillation. `teacher_layers`: the teacher's tap for each; empty: see
    `partner`. `dim`: numbers of a layer that are matched; None: all. `size`: larger maps are pooled to size x size. `epochs`:
    of each layer, and of the output; empty: as equal as can be. `share`: instead, the share of them that is for the layers, at
    least one each. `plateau`: a layer is over, before its epochs are, where its loss has stopped falling; the output has what
    is left, so all together take as long. `teacher`: the one to extract; empty: the only one.

    Raises `ValueError` for layers that are not there, do not go deeper one after the other or have no partner, for a `dim`
    above the width of a layer, and for epochs that are not those of the stage's budget.
    """
    name = the_teacher(stage, teacher)
    theirs = stage.teachers[name].architecture
    layers = _layers(stage.student) if layers is None else tuple(layers)
    partners = tuple(teacher_layers) or tuple(partner(stage.student, layer, theirs) for layer in layers)
    if share is not None:
        epochs = _shared(stage.budget.trained, len(layers), share) if layers else ()
    budgets = stage.budget.parts(epochs or len(layers) + 1)
    if not len(partners) == len(layers) == len(budgets) - 1:
        found = f"{len(partners)} layers of {name} and {len(budgets)} parts"
        raise ValueError(f"{found} for {len(layers)} layers: a partner for each, and one part more would be right")
    _check_depth(stage.student, layers)
    inherit = {path: source for path, source in stage.inherit.items() if path in stage.frozen}
    going_on = stage
    for number, (ours, its, budget) in enumerate(zip(layers, partners, budgets, strict=False), start=1):
        of_a_layer = int(rng.bits(seed, number) >> 33)  # so that each has a matrix of its own
        match = _matching(stage.student, ours, theirs, its, size=size, dim=dim, seed=of_a_layer, matrix=matrix)
        layer = replace(
            going_on,
            objective=1.0 * Distill(match, teachers=(name,)),
            frozen=tuple(dict.fromkeys((*stage.frozen, *stage.student.beyond(ours)))),
            budget=replace(budget, plateau=plateau),
            label=f"{stage.label}/{ours}" if stage.label else "",
        )
        going_on = replace(stage, init=layer, inherit=inherit)
    return replace(going_on, budget=budgets[-1])


def partner(student: Architecture, layer: str, teacher: Architecture) -> str:
    """The teacher's layer at the same share of its depth as the student's, among those that the architectures name.

    The partner of the embedding is the embedding. Raises `ValueError` for a layer without a name, and for a teacher that
    names none.
    """
    if layer == EMBEDDING and layer in student.stages() and layer in teacher.stages():
        return EMBEDDING
    ours, theirs = _layers(student), _layers(teacher)
    if layer not in ours or not theirs:
        there = f"{student} names {', '.join(ours) or 'none'}, {teacher} {', '.join(theirs) or 'none'}"
        raise ValueError(f"{layer!r} has no partner by depth: {there}; teacher_layers can say it")
    place = math.floor((ours.index(layer) + 1) * len(theirs) / len(ours) + 0.5)
    return theirs[max(place, 1) - 1]


def _layers(architecture: Architecture) -> tuple[str, ...]:
    """The places that it names, less what only looks tokens up."""
    return tuple(place for place in architecture.stages() if place != EMBEDDING)


def _shared(epochs: int, layers: int, share: float) -> list[int]:
    """Epochs of each layer, as equal as can be, and of the output."""
    if not 0 <= share < 1:
        raise ValueError(f"share={share} of {epochs} epochs for the layers: 0 or more and below 1 would be right")
    for_layers = max(round(share * epochs), layers)
    return [*(for_layers // layers + (i < for_layers % layers) for i in range(layers)), epochs - for_layers]


def _check_depth(student: Architecture, layers: Sequence[str]) -> None:
    for before, after in pairwise(layers):
        if not set(student.unread(after)) < set(student.unread(before)):
            raise ValueError(f"layers={', '.join(layers)} of {student}: {after} is learned no deeper than {before}")


def _matching(
    student: Architecture, ours: str, teacher: Architecture, theirs: str, *, size: int, dim: int | None, seed: int,
    matrix: Matrix,
) -> Extraction:  # fmt: skip
    """What a layer is matched with, its maps pooled, at its whole width unless `dim` says otherwise."""
    shape, their_shape = student.tap_shape(ours), teacher.tap_shape(theirs)
    side = min([size, *_sides(shape), *_sides(their_shape)])
    own, its = (side if _sides(each) else 0 for each in (shape, their_shape))
    width = shape[0] * side**2 if own else math.prod(shape)
    return Extraction(
        ours, theirs, size=own, teacher_size=its, dim=width if dim is None else dim, seed=seed, matrix=matrix
    )


def _sides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Height and width of a map; none of anything else."""
    return shape[1:] if len(shape) == 3 else ()
