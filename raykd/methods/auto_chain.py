"""HPM-KD's progressive chain: as many links between a teacher and its student as the student gains by.

    0 links    teacher ─────────────────────────► student          sizes: |teacher| r^(i / L), i = 0 .. L, L = links + 1,
    1 link     teacher ───────► link ───────────► student                 r = |student| / |teacher|
    2 links    teacher ──► link ──► link ───────► student          ... until one more link gains less than epsilon

[interpretation] The draft stops when the accuracy of successive links improves by less than epsilon: it always stops at the
second link, since links shrink. Here the gain is that of the final student from one more link, and what the rejected one costs
counts. Each number of links has sizes of its own, so such chains share the teacher and what it said, and no links. With
`spacing="nested"` they do: the sizes are those of the longest chain, a shorter chain ends earlier in them, and one more link
costs that link and the student. Pruned links are their teachers with fewer layers, and start from the layers that they keep;
each prunes the link above it, as that one was trained.

Source: Haase, da Silva, "HPM-KD: Hierarchical Progressive Multi-Teacher Knowledge Distillation", arXiv 2512.09886, 2025,
 progressive distillation chain.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from raykd.methods.chain import chain, the_teacher
from raykd.models.pruning import parts
from raykd.models.scaling import Family, geometric
from raykd.selection import Selection
from raykd.stage import Stage

Spacing = Literal["geometric", "nested"]


def auto_chain(
    stage: Stage,
    most: int = 3,
    *,
    epsilon: float = 0.001,
    relative: bool = False,
    metric: str = "val_top1",
    family: Family = "student",
    spacing: Spacing = "geometric",
    teacher: str = "",
) -> Selection:
    """`stage` with chains of 0, 1, ... `most` links between its teacher and its student, one of which a run selects.

    The links are of the student's family, of the teacher's, or pruned copies of the teacher; chains that a family cannot tell
    apart are one candidate. The student is the stage's own in all of them, and starts as it does there.
    `teacher`: the one whose place the links take; empty: the only one. With `most=0` the stage itself is all there is.

    Raises `ValueError` for a student that is not smaller than its teacher, for a family that has one size or, pruned, one
    depth only, and for a teacher that is not there.
    """
    name = the_teacher(stage, teacher)
    large = stage.teachers[name].architecture

    def candidate(links: int) -> Stage:
        sizes = geometric(large, stage.student, most if spacing == "nested" else links, family=family)[:links]
        if not sizes:
            return stage
        label = f"{stage.label}, {len(sizes)} link{'s' * (len(sizes) > 1)}" if stage.label else ""
        starts = parts if family == "pruned" else None
        return chain(replace(stage, label=label), sizes, teacher=name, parts=starts).credited(__name__)

    return Selection(tuple(map(candidate, range(most + 1))), epsilon, metric, relative)
