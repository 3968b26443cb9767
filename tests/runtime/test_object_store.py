"""An object store that is nearly full: what teachers say flows through it in parts, and waits where there is no room."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import ray
import tiny
import tiny_cache
from torch import Tensor

from raykd.labeling.pool import RUN_BYTES, Streamed
from raykd.models import MLP
from raykd.objective import Divergence
from raykd.runtime import Display, Local
from raykd.runtime.cluster import Cluster
from raykd.signals import Signal
from raykd.storage import Storage
from raykd.terms import Distill

STORE = 80 * 10**6  # about the least that Ray takes
WIDTH, EPOCHS = 60_000, 2


@pytest.fixture(autouse=True)
def _ray() -> Iterator[None]:
    settings = {"num_cpus": 4, "object_store_memory": STORE, "include_dashboard": False, "log_to_driver": False}
    ray.init(address="local", **settings)
    yield
    ray.shutdown()


@dataclass(frozen=True)
class Wide(Divergence):
    """Compares the mean logit with the mean of a wide layer of the teacher."""

    @property
    def teacher(self) -> Signal:
        return Signal("layer1")

    def __call__(self, student: Tensor, teacher: Tensor, labels_B: Tensor, tau_B: Tensor) -> Tensor:
        return (student.mean(1) - teacher.mean(1)).square()


@pytest.mark.ray
def test_signals_that_are_larger_than_the_object_store_flow_through_it(tmp_path: Path) -> None:
    teacher = tiny_cache.teacher(tmp_path, network=MLP((WIDTH,), shape=tiny.SHAPE))
    stage = tiny.student(epochs=EPOCHS, replicas=EPOCHS)
    stage = replace(stage, teachers={"teacher": teacher}, objective=1.0 * Distill(Wide()), cache="off")
    size = tiny.rows() // 32 * 32 * WIDTH * 4
    assert size > STORE  # one epoch's alone
    assert RUN_BYTES < STORE / 4
    runner = Cluster(Storage(tmp_path / "streamed"), Display(quiet=True), any_teacher=True, overlap=True)
    runner._own = True
    assert isinstance(runner.live(stage), Streamed)
    (streamed,) = runner.run(stage)
    (expected,) = Local(Storage(tmp_path / "local"), Display(quiet=True), any_teacher=True).run(stage)
    assert streamed.counts.teacher_rows == expected.counts.teacher_rows == {"teacher": EPOCHS * size // (4 * WIDTH)}
    assert streamed.metrics == pytest.approx(expected.metrics, abs=1e-3)
