"""HPM-KD's progressive chain: which chains are candidates, what they share, how they are called."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import pytest
import tiny

from raykd.cite import bibliography
from raykd.identity import fingerprint
from raykd.methods.auto_chain import auto_chain
from raykd.models import CNN, MLP, Architecture, size
from raykd.models.pruning import parts, shallower
from raykd.models.scaling import geometric
from raykd.stage import Pretrained, Stage

SMALL = replace(tiny.student(), student=MLP((4,), shape=tiny.SHAPE))


def chained(stage: Stage) -> list[Architecture]:
    """The networks from the teacher to the student."""

    def up(network: Stage | Pretrained) -> Iterator[Architecture]:
        yield network.architecture
        if isinstance(network, Stage) and "teacher" in network.teachers:
            yield from up(network.teachers["teacher"])

    return list(up(stage))[::-1]


def stages(stage: Stage) -> set[str]:
    """All that it takes."""
    above = [teacher for teacher in stage.teachers.values() if isinstance(teacher, Stage)]
    return {fingerprint(stage)}.union(*map(stages, above))


def test_candidates_are_chains_of_no_link_one_link_and_so_on_whose_sizes_are_geometric() -> None:
    selection = auto_chain(SMALL, 3)
    assert [len(chained(candidate)) for candidate in selection.candidates] == [2, 3, 4, 5]
    for candidate in selection.candidates:
        networks = chained(candidate)
        assert (networks[0], networks[-1]) == (SMALL.teachers["teacher"].architecture, SMALL.student)
        sizes = [math.log(size(each).parameters) for each in networks]
        ratios = [after - before for before, after in pairwise(sizes)]
        assert ratios == pytest.approx([ratios[0]] * len(ratios), abs=0.15)  # a unit of the smallest link


def test_no_links_are_the_stage_itself_and_with_most_0_there_is_nothing_to_choose() -> None:
    assert fingerprint(auto_chain(SMALL).candidates[0]) == fingerprint(SMALL)
    assert auto_chain(SMALL, 0).candidates == (SMALL,)


def test_all_candidates_yield_the_stages_student_by_its_objective_within_its_budget() -> None:
    for candidate in auto_chain(SMALL, 2).candidates:
        for name in ("student", "objective", "view", "budget", "seed"):
            assert getattr(candidate, name) == getattr(SMALL, name)


def test_candidates_share_the_teacher_and_nested_ones_all_links_but_the_last() -> None:
    one, two = (stages(candidate) for candidate in auto_chain(SMALL, 2).candidates[1:])
    assert one & two == {fingerprint(SMALL.teachers["teacher"])}
    selection = auto_chain(SMALL, 3, spacing="nested")
    grid = geometric(SMALL.teachers["teacher"].architecture, SMALL.student, 3)
    for links, candidate in enumerate(selection.candidates):
        assert chained(candidate)[1:-1] == list(grid[:links])
    for before, after in pairwise(map(stages, selection.candidates)):
        assert len(after - before) == (2 if len(after) > 2 else 1)  # one more link and the student


def test_the_longest_chain_is_the_same_for_both_spacings() -> None:
    one, other = auto_chain(SMALL, 3), auto_chain(SMALL, 3, spacing="nested")
    assert fingerprint(one.candidates[3]) == fingerprint(other.candidates[3])


def test_links_may_be_of_the_teachers_family() -> None:
    teacher = replace(tiny.teacher(), student=MLP((32, 16), shape=tiny.SHAPE))
    stage = replace(SMALL, teachers={"teacher": teacher})
    (_, candidate) = auto_chain(stage, 1, family="teacher").candidates
    link = chained(candidate)[1]
    assert isinstance(link, MLP)
    assert len(link.hidden) == 2


def test_links_may_be_pruned_copies_that_start_from_the_layers_they_keep() -> None:
    stage = replace(SMALL, teachers={"teacher": replace(tiny.teacher(), student=MLP((16,) * 4, shape=tiny.SHAPE))})
    for links, candidate in enumerate(auto_chain(stage, 2, family="pruned").candidates):
        assert not candidate.inherit  # the student starts as it did
        link = candidate.teachers["teacher"]
        for _ in range(links):
            assert isinstance(link, Stage)
            above = link.teachers["teacher"]
            assert dict(link.inherit) == {
                path: ("teacher", source) for path, source in parts(link.student, above.architecture).items()
            }
            link = above
        assert link == stage.teachers["teacher"]
    for spacing in ("geometric", "nested"):
        (_, *linked) = auto_chain(stage, 3, family="pruned", spacing=spacing).candidates  # type: ignore[arg-type]
        sizes = {size(each).parameters for candidate in linked for each in chained(candidate)[1:-1]}
        assert sizes <= {size(each).parameters for each in shallower(MLP((16,) * 4, shape=tiny.SHAPE))}


def test_chains_that_a_family_cannot_tell_apart_are_one_candidate() -> None:
    stage = replace(SMALL, student=MLP((30,), shape=tiny.SHAPE))  # of 32: one link at most
    assert [len(chained(candidate)) for candidate in auto_chain(stage, 3).candidates] == [2, 3]


def test_one_of_several_teachers_is_followed_and_the_others_teach_every_link() -> None:
    other = tiny.teacher(width=8)
    stage = replace(SMALL, teachers={"teacher": tiny.teacher(), "peer": other})
    (_, candidate) = auto_chain(stage, 1, teacher="teacher").candidates
    link = candidate.teachers["teacher"]
    assert isinstance(link, Stage)
    assert link.teachers["peer"] == candidate.teachers["peer"] == other


def test_every_stage_of_every_candidate_has_a_name_that_tells_it_from_the_others() -> None:
    labels = [str(candidate) for candidate in auto_chain(SMALL, 2).candidates]
    assert labels == ["student", "student, 1 link", "student, 2 links"]
    last = auto_chain(SMALL, 2).candidates[2].teachers["teacher"]
    assert str(last) == "student, 2 links/link 2"
    assert str(auto_chain(replace(SMALL, label=""), 1).candidates[1]).startswith("mlp4-")


def test_a_chain_cites_the_paper_and_the_stage_itself_does_not() -> None:
    alone, linked = (bibliography(candidate) for candidate in auto_chain(SMALL, 1).candidates)
    assert any("HPM-KD" in source for source in linked)
    assert not any("HPM-KD" in source for source in alone)


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda: auto_chain(tiny.teacher()), "has no teachers"),
        (lambda: auto_chain(SMALL, teacher="tutor"), "one called 'tutor' would be right"),
        (
            lambda: auto_chain(replace(SMALL, student=MLP((64,), shape=tiny.SHAPE))),
            "its teacher mlp32 .* must be smaller",
        ),
        (
            lambda: auto_chain(
                replace(SMALL, teachers={"teacher": replace(tiny.teacher(), student=CNN(16, shape=tiny.SHAPE))}),
                family="pruned",
            ),
            "cnn16 is a CNN, which has one depth only: MLP, ResNet, VGG and WideResNet",
        ),
        (lambda: auto_chain(SMALL, metric="test_top1"), "metric='test_top1'"),
    ],
)
def test_a_mistake_is_refused_when_it_is_written(write: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        write()  # type: ignore[operator]
