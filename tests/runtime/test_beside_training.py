"""Teachers and student at the same time: on the first shards while the rest is filled, and without a cache at all."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import ray
import tiny
from safetensors.torch import load_file
from torch import Tensor

from raykd.data import Operation
from raykd.data.ops import Draws
from raykd.identity import fingerprint
from raykd.labeling.live import Live
from raykd.labeling.placement import Actors
from raykd.labeling.pool import Streamed
from raykd.models import weights
from raykd.runtime import Display, Local
from raykd.runtime import cluster as clusters
from raykd.runtime.cluster import Cluster
from raykd.runtime.runner import Trained
from raykd.shares import Node
from raykd.stage import Pretrained, Stage
from raykd.storage import Storage
from raykd.training.loop import DivergedError

EPOCHS = 4


@pytest.fixture(scope="module", autouse=True)
def _ray() -> Iterator[None]:
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(autouse=True)
def _pools_of_two(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer actors than there could be: each takes 3 s of a core to start."""
    if "workers" not in request.fixturenames:
        monkeypatch.setattr(clusters, "_nodes", lambda: [Node({"CPU": 2})])
        monkeypatch.setattr(clusters, "threads_of", lambda *_: 1)  # the last digit depends on how many add up


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Pretrained:
    runner = Local(Storage(tmp_path_factory.mktemp("teacher")), Display(quiet=True))
    trained = runner.run(tiny.teacher())[0]
    return Pretrained(trained.stage.student, trained.weights)


def local(root: Path, stage: Stage) -> Trained:
    return Local(Storage(root), Display(quiet=True)).run(stage)[0]


def cluster(root: Path, stage: Stage, **settings: Any) -> Trained:
    runner = Cluster(Storage(root), Display(quiet=True), **settings)
    runner._own = True  # so the student is trained in this process, at once: a worker group takes 10 s to start
    return runner.run(stage)[0]


def taught_by(teacher: Pretrained, **changes: Any) -> Stage:
    return replace(tiny.student(epochs=EPOCHS, replicas=EPOCHS), teachers={"teacher": teacher}, **changes)


def close(one: Trained, other: Trained) -> bool:
    """Whether the weights differ by no more than what float16 answers do."""
    ours, theirs = load_file(one.weights), load_file(other.weights)
    return all((ours[name] - theirs[name]).abs().max() < 2e-3 for name in ours)


@dataclass(frozen=True)
class Noted(Operation):
    """Changes nothing, and takes a while in a pool's actor, which sees whole shards."""

    seconds: float

    def __call__(self, images_BCHW: Tensor, draws: Draws) -> Tensor:
        if len(images_BCHW) == tiny.rows():
            time.sleep(self.seconds)
        return images_BCHW


@pytest.mark.ray
def test_a_student_that_starts_on_the_first_shards_is_the_one_that_waits_for_all(
    tmp_path: Path, teacher: Pretrained
) -> None:
    stage = taught_by(teacher)
    stage = replace(stage, view=replace(stage.view, ops=(*stage.view.ops, Noted(1.0)), replicas=EPOCHS))
    waited = cluster(tmp_path / "waited", stage, overlap=False)
    beside = cluster(tmp_path / "beside", stage, overlap=True, actors=Actors(most=1))  # a shard a second
    assert weights.digest(load_file(waited.weights)) == weights.digest(load_file(beside.weights))
    assert beside.counts.teacher_rows == waited.counts.teacher_rows == {"teacher": EPOCHS * tiny.rows()}
    assert beside.counts.phases["train"]["waited_s"] > 0

    def order(root: Path) -> tuple[float, float]:
        """When the first epoch was over, and when the last shard was committed."""
        first = min(path.stat().st_mtime for path in root.glob(f"stages/{fingerprint(stage)}/stage.json"))
        return first, max(path.stat().st_mtime for path in root.glob("cache/v1/*/*/views/*/*.arrow"))

    trained, filled = order(tmp_path / "waited")
    assert trained > filled
    trained, filled = order(tmp_path / "beside")
    assert trained < filled


