"""Progressive distillation: a student follows its teacher's training, from one snapshot of it to the next.

    teacher after e1 epochs ──► link 1              its first parts are easier to follow than the finished teacher
    teacher after e2 epochs ──► link 2, from link 1
    finished teacher        ──► the stage, from link 2

A snapshot is the teacher's own training, stopped: `Budget.until`. The finished one continues from the last of them, so all
together cost what the teacher costs, unless it was finished before they were asked for. The parts of the student's training
together are the stage's budget, one schedule over all of them; the optimiser starts anew in each [interpretation].

Source: A. Panigrahi, B. Liu, S. Malladi, A. Risteski, S. Goel, "Progressive distillation induces an implicit curriculum", 2024,
 section 2.
Source: X. Jin, B. Peng, Y. Wu, Y. Liu, J. Liu, D. Liang, J. Yan, X. Hu, "Knowledge Distillation via Route Constrained
 Optimization", 2019, section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from raykd.methods.chain import the_teacher
from raykd.stage import Stage


def progressive(stage: Stage, epochs: Sequence[int], *, parts: Sequence[int] = (), teacher: str = "") -> Stage:
    """`stage`, its student taught by its teacher as it stood after each of these epochs, and then by the finished one.

    `parts`: epochs of the student with each of them, the finished one included; empty: the same with all. `teacher`: the one to
    follow; empty: the only one. Other teachers teach every part. No epochs are the stage itself.

    Raises `ValueError` for a teacher that is not trained here, for epochs that do not rise or are not in its training, and for
    parts that are not those of the stage's budget.
    """
    name = the_teacher(stage, teacher)
    finished = stage.teachers[name]
    if not isinstance(finished, Stage):
        raise ValueError(f"{name} of {stage} is a file, which does not tell how it was trained: a Stage would be right")
    first, end = finished.budget.start, finished.budget.end
    if any(before >= after for before, after in pairwise([first, *epochs, end])):
        raise ValueError(f"epochs={tuple(epochs)} of {name}: rising, and between {first} and {end}, would be right")
    budgets = stage.budget.parts(parts or len(epochs) + 1)
    if len(budgets) != len(epochs) + 1:
        raise ValueError(f"{len(budgets)} parts for {len(epochs)} snapshots and the finished {name}: one for each")
    going_on = stage
    for number, (until, budget) in enumerate(zip(epochs, budgets, strict=False), start=1):
        snapshot = replace(
            finished,
            budget=replace(finished.budget, until=until, keep="last"),
            label=f"{finished.label}, epoch {until}" if finished.label else "",
        )
        label = f"{stage.label}/link {number}" if stage.label else ""
        link = replace(going_on, teachers={**stage.teachers, name: snapshot}, budget=budget, label=label)
        going_on = continued(link)
    last = replace(going_on, teachers=stage.teachers, budget=budgets[-1], label=stage.label)
    return last.credited(__name__) if epochs else last


def continued(stage: Stage) -> Stage:
    """The same kind of stage, from where this one ends. A part that is inherited and frozen is its own teacher's."""
    inherit = {path: source for path, source in stage.inherit.items() if path in stage.frozen}
    return replace(stage, init=stage, inherit=inherit)
