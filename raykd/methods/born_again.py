"""Born-again networks: a network teaches one of its own kind, which does better than it did, and so on.

    generation 0 ──► generation 1 ──► generation 2 ...        L = CE + KL(p_before || p_S), at temperature 1

Each generation starts anew, from other weights and in another order of rows: its seed is the generation before's plus 1. Labels
and teacher count the same [interpretation].

Source: T. Furlanello, Z. C. Lipton, M. Tschannen, L. Itti, A. Anandkumar, "Born-Again Neural Networks", 2018, section 3.
"""

from __future__ import annotations

from dataclasses import replace

from raykd.methods.kl import KL
from raykd.objective import Objective, Term
from raykd.stage import Stage
from raykd.terms import CrossEntropy, Distill

TEACHER = "teacher"
BORN_AGAIN = CrossEntropy() + Distill(KL())


def born_again(stage: Stage, generations: int, *, objective: Objective | Term = BORN_AGAIN) -> Stage:
    """After `stage`, which is generation 0, so many more of the same student, each taught by the one before alone.

    Generation 0 may be trained by the labels or by teachers of its own, and may be the last of other generations.

    Raises `ValueError` for a negative number of generations.
    """
    if generations < 0:
        raise ValueError(f"generations={generations}: 0 or more would be right")
    for _ in range(generations):
        stage = replace(
            stage,
            objective=1.0 * objective if isinstance(objective, Term) else objective,
            teachers={TEACHER: stage},
            init=None,
            inherit={},
            frozen=(),
            seed=stage.seed + 1,
            label=_next(stage.label),
        ).credited(__name__)
    return stage


def _next(label: str) -> str:
    first, _, number = label.rpartition(", generation ")
    if number.isdigit() and first:
        return f"{first}, generation {int(number) + 1}"
    return f"{label}, generation 1" if label else ""
