"""What a graph function wrote is cited, and what it left alone is not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import tiny

from raykd.cite import bibliography
from raykd.identity import fingerprint
from raykd.methods.born_again import born_again
from raykd.methods.chain import chain
from raykd.methods.dgkd import densely, dgkd
from raykd.methods.extraction import extracted
from raykd.methods.mutual import mutual
from raykd.methods.progressive import progressive
from raykd.methods.smskd import anchored
from raykd.models import MLP
from raykd.stage import Stage

LINK = MLP((24,), shape=tiny.SHAPE)


def rounds(stage: Stage, number: int) -> Stage:
    other = tiny.teacher(width=8)
    return mutual({"one": stage.alone(), "other": other}, number)["one"]


def dense(stage: Stage) -> Stage:
    return Stage(stage.student, dgkd(), stage.view, stage.teachers, budget=stage.budget)


@pytest.mark.parametrize(
    ("written", "untouched", "title"),
    [
        (lambda s: chain(s, [LINK]), lambda s: chain(s, []), "via Teacher Assistant"),
        (lambda s: densely(dense(s), [LINK]), lambda s: densely(s, []), "Densely Guided"),
        (lambda s: born_again(s, 1), lambda s: born_again(s, 0), "Born"),
        (lambda s: progressive(s, (1,)), lambda s: progressive(s, ()), "implicit curriculum"),
        (lambda s: extracted(s), lambda s: extracted(s, ()), "via Curriculum Extraction"),
        (lambda s: rounds(s, 2), lambda s: rounds(s, 1), "Deep Mutual Learning"),
        (lambda s: anchored(s, [s.objective]), lambda s: anchored(s, []), "SMSKD"),
    ],
    ids=["chain", "densely", "born_again", "progressive", "extracted", "mutual", "anchored"],
)
def test_a_graph_function_is_cited_by_what_it_wrote_alone(
    written: Callable[[Stage], Stage], untouched: Callable[[Stage], Stage], title: str
) -> None:
    assert any(title in source for source in bibliography(written(tiny.student())))
    assert not any(title in source for source in bibliography(untouched(tiny.student())))


def test_what_is_cited_is_no_identity() -> None:
    assert fingerprint(tiny.student().credited("raykd.methods.chain")) == fingerprint(tiny.student())
