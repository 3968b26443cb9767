"""SMSKD: one method after the other on the same student, each stage anchored to what the student was when it began.

    stage 1       L_distill + lambda_c CE                                     any method
    stage m > 1   L_distill + lambda_c CE + lambda_r w tau^2 KL(p_reference || p_S)

The reference is the student as the previous stage left it, frozen: a teacher like any other, so it is asked once and cached.
The student continues from the same weights; what a method learned beside it (adapters, memories) belongs to its stage and is
gone; optimiser and schedule start again. w = 1 - p_teacher(label): a sure teacher needs less anchoring.

[interpretation] That direction rests on a second-hand note, so it is an argument: `Doubt`, `Trust`, or None for neither. Of
several teachers the mean probability counts. lambda_r 1 and tau 4 are not given either.

Source: H. Tian, Huang, Tang, Yao, "SMSKD: Sequential Multi-Stage Knowledge Distillation", 2026.

Shapes: T references, one; B batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor

from raykd.batch import Batch
from raykd.budget import Budget
from raykd.methods.kl import KL
from raykd.objective import Needs, Objective, Term, Weighting
from raykd.signals import LOGITS
from raykd.stage import Stage
from raykd.terms import Constant, Distill, Uniform

REFERENCE = "reference"


@dataclass(frozen=True)
class Doubt(Weighting):
    """1 - p(label) of the teachers named: the reference counts where they are unsure. In [0, 1]."""

    reads: ClassVar[frozenset[str]] = frozenset({"dense", "topk"})
    of: tuple[str, ...]

    def needs(self, teachers: Sequence[str]) -> Needs:
        """Their logits, not those of what it weighs."""
        return {name: frozenset({LOGITS}) for name in self.of}

    def __call__(self, batch: Batch, names: Sequence[str]) -> Tensor:
        """[1, B]"""
        return 1 - batch.true_class_probability_TB(self.of).mean(0, keepdim=True)

    def __str__(self) -> str:
        return f"doubt of {', '.join(self.of)}"


@dataclass(frozen=True)
class Trust(Weighting):
    """p(label) of the teachers named: the other direction. In [0, 1]."""

    reads: ClassVar[frozenset[str]] = frozenset({"dense", "topk"})
    of: tuple[str, ...]

    def needs(self, teachers: Sequence[str]) -> Needs:
        """Their logits, not those of what it weighs."""
        return {name: frozenset({LOGITS}) for name in self.of}

    def __call__(self, batch: Batch, names: Sequence[str]) -> Tensor:
        """[1, B]"""
        return batch.true_class_probability_TB(self.of).mean(0, keepdim=True)

    def __str__(self) -> str:
        return f"trust in {', '.join(self.of)}"


ARMS: Mapping[str, Mapping[str, Any]] = {
    "anchored": {},
    "uniform": {"weighting": None},
    "trust": {"weighting": Trust},
    "sequential": {"reference": 0.0},
}
"""The arms of an ablation, as what `anchored` is told: as published, all rows the same, the other direction, no reference."""


def anchored(
    stage: Stage,
    objectives: Sequence[Objective | Term],
    *,
    reference: float = 1.0,
    weighting: Callable[[tuple[str, ...]], Weighting] | None = Doubt,
    tau: float = 4.0,
    budget: Budget | None = None,
) -> Stage:
    """After `stage`, one more stage for each objective, from the weights of the one before and anchored to it.

    The objectives read the stage's teachers, and not the reference. `weighting` is made of the teachers' names; None: every
    row is anchored the same. `budget` is that of each further stage; None: the stage's own. `reference=0` is sequential
    fine-tuning. Of a stage that is anchored already, the reference is replaced.

    Raises `ValueError` for a stage without teachers.
    """
    teachers = {name: teacher for name, teacher in stage.teachers.items() if name != REFERENCE}
    if not teachers:
        raise ValueError(f"{stage} has no teachers: what anchors a stage is weighed by what its teachers know")
    names = tuple(teachers)
    anchor = Distill(KL(), weighting(names) if weighting else Uniform(), Constant(tau), (REFERENCE,))
    for number, objective in enumerate(objectives, start=2):
        following = (1.0 * objective if isinstance(objective, Term) else objective).about(names)
        stage = replace(
            stage,
            objective=following + reference * anchor if reference else following,
            teachers={**teachers, REFERENCE: stage} if reference else teachers,
            init=stage,
            budget=budget or stage.budget,
            label=f"{_first(stage.label)}, stage {number}" if stage.label else "",
        ).credited(__name__)
    return stage


def _first(label: str) -> str:
    return label.split(", stage ")[0]
