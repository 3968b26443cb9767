"""TAKD: where a teacher is too large for its student, assistants of sizes in between pass on what it knows.

    teacher ──► students[0] ──► students[1] ──► ... ──► the stage's student        each edge distils, by the stage's objective

An assistant is a network like any other: it exists once, whoever asks for it, and its labels are cached for every student.
Inserting one after the other is inserting all at once. Every link has the stage's own budget, which the paper leaves open
[interpretation].

Source: S. I. Mirzadeh, M. Farajtabar, A. Li, N. Levine, A. Matsukawa, H. Ghasemzadeh, "Improved Knowledge Distillation via
 Teacher Assistant", 2020, section 3.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, overload

from raykd.budget import Budget
from raykd.models import Architecture
from raykd.selection import Selection
from raykd.stage import Pretrained, Stage

if TYPE_CHECKING:
    from raykd.methods.auto_chain import Spacing
    from raykd.models.scaling import Family

Parts = Callable[[Architecture, Architecture], Mapping[str, str]]
"""Of a link and its teacher: module path in the link -> that of the part in the teacher that it starts as."""


@overload
def chain(
    stage: Stage,
    students: Sequence[Architecture],
    *,
    budgets: Sequence[Budget] = (),
    teacher: str = "",
    parts: Parts | None = None,
) -> Stage: ...
@overload
def chain(
    stage: Stage,
    students: Literal["auto"],
    *,
    teacher: str = "",
    most: int = 3,
    epsilon: float = 0.001,
    relative: bool = False,
    metric: str = "val_top1",
    family: Family = "student",
    spacing: Spacing = "geometric",
) -> Selection: ...
def chain(
    stage: Stage,
    students: Sequence[Architecture] | Literal["auto"],
    *,
    budgets: Sequence[Budget] = (),
    teacher: str = "",
    parts: Parts | None = None,
    **choice: Any,
) -> Stage | Selection:
    """`stage`, with a chain of links between its teacher and its student, from large to small.

    `budgets`: of each link; empty: the stage's own. `teacher`: the one whose place the links take; empty: the only one. Other
    teachers teach every link. `parts`: what of its teacher a link starts as, such as `models.pruning.parts`; None: nothing. No
    links are the stage itself. "auto" is `auto_chain`, which takes the `choice`: chains of 0, 1, 2, ... links to select from.

    Raises `ValueError` for a teacher that is not there or could be any of several, for budgets that are not one a link, and for
    what only the other kind of chain takes.
    """
    if isinstance(students, str):
        if students != "auto" or budgets or parts:
            raise ValueError(
                f'students={students!r}: "auto" without budgets and parts, or a list of networks, would be right'
            )
        from raykd.methods.auto_chain import auto_chain  # here, because it is written with this function

        return auto_chain(stage, teacher=teacher, **choice)
    if choice:
        raise ValueError(f'{", ".join(choice)} of a chain of given networks: students="auto" would be right')
    name = the_teacher(stage, teacher)
    budgets = tuple(budgets) or (stage.budget,) * len(students)
    if len(budgets) != len(students):
        raise ValueError(f"{len(budgets)} budgets for {len(students)} links: one for each, or none, would be right")
    above = stage.teachers[name]
    first = _links(stage, above) + 1
    for number, (student, budget) in enumerate(zip(students, budgets, strict=True), first):
        inherit = (
            {} if parts is None else {ours: (name, its) for ours, its in parts(student, above.architecture).items()}
        )
        above = replace(link(stage, student, {**stage.teachers, name: above}, budget, number), inherit=inherit)
    return replace(stage, teachers={**stage.teachers, name: above}).credited(__name__) if students else stage


def link(
    stage: Stage, student: Architecture, teachers: Mapping[str, Stage | Pretrained], budget: Budget, number: int
) -> Stage:
    """Another student of the same kind of stage. Where the stage's own starts, and what is frozen in it, is not for others."""
    label = f"{stage.label}/link {number}" if stage.label else ""
    return replace(
        stage, student=student, teachers=teachers, init=None, inherit={}, frozen=(), budget=budget, label=label
    )


def the_teacher(stage: Stage, name: str = "") -> str:
    """The name of the teacher that is meant: the one named, or the only one. Raises `ValueError` where there is no such."""
    if name in stage.teachers:
        return name
    if name or len(stage.teachers) != 1:
        there = f"the teachers {', '.join(stage.teachers)}" if stage.teachers else "no teachers"
        right = f"one called {name!r}" if name else "one, or the name of one,"
        raise ValueError(f"{stage} has {there}: {right} would be right")
    return next(iter(stage.teachers))


def _links(stage: Stage, above: Stage | Pretrained) -> int:
    """How many links the stage has already."""
    label, _, number = above.label.rpartition("/link ")
    return int(number) if label == stage.label and number.isdigit() else 0
