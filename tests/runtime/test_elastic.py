"""Kinds of nodes, and fewer of them: a real cluster with one node for teachers and two for students, one of which is lost."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import ray
import tiny
from ray.cluster_utils import Cluster as Nodes
from torch import Tensor

from raykd.data import Operation
from raykd.data.ops import Draws
from raykd.labeling.placement import Actors
from raykd.runtime import Display, Local
from raykd.runtime.cluster import Cluster
from raykd.shares import Share
from raykd.stage import Pretrained, Stage
from raykd.storage import Storage

pytestmark = pytest.mark.ray

FAST = {  # a node is known to be lost after a second
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 500,
    "health_check_failure_threshold": 2,
}
EPOCHS = 8
TEACHERS = Actors(takes=Share(custom={"desk": 1}, labels={"role": "teacher"}))
STUDENTS = Share(labels={"role": "student"})


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    """Two of students, one of teachers, and a head that does no work."""
    small = {"object_store_memory": 80 * 2**20, "include_dashboard": False}
    cluster = Nodes(initialize_head=True, head_node_args={"num_cpus": 0, "_system_config": FAST, **small})
    cluster.add_node(num_cpus=1, resources={"desk": 1}, labels={"role": "teacher"}, **small)
    for _ in range(2):
        cluster.add_node(num_cpus=1, labels={"role": "student"}, **small)
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@dataclass(frozen=True)
class Noted(Operation):
    """Changes nothing, takes a while over a batch of a training, and notes on which node it is, with how many rows."""

    folder: str

    def __call__(self, images_BCHW: Tensor, draws: Draws) -> Tensor:
        rows = len(images_BCHW)
        if ray.is_initialized():
            (Path(self.folder) / f"{ray.get_runtime_context().get_node_id()}-{rows}").touch()
            time.sleep(0.03 if rows <= 32 else 0)
        return images_BCHW


def of_kind(role: str) -> set[str]:
    return {node["NodeID"] for node in ray.nodes() if node["Labels"].get("role") == role}


def taught(root: Path) -> Stage:
    """A stage whose teacher is given, and whose inputs say where they are looked at."""
    local = Local(Storage(root / "teacher"), Display(quiet=True))
    trained = local.run(tiny.teacher())[0]
    stage = tiny.student(epochs=EPOCHS, replicas=2)
    (root / "noted").mkdir()
    view = replace(stage.view, ops=(*stage.view.ops, Noted(str(root / "noted"))))
    return replace(stage, view=view, teachers={"teacher": Pretrained(trained.stage.student, trained.weights)})


@pytest.mark.usefixtures("nodes")
def test_what_has_no_place_is_refused_before_anything_starts(tmp_path: Path) -> None:
    said = [
        ({"workers": 3, "worker": STUDENTS}, r"workers=3, each 1 CPU, role=student: 2 fit"),
        ({"worker": Share(labels={"role": "head"})}, r"role=head: no node has it; .* role=student \(2\), role=teacher \(1\)"),
        ({"actors": replace(TEACHERS, least=2)}, "2 actors of teachers, each 1 CPU, 1 desk, role=teacher: 1 fit"),
        ({"actors": Actors(gpus={"": 1})}, "1 actors of teachers, each 0.5 CPU, 1 GPU: no node has room for one"),
    ]  # fmt: skip
    for settings, words in said:
        with pytest.raises(ValueError, match=words):
            Cluster(Storage(tmp_path), Display(quiet=True), **settings).run(tiny.student())  # type: ignore[arg-type]
    assert not (tmp_path / "stages").exists()


@pytest.mark.slow
def test_each_keeps_to_its_kind_of_nodes_and_a_lost_one_is_done_without(nodes: Nodes, tmp_path: Path) -> None:
    stage = taught(tmp_path)
    storage = Storage(tmp_path / "storage")
    lines = storage.folder(stage) / "metrics.jsonl"
    lost = next(node for node in nodes.worker_nodes if node.node_id in of_kind("student"))
    stood: list[str] = []

    def lose() -> None:
        while not lines.exists() or len(lines.read_text().splitlines()) < 3:
            time.sleep(0.02)
        stood.extend(lines.read_text().splitlines())
        nodes.remove_node(lost, allow_graceful=False)

    thread = threading.Thread(target=lose, daemon=True)
    thread.start()
    runner = Cluster(storage, Display(quiet=True), workers=(1, 2), worker=STUDENTS, actors=TEACHERS)
    done = runner.run(stage)[0]
    thread.join()

    noted = {tuple(path.name.split("-")) for path in (tmp_path / "noted").iterdir()}
    (left,) = of_kind("student") - {lost.node_id}
    driver = ray.get_runtime_context().get_node_id()  # it compares what is cached with labels
    assert {node for node, rows in noted if int(rows) > 32} - {driver} == of_kind("teacher")
    assert {node for node, rows in noted if rows == "16"} == {left, lost.node_id}  # halves of a batch
    assert {node for node, rows in noted if rows == "32"} == {left}
    assert runner.counts.phases["train"]["retries"] == 1

    found = lines.read_text().splitlines()
    assert 3 <= len(stood) < EPOCHS
    assert found[: len(stood)] == stood  # with its seconds: nothing was done again
    undisturbed = Local(Storage(tmp_path / "undisturbed"), Display(quiet=True)).run(stage)[0]
    expected = (Path(undisturbed.weights).parent / "metrics.jsonl").read_text().splitlines()
    assert len(found) == len(expected) == EPOCHS
    for one, other in zip(map(json.loads, found), map(json.loads, expected), strict=True):
        assert one["terms"] == pytest.approx(other["terms"], rel=1e-5)
    assert done.metrics == pytest.approx(undisturbed.metrics, abs=1e-5)
