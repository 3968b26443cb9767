"""Pools on a real local Ray: several at once, several teachers in one, and one that is left early."""

from __future__ import annotations

import errno
import itertools
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import ray
import tiny
from ray import cloudpickle
from torch import Tensor

from raykd.data import Operation
from raykd.data.ops import Draws
from raykd.labeling.balance import queue
from raykd.labeling.labeler import Labeling
from raykd.labeling.placement import Pool
from raykd.labeling.pool import fill
from raykd.models import MLP
from raykd.models.weights import save
from raykd.shares import Share
from raykd.stage import Pretrained
from raykd.storage import Storage

pytestmark = pytest.mark.ray
REPLICAS = 8


@pytest.fixture(scope="module", autouse=True)
def _ray() -> Iterator[None]:
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    ray.shutdown()


@dataclass(frozen=True)
class Slow(Operation):
    """Changes nothing, and takes its time."""

    def __call__(self, images_BCHW: Tensor, draws: Draws) -> Tensor:
        time.sleep(0.3)
        return images_BCHW


def teachers(root: Path, *widths: int, replicas: int = REPLICAS, slow: bool = False) -> list[Labeling]:
    """Networks of these widths, with random weights."""
    view = replace(tiny.student(replicas=replicas).view, ops=(Slow(),) if slow else ())
    kept, found = tiny.student().kept["teacher"], []
    for width in widths:
        architecture, weights = MLP((width,), shape=tiny.SHAPE), str(root / f"{width}.safetensors")
        save(weights, architecture.build().body.state_dict(), {})
        found.append(Labeling(f"mlp{width}", Pretrained(architecture, weights), view, kept, Storage(root)))
    return found


def pool(labelings: list[Labeling], actors: int = 1, most: int = 2) -> Pool:
    missing = {slot: list(range(len(labelings))) for slot in labelings[0].missing()[0]}
    work = queue(missing, [1.0] * len(labelings), actors)
    return Pool(tuple(labelings), work, actors, most, Share(cpus=0.5))


def test_pools_fill_at_once_whatever_they_share(tmp_path: Path) -> None:
    one, *two = teachers(tmp_path, 8, 12, 16)
    done = list(fill([pool([one]), pool(two, actors=2)], tmp_path / "scratch"))
    for labeling in (one, *two):
        assert labeling.missing() == ([], [])
        assert sum(each.rows for by, each in done if by is labeling) == REPLICAS * tiny.rows()
    assert not list((tmp_path / "scratch").iterdir())


def test_what_is_left_early_does_no_further_work_and_leaves_nothing_torn(tmp_path: Path) -> None:
    (labeling,) = teachers(tmp_path, 8, replicas=60, slow=True)
    filling = fill([pool([labeling])], tmp_path / "scratch")
    taken = [each.rows for _, each in itertools.islice(filling, 2)]
    started = time.monotonic()
    filling.close()  # type: ignore[attr-defined]
    assert time.monotonic() - started < 20
    assert taken == [tiny.rows()] * 2
    left, corrupt = labeling.missing()
    assert 40 < len(left) < 60
    assert corrupt == []


@dataclass(frozen=True)
class Full(Operation):
    """Fails as a full disk does."""

    def __call__(self, images_BCHW: Tensor, draws: Draws) -> Tensor:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_no_mistake_of_the_user_and_ends_the_work(tmp_path: Path) -> None:
    (labeling,) = teachers(tmp_path, 8)
    full = replace(labeling, view=replace(labeling.view, ops=(Full(),)))
    with pytest.raises(OSError, match="No space left on device"):
        list(fill([pool([full])], tmp_path / "scratch"))
    assert not list(tmp_path.rglob("*.arrow"))


def test_a_slot_that_another_run_has_in_hand_is_left_to_it(tmp_path: Path) -> None:
    (labeling,) = teachers(tmp_path, 8)
    (entry,) = labeling.entries()
    slots, _ = labeling.missing()
    lease = entry.lease(slots[0])
    assert lease is not None
    with lease:
        done = {each.slot: each.rows for _, each in fill([pool([labeling])], tmp_path / "scratch")}
    assert done == {slot: 0 if slot == slots[0] else tiny.rows() for slot in slots}
    assert labeling.missing()[0] == [slots[0]]
