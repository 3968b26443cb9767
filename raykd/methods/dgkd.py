"""DGKD: every larger model teaches each smaller one, and at every step one of them is dropped.

    teacher ──► link 1          link k and the student learn from the teacher and from all links before
       └──┬───────┴─► link 2
          └──────┬──────┴────► student

    L = (1 - alpha) CE + alpha sum_t w_t KL(p_t || p_s)          w_t = 0 for the one dropped, 1 / (T - 1) for the others

[interpretation] The paper drops teachers and assistants at random for each batch, and adds up what is left. Here exactly one is
dropped, where there are several, and the others share evenly: each link's loss has the size of the last one's, so that one
learning rate suits all. Which one is a function of (seed, epoch, step): the same on all workers, and after a resume.

Source: W. Son, J. Na, J. Choi, W. Hwang, "Densely Guided Knowledge Distillation using Multiple Teacher Assistants", 2021,
 section 3.

Shapes: T teachers, B batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from raykd import rng
from raykd.batch import Batch
from raykd.methods.chain import link
from raykd.methods.kl import KL
from raykd.models import Architecture
from raykd.objective import Objective, Weighting
from raykd.stage import Stage
from raykd.terms import Constant, CrossEntropy, Distill


def dgkd(*, tau: float = 4.0, alpha: float = 0.9, seed: int = 0) -> Objective:
    """The objective of every link, about all teachers of a stage."""
    return (1 - alpha) * CrossEntropy() + alpha * Distill(KL(), DropOne(seed), Constant(tau))


def densely(stage: Stage, students: Sequence[Architecture]) -> Stage:
    """`stage`, with links between its teachers and its student, from large to small, each taught by all that is larger.

    All have the stage's objective, view and budget: `densely(Stage(student, dgkd(), view, {"teacher": ...}), [large, small])`.
    The links are teachers named "link 1", "link 2" ... No links are the stage itself.

    Raises `ValueError` for a stage without teachers, and for an objective that does not read all of them.
    """
    if not stage.teachers:
        raise ValueError(f"{stage} has no teachers: links stand between them and its student")
    for student in students:
        number = 1 + sum(name.startswith("link ") for name in stage.teachers)
        below = link(stage, student, stage.teachers, stage.budget, number)
        stage = replace(stage, teachers={**stage.teachers, f"link {number}": below}).credited(__name__)
    if unread := set(stage.teachers) - set(stage.needs):
        raise ValueError(
            f"the objective {stage.objective} does not read {', '.join(sorted(unread))}: name no teachers in it"
        )
    return stage


@dataclass(frozen=True)
class DropOne(Weighting):
    """At each step one teacher counts nothing, by lot, and the others share evenly. A single teacher always counts."""

    seed: int = 0

    def __call__(self, batch: Batch, names: Sequence[str]) -> Tensor:
        """[T, 1]"""
        # the lot falls on a name, wherever it stands
        lot = int(rng.bits(self.seed, batch.progress.epoch, batch.progress.step) % len(names))
        dropped = sorted(names)[lot] if len(names) > 1 else ""
        weight_T = [0.0 if name == dropped else 1 / max(len(names) - 1, 1) for name in names]
        return torch.tensor(weight_T, device=batch.labels_B.device)[:, None]

    def __str__(self) -> str:
        return "one dropped"