@pytest.mark.ray
def test_a_teacher_that_fails_while_its_student_trains_ends_the_run_with_its_mistake(
    tmp_path: Path, teacher: Pretrained
) -> None:
    tensors = load_file(teacher.weights)
    large = {name: 1e4 * tensor for name, tensor in tensors.items()}  # logits beyond float16
    weights.save(str(tmp_path / "large.safetensors"), large, {})
    stage = taught_by(Pretrained(teacher.architecture, str(tmp_path / "large.safetensors")))
    started = time.monotonic()
    with pytest.raises(ValueError, match=r"row \d+ holds"):
        cluster(tmp_path, stage, overlap=True)
    assert time.monotonic() - started < 60


@pytest.mark.ray
def test_a_student_that_diverges_ends_the_fill(tmp_path: Path, teacher: Pretrained) -> None:
    stage = taught_by(teacher)
    slow = replace(stage.view, ops=(*stage.view.ops, Noted(1.5)), replicas=40)
    budget = replace(stage.budget, optimiser=replace(stage.budget.optimiser, lr=1e30))
    with pytest.raises(DivergedError):
        cluster(tmp_path, replace(stage, view=slow, budget=budget), overlap=True)
    assert len(list(tmp_path.rglob("*.arrow"))) < 40


def test_without_a_cache_every_epoch_sees_a_replica_of_its_own_and_nothing_is_stored(
    tmp_path: Path, teacher: Pretrained
) -> None:
    """So it is what a cache with as many replicas as epochs gives, to the precision of what is cached."""
    cached = local(tmp_path / "cached", taught_by(teacher))
    live = local(tmp_path / "live", taught_by(teacher, cache="off"))
    assert live.stage != cached.stage
    assert close(live, cached)
    rows = EPOCHS * (tiny.rows() // 32) * 32
    assert live.counts.teacher_rows == {"teacher": rows}
    assert live.counts.cache_rows == 0
    assert not list((tmp_path / "live").rglob("*.arrow"))


@pytest.mark.ray
@pytest.mark.cores
@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_what_pools_stream_to_the_workers_is_what_is_computed_in_place(
    tmp_path: Path, teacher: Pretrained, workers: int
) -> None:
    stage = taught_by(teacher, cache="off")
    runner = Cluster(Storage(tmp_path / "streamed"), Display(quiet=True), workers=workers, overlap=True)
    runner._own = workers == 1
    assert isinstance(runner.live(stage), Streamed)
    streamed = runner.run(stage)[0]
    in_place = local(tmp_path / "in place", stage)
    assert streamed.counts.teacher_rows == in_place.counts.teacher_rows
    assert not list((tmp_path / "streamed").rglob("*.arrow"))
    assert close(streamed, in_place)


@pytest.mark.ray
def test_on_a_small_machine_the_training_process_asks_the_teachers_itself(tmp_path: Path) -> None:
    assert isinstance(Cluster(Storage(tmp_path), Display(quiet=True)).live(tiny.student()), Live)


@pytest.mark.ray
@pytest.mark.slow
def test_a_stream_continues_where_a_resumed_training_does(tmp_path: Path, teacher: Pretrained) -> None:
    stage = taught_by(teacher, cache="off")
    whole = cluster(tmp_path / "whole", stage, overlap=True)

    class Interrupted(Cluster):
        def train(self, job: Any, on_epoch: Any) -> Any:
            def stop(epoch: Any) -> None:
                if epoch["epoch"] == 1:
                    raise KeyboardInterrupt

            from raykd.training.loop import train
            from raykd.training.process import Process

            return train(job, Process.current(), stop)

    with pytest.raises(KeyboardInterrupt):
        Interrupted(Storage(tmp_path / "parts"), Display(quiet=True), overlap=True).run(stage)
    rest = cluster(tmp_path / "parts", stage, overlap=True)
    assert rest.counts.teacher_rows == {"teacher": 2 * (tiny.rows() // 32) * 32}
    assert rest.metrics == whole.metrics
