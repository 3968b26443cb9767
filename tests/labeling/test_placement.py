"""Which pools, with how many actors: all that is missing is dealt out once, within what there is and what was declared."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny

from raykd.cache import Slot
from raykd.labeling.labeler import Labeling
from raykd.labeling.placement import Actors, pools
from raykd.models.weights import save
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


def place(teachers: list[Labeling], devices: int, *, gpus: bool = True, actors: Actors | None = None, **costs: float):  # type: ignore[no-untyped-def]
    seconds = [costs.get(labeling.name, 1.0) for labeling in teachers]
    return pools(
        teachers, MISSING, seconds, actors=actors or Actors(), devices=devices, gpus=gpus, environment={"A": "1"}
    )


def dealt(found) -> list[tuple[str, Slot]]:  # type: ignore[no-untyped-def]
    return sorted((pool.labelings[t].name, work.slot) for pool in found for work in pool.work for t in work.teachers)


def test_teachers_that_take_the_same_share_one_pool_over_all_devices(teachers: list[Labeling]) -> None:
    for gpus in (True, False):
        (pool,) = place(teachers, 4, gpus=gpus)
        assert [labeling.name for labeling in pool.labelings] == ["a", "b", "c"]
        assert (pool.actors, pool.most, pool.gpus) == (4, 4, float(gpus))
        assert dealt([pool]) == sorted((name, slot) for name in "abc" for slot in MISSING)


def test_a_teacher_that_takes_more_or_less_has_a_pool_of_its_own(teachers: list[Labeling]) -> None:
    found = place(teachers, 8, actors=Actors(gpus={"a": 2.0, "b": 0.25}), a=4.0)
    assert [labeling.name for labeling in found[0].labelings] == ["a"]  # most work first
    by_name = {pool.labelings[0].name: pool for pool in found}
    assert {name: pool.gpus for name, pool in by_name.items()} == {"a": 2.0, "b": 0.25, "c": 1.0}
    assert sum(pool.actors * pool.gpus for pool in found) <= 8
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


def test_an_actor_larger_than_the_cluster_is_refused_by_name(teachers: list[Labeling]) -> None:
    with pytest.raises(ValueError, match="teacher b takes 4 GPUs, and there are 2"):
        place(teachers, 2, actors=Actors(gpus={"b": 4.0}))
