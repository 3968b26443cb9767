"""What fits on nodes, against an enumeration of every way to put processes on GPUs."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raykd.shares import Node, Room, Share, apart, beside, check, places, settled, threads

SIZES = (0.25, 0.4, 0.5, 1.0, 2.0)


def most_by_hand(cpus: int, gpus: int, share: Share) -> int:
    """The most of a share that some assignment puts on one node: each to a set of GPUs, a part of one or whole ones."""
    size = share.gpus or 0
    hosts: list[tuple[int, ...]] = [()]
    if size:
        hosts = list(itertools.combinations(range(gpus), max(1, int(size))))
    best, tenths = 0, round(10_000 * min(size, 1))
    for count in range(1, int(cpus / (share.cpus or 1)) + 1):
        for chosen in itertools.combinations_with_replacement(hosts, count):
            used = [sum(gpu in each for each in chosen) * tenths for gpu in range(gpus)]
            if all(each <= 10_000 for each in used):
                best = count
                break
    return best


shares = st.builds(Share, st.sampled_from([0.5, 1.0, 2.0]), st.sampled_from([None, *SIZES]))


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), max_size=3), shares)
def test_as_many_fit_as_the_best_assignment_has(nodes: list[tuple[int, int]], share: Share) -> None:
    found = [Node({"CPU": cpus, "GPU": gpus}) for cpus, gpus in nodes]
    assert places(found, share) == sum(most_by_hand(cpus, gpus, share) for cpus, gpus in nodes)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 4)), min_size=1, max_size=4), st.lists(shares, max_size=12))
def test_what_is_taken_is_there_and_what_is_refused_has_no_place(
    nodes: list[tuple[int, int]], wanted: list[Share]
) -> None:
    room = Room([Node({"CPU": cpus, "GPU": gpus}) for cpus, gpus in nodes])
    taken = []
    for share in wanted:
        before = room.places(share)
        assert room.take(share) == (before > 0)
        assert room.places(share) == max(0, before - 1)
        taken += [share] * bool(before)
    assert sum(share.cpus or 0 for share in taken) <= sum(cpus for cpus, _ in nodes)
    assert sum(share.gpus or 0 for share in taken) <= sum(gpus for _, gpus in nodes)
    for share in wanted:
        before = room.places(share)
        assert not room.take(share, before + 1)
        assert room.places(share) == before  # all or none


@pytest.mark.parametrize(
    ("gpus", "size", "count"),
    [([1], 0.5, 2), ([2], 0.5, 4), ([2], 0.4, 4), ([1, 1], 2, 0), ([2, 3], 2, 2), ([1], 0.1, 10), ([3], 1 / 3, 9)],
)
def test_a_process_gets_a_part_of_one_gpu_or_whole_ones_of_one_node(
    gpus: Sequence[int], size: float, count: int
) -> None:
    assert places([Node({"CPU": 64, "GPU": each}) for each in gpus], Share(1, size)) == count


def test_labels_and_custom_resources_choose_nodes() -> None:
    nodes = [Node({"CPU": 4, "slot": 1}, {"role": "teacher"}), Node({"CPU": 4, "slot": 2}, {"role": "student"})]
    assert places(nodes, Share(1)) == 8
    assert places(nodes, Share(1, labels={"role": "student"})) == 4
    assert places(nodes, Share(1, labels={"role": "student", "zone": "a"})) == 0
    assert places(nodes, Share(1, custom={"slot": 0.5})) == 6
    one, other = (Share(1, labels={"role": role}) for role in ("teacher", "student"))
    assert apart(nodes, one, other)
    assert not apart(nodes, one, Share(1))


def test_workers_first_take_what_teachers_cannot_use() -> None:
    nodes = [Node({"CPU": 4, "GPU": 2}), Node({"CPU": 4, "GPU": 2}, {"role": "student"})]
    teacher = Share(0.5, 1, labels={})
    assert beside(nodes, Share(1, 1), 3, teacher).places(teacher) == 1
    assert beside(nodes, Share(1, 1), 9, teacher).places(teacher) == 0
    only = Share(0.5, 2, custom={"slot": 1})
    nodes = [Node({"CPU": 4, "GPU": 2, "slot": 1}), Node({"CPU": 4, "GPU": 2})]
    assert beside(nodes, Share(1, 1), 2, only).places(only) == 1


def test_what_was_not_said_is_settled_by_the_nodes_of_the_kind() -> None:
    nodes = [Node({"CPU": 4}, {"role": "student"}), Node({"CPU": 4, "GPU": 1}, {"role": "teacher"})]
    assert settled(Share(), nodes, cpus=1, cpus_of_gpu=0.5) == Share(0.5, 1.0)
    student = Share(labels={"role": "student"})
    assert settled(student, nodes, cpus=1, cpus_of_gpu=0.5) == Share(1, None, labels={"role": "student"})
    assert settled(Share(2, 0.25), nodes, cpus=1, cpus_of_gpu=0.5) == Share(2, 0.25)


def test_workers_share_the_threads_of_the_smallest_node_that_has_a_place() -> None:
    nodes = [Node({"CPU": 8}), Node({"CPU": 4}), Node({"GPU": 1})]
    assert [threads(nodes, Share(1), count) for count in (1, 2, 3, 4, 99)] == [4, 4, 2, 2, 1]
    assert threads([], Share(1), 1) == 1


TWO = [Node({"CPU": 4, "GPU": 1, "fast": 1, "node:1.2.3.4": 1}, {"role": "teacher", "ray.io/node-id": "ab"})] * 2


@pytest.mark.parametrize(
    ("share", "count", "words"),
    [
        (
            Share(1, labels={"role": "student"}), 1,
            "--worker-label role=student: no node has it; labels of the nodes: role=teacher (2)",
        ),
        (Share(1, custom={"slow": 1}), 1, "--worker-resource slow=1: no node has so much; resources of the nodes: fast=1 (2)"),
        (Share(1, custom={"fast": 2}), 1, "--worker-resource fast=2: no node has so much; resources of the nodes: fast=1 (2)"),
        (Share(1, 2), 1, "w, each 1 CPU, 2 GPU: no node has room for one; the nodes for them have 4 CPU, 1 GPU (2)"),
        (Share(8), 1, "w, each 8 CPU: no node has room for one; the nodes for them have 4 CPU, 1 GPU (2)"),
        (Share(1, 0.5), 5, "w, each 1 CPU, 0.5 GPU: 4 fit; the nodes for them have 4 CPU, 1 GPU (2)"),
    ],
)  # fmt: skip
def test_a_refusal_names_what_is_asked_and_what_exists(share: Share, count: int, words: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(words)}$"):
        check(TWO, share, count, kind="worker", who="w")
    check(TWO, Share(1, 0.5), 4, kind="worker", who="w")


@pytest.mark.parametrize(
    ("share", "words"),
    [
        (lambda: Share(cpus=0), "0 of CPU"),
        (lambda: Share(gpus=-1), "-1 of GPU"),
        (lambda: Share(gpus=1.5), "1.5 GPUs"),
        (lambda: Share(cpus=float("nan")), "nan of CPU"),
        (lambda: Share(custom={"slot": 0}), "0 of slot"),
        (lambda: Share(custom={"GPU": 1}), "'GPU' as a custom resource"),
        (lambda: Share(labels={"role": "in(a,b)"}), r"role=in\(a,b\)"),
        (lambda: Share(labels={"": "a"}), "the label =a"),
    ],
)
def test_what_no_node_can_have_is_refused_when_it_is_written(share, words: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=words):
        share()
