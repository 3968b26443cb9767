"""Which pools, with how many actors: all that is missing is dealt out once, within what there is and what was declared."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import tiny

from raykd.cache import Slot
from raykd.labeling.labeler import Labeling
from raykd.labeling.placement import Actors, on_paper, pools
from raykd.models.weights import save
from raykd.shares import Node, Room, Share, settled
from raykd.stage import Pretrained
from raykd.storage import Storage

MISSING = {Slot(replica, 0): [0, 1, 2] for replica in range(24)}


@pytest.fixture
def teachers(tmp_path: Path) -> list[Labeling]:
    stage = tiny.student(replicas=24)
    architecture = stage.teachers["teacher"].architecture
    weights = str(tmp_path / "weights.safetensors")
    save(weights, architecture.build().body.state_dict(), {})
    given, storage = Pretrained(architecture, weights), Storage(tmp_path)
    return [Labeling(name, given, stage.view, stage.kept["teacher"], storage) for name in ("a", "b", "c")]


def place(  # type: ignore[no-untyped-def]
    teachers: list[Labeling], *devices: int, gpus: bool = True, actors: Actors | None = None, **costs: float
):
    """On nodes with so many GPUs, or cores."""
    seconds = [costs.get(labeling.name, 1.0) for labeling in teachers]
    nodes = [Node({"CPU": 64, "GPU": each} if gpus else {"CPU": each}) for each in devices]
    said = actors or Actors()
    shares = [settled(said.share(each.name), nodes, cpus=1.0, cpus_of_gpu=0.5) for each in teachers]
    return pools(teachers, MISSING, seconds, actors=said, shares=shares, room=Room(nodes), environment={"A": "1"})


def dealt(found) -> list[tuple[str, Slot]]:  # type: ignore[no-untyped-def]
    return sorted((pool.labelings[t].name, work.slot) for pool in found for work in pool.work for t in work.teachers)


def test_teachers_that_take_the_same_share_one_pool_over_all_devices(teachers: list[Labeling]) -> None:
    for gpus in (True, False):
        (pool,) = place(teachers, 4, gpus=gpus)
        assert [labeling.name for labeling in pool.labelings] == ["a", "b", "c"]
        assert (pool.actors, pool.most) == (4, 4)
        assert (pool.share.cpus, pool.share.gpus) == (0.5, 1.0 if gpus else None)
        assert dealt([pool]) == sorted((name, slot) for name in "abc" for slot in MISSING)


def test_a_teacher_that_takes_more_or_less_has_a_pool_of_its_own(teachers: list[Labeling]) -> None:
    found = place(teachers, 8, actors=Actors(gpus={"a": 2.0, "b": 0.25}), a=4.0)
    assert [labeling.name for labeling in found[0].labelings] == ["a"]  # most work first
    by_name = {pool.labelings[0].name: pool for pool in found}
    assert {name: pool.share.gpus for name, pool in by_name.items()} == {"a": 2.0, "b": 0.25, "c": 1.0}
    assert sum(pool.actors * pool.share.gpus for pool in found) <= 8
    assert by_name["a"].actors >= by_name["c"].actors
    assert dealt(found) == sorted((name, slot) for name in "abc" for slot in MISSING)


def test_declared_bounds_hold_and_a_pool_may_grow_to_the_most(teachers: list[Labeling]) -> None:
    (pool,) = place(teachers, 4, actors=Actors(least=2, most=16))
    assert (pool.actors, pool.most) == (4, 16)
    (pool,) = place(teachers, 4, actors=Actors(most=3))
    assert (pool.actors, pool.most) == (3, 3)


def test_on_fewer_devices_than_pools_each_still_gets_its_turn(teachers: list[Labeling]) -> None:
    found = place(teachers, 1, actors=Actors(gpus={"a": 1.0, "b": 0.75, "c": 0.5}), b=9.0)
    assert [pool.actors for pool in found] == [1, 1, 1]
    assert found[0].labelings[0].name == "b"


@pytest.mark.parametrize(
    ("declare", "named"),
    [
        (lambda: Actors(least=0), "from 0"),
        (lambda: Actors(least=3, most=2), "from 3 to 2"),
        (lambda: Actors(gpus={"a": 1.5}), "1.5 GPUs for an actor of a"),
        (lambda: Actors(gpus={"": -1.0}), "-1 GPUs"),
    ],
)
def test_what_no_cluster_can_give_is_refused(declare, named) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=named):
        declare()


def test_actors_fit_on_nodes_and_not_only_on_their_sum(teachers: list[Labeling]) -> None:
    (pool,) = place(teachers, 3, 3, 3, actors=Actors(gpus={"": 2.0}))
    assert (pool.actors, pool.most) == (3, 3)  # nine GPUs, and a pair on each node
    (pool,) = place(teachers, 1, 1, actors=Actors(gpus={"": 0.4}))
    assert (pool.actors, pool.most) == (4, 4)


def test_what_an_actor_takes_is_what_ray_is_told_but_for_half_a_core_where_cores_are_the_devices(
    teachers: list[Labeling],
) -> None:
    takes = Share(3, None, {"slot": 0.5}, {"role": "teacher"})
    assert on_paper(replace(takes, gpus=1.0)) == replace(takes, gpus=1.0)
    assert on_paper(takes) == replace(takes, cpus=2.5)
    assert on_paper(Share(0.5)) == Share(0.25)
    (pool,) = place(teachers, 7, 2, gpus=False, actors=Actors(takes=Share(3)))
    assert (pool.actors, pool.share.cpus) == (2, 2.5)
