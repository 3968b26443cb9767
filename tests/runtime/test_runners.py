"""What every runner obeys, on Local and on a real local Ray."""

from __future__ import annotations

import itertools
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import tiny
from refusing import Refusing
from safetensors.torch import load_file
from torch import Tensor

import raykd
from raykd.budget import SGD
from raykd.cache import Shard, Slot, input_checksums
from raykd.data import Arrays, Dataset, Operation, View
from raykd.data.ops import Draws
from raykd.identity import fingerprint
from raykd.labeling.labeler import Labeling
from raykd.models import MLP, weights
from raykd.plan import plan
from raykd.runtime import Display, Local, cluster
from raykd.runtime.cluster import Cluster
from raykd.runtime.runner import Runner, Trained
from raykd.stage import Pretrained, Stage
from raykd.storage import Storage
from raykd.terms import CrossEntropy
from raykd.training.loop import DivergedError

MakeRunner = Callable[..., Runner]


@pytest.fixture(scope="module")
def _ray() -> Iterator[None]:
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(params=["local", pytest.param("ray", marks=pytest.mark.ray)])
def runner(request: pytest.FixtureRequest) -> MakeRunner:
    """Makes runners of one kind on a storage."""
    if request.param == "local":
        return lambda root, **settings: Local(Storage(Path(root)), Display(quiet=True), **settings)
    request.getfixturevalue("_ray")

    def make(root: Path, **settings: Any) -> Runner:
        made = Cluster(Storage(Path(root)), Display(quiet=True), **settings)
        # as on a Ray of the run's own: one worker trains in this process, where a group takes 10 s to start
        made._own = True
        return made

    return make


@pytest.fixture
def grouped(request: pytest.FixtureRequest) -> MakeRunner:
    """Makes runners whose students are trained by a worker group."""
    request.getfixturevalue("_ray")
    return lambda root, **settings: Cluster(Storage(Path(root)), Display(quiet=True), **settings)


def run(make: MakeRunner, root: Path, stage: Stage, **settings: Any) -> Trained:
    if isinstance(stage.teachers.get("teacher"), Stage):  # how a teacher came to be is not what these tests ask
        Local(Storage(root), Display(quiet=True)).run(stage.teachers["teacher"])
    return make(root, **settings).run(stage)[0]


def lines(trained: Trained) -> list[dict[str, Any]]:
    text = Path(trained.weights).with_name("metrics.jsonl").read_text()
    return [{k: v for k, v in json.loads(line).items() if "second" not in k} for line in text.splitlines()]


def labeled(runner: Runner, labeling: Labeling) -> int:
    """Fills the entry; the rows that its teacher computed."""
    slots, _ = labeling.missing()
    return sum(each.rows for _, each in runner.label([labeling], {slot: [0] for slot in slots}, beside=None))


def test_a_run_yields_network_metrics_and_counts_and_a_second_run_does_nothing(
    runner: MakeRunner, tmp_path: Path
) -> None:
    first = run(runner, tmp_path, tiny.student())
    assert first.counts.teacher_rows == {"teacher": tiny.rows() * 2}
    assert first.counts.cache_rows == 4 * (tiny.rows() // 32) * 32
    assert set(first.metrics) == {"val_top1", "val_nll", "test_top1", "test_nll", "agreement"}
    assert first.metrics["test_top1"] > 0.6
    assert first.network(tiny.DATASET.split("test").inputs(np.arange(3)))["logits"].shape == (3, 10)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}

    again = run(runner, tmp_path, tiny.student())
    assert not again.counts.teacher_rows
    assert again.counts.cache_rows == 0
    assert "train" not in again.counts.seconds
    assert again.metrics == first.metrics
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == files


@pytest.mark.parametrize("runner", ["local"], indirect=True)
def test_another_temperature_asks_the_teacher_nothing_and_trains_another_student(
    runner: MakeRunner, tmp_path: Path
) -> None:
    first = run(runner, tmp_path, tiny.student(tau=4.0))
    second = run(runner, tmp_path, tiny.student(tau=2.0))
    assert not second.counts.teacher_rows
    assert not second.counts.preflight_rows
    assert second.counts.cache_rows > 0
    assert weights.digest(load_file(first.weights)) != weights.digest(load_file(second.weights))


@pytest.mark.ray
@pytest.mark.slow
def test_a_worker_group_trains_what_local_trains_and_leaves_interrupts_as_they_were(
    grouped: MakeRunner, tmp_path: Path
) -> None:
    handler = signal.getsignal(signal.SIGINT)
    expected = run(lambda root, **_: Local(Storage(root), Display(quiet=True)), tmp_path / "local", tiny.student())
    found = run(grouped, tmp_path / "other", tiny.student())
    assert found.metrics == pytest.approx(expected.metrics, abs=1e-3)
    for one, other in zip(lines(found), lines(expected), strict=True):
        assert one["terms"] == pytest.approx(other["terms"], rel=1e-3)
    assert signal.getsignal(signal.SIGINT) is handler


@pytest.mark.parametrize("runner", ["local"], indirect=True)
def test_more_replicas_are_added_to_those_that_are_there(runner: MakeRunner, tmp_path: Path) -> None:
    run(runner, tmp_path, tiny.student(replicas=1))
    second = run(runner, tmp_path, tiny.student(replicas=3))
    assert second.counts.teacher_rows == {"teacher": 2 * tiny.rows()}


@pytest.mark.parametrize("runner", ["local"], indirect=True)
def test_a_corrupt_shard_is_computed_again_and_no_other(runner: MakeRunner, tmp_path: Path) -> None:
    run(runner, tmp_path, tiny.student())
    shard = next((tmp_path / "cache").rglob("views/00001/00000000.arrow"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    again = run(runner, tmp_path, tiny.student(tau=3.0))
    assert again.counts.teacher_rows == {"teacher": tiny.rows()}
    assert again.counts.phases["label"]["quarantines"] == 1
    assert list(shard.parent.glob("*.corrupt-*"))


def test_on_missing_error_names_what_is_missing_and_computes_nothing(runner: MakeRunner, tmp_path: Path) -> None:
    run(runner, tmp_path, tiny.teacher())
    with pytest.raises(ValueError, match=f"{tiny.rows() * 2:,} rows of the teacher teacher"):
        run(runner, tmp_path, tiny.student(), on_missing="error")
    assert not list((tmp_path / "cache").rglob("*.arrow"))


def test_on_missing_wait_lets_another_run_compute(tmp_path: Path) -> None:
    local = Local(Storage(tmp_path), Display(quiet=True))
    teacher = local.run(tiny.teacher())[0]
    given = Pretrained(teacher.stage.student, teacher.weights)
    labeling = Labeling("teacher", given, tiny.student().view, tiny.student().kept["teacher"], local.storage)

    def fill_later() -> None:
        time.sleep(1.5)
        assert labeled(local, labeling) == 2 * tiny.rows()

    other = threading.Thread(target=fill_later)
    other.start()
    waited = Local(Storage(tmp_path), Display(quiet=True), on_missing="wait").run(tiny.student())[0]
    other.join()
    assert not waited.counts.teacher_rows
    assert waited.counts.cache_rows > 0


def test_precision_is_in_the_key_of_what_teachers_say_and_not_in_the_stage(tmp_path: Path) -> None:
    Local(Storage(tmp_path), Display(quiet=True)).run(tiny.student())
    half = Local(Storage(tmp_path, "bfloat16"), Display(quiet=True), precision="bfloat16")
    assert not half.run(tiny.student())[0].counts.teacher_rows  # the stage exists
    other = half.run(tiny.student(tau=3.0))[0]
    assert other.counts.teacher_rows == {"teacher": 2 * tiny.rows()}
    assert other.metrics["test_top1"] > 0.6


def test_run_is_one_call_from_python(tmp_path: Path) -> None:
    done = raykd.run(tiny.teacher(), storage=tmp_path, local=True, quiet=True)
    assert done.metrics["test_top1"] > 0.6
    assert not done.network.training


def test_in_memory_rows_reach_the_workers(runner: MakeRunner, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    labels = np.arange(300) % 3
    centres = 3 * generator.normal(size=(3, 4))
    rows = (centres[labels] + generator.normal(size=(300, 4))).astype(np.float32)
    dataset = Dataset(Arrays(rows, labels))
    shape = {"classes": 3, "shape": (4,)}
    teacher = replace(tiny.teacher(), student=MLP((16,), **shape), view=View(dataset))  # type: ignore[arg-type]
    student = replace(
        tiny.student(),
        student=MLP((4,), **shape),
        view=View(dataset),
        teachers={"teacher": teacher},  # type: ignore[arg-type]
    )
    assert run(runner, tmp_path, student).metrics["test_top1"] > 0.6


def test_a_mistake_that_a_worker_finds_is_one_line_here(runner: MakeRunner, tmp_path: Path) -> None:
    teacher = run(runner, tmp_path, tiny.teacher())
    large = {name: 1e4 * tensor for name, tensor in load_file(teacher.weights).items()}  # logits beyond float16
    weights.save(str(tmp_path / "large.safetensors"), large, {})
    given = Pretrained(teacher.stage.student, str(tmp_path / "large.safetensors"))
    with pytest.raises(ValueError, match=r"row \d+") as error:
        run(runner, tmp_path, replace(tiny.student(), teachers={"teacher": given}))
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "cache").rglob("*.arrow"))


@dataclass(frozen=True)
class Unsteady(Operation):
    """Changes nothing, and fails at every third call of its process, as a file system that comes and goes."""

    def __call__(self, images_BCHW: Tensor, draws: Draws) -> Tensor:
        if next(_calls) % 3 == 2:
            raise OSError("every third call fails")
        return images_BCHW


_calls = itertools.count()


@pytest.mark.ray
@pytest.mark.usefixtures("_ray")
def test_the_entry_is_right_though_every_third_call_fails(tmp_path: Path) -> None:
    steady = run(lambda root, **s: Local(Storage(root), Display(quiet=True), **s), tmp_path, tiny.teacher())
    teacher = Pretrained(steady.stage.student, steady.weights)
    view = View(tiny.DATASET, (Unsteady(),), replicas=12)
    runner = Cluster(Storage(tmp_path), Display(quiet=True))
    stage = runner.place(replace(tiny.student(), view=view))
    view = stage.view
    labeling = Labeling("teacher", teacher, view, stage.kept["teacher"], runner.storage)
    slots, _ = labeling.missing()
    done = [each for _, each in runner.label([labeling], {slot: [0] for slot in slots}, beside=None)]
    assert sum(each.rows for each in done) == 12 * tiny.rows()
    assert sum(each.retries for each in done) > 0
    (entry,) = labeling.entries()
    assert entry.missing(12) == []
    reader = entry.open(12)
    positions = np.arange(tiny.rows())
    expected = steady.network(tiny.DATASET.split("train").inputs(positions))["logits"]
    for replica in range(12):
        found = reader.gather(np.full(tiny.rows(), replica), positions)
        assert (found - expected).abs().max() < 0.02


def test_nothing_that_exists_is_asked_for_again(tmp_path: Path) -> None:
    Local(Storage(tmp_path), Display(quiet=True)).run(tiny.student())
    Refusing(Storage(tmp_path), Display(quiet=True)).run(tiny.student())
    with pytest.raises(AssertionError, match="asked to train"):
        Refusing(Storage(tmp_path), Display(quiet=True)).run(tiny.student(tau=5.0))


def test_planning_writes_no_more_than_names(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    found = plan([tiny.student()], storage)
    assert [str(step.network) for step in found.steps] == ["teacher", "student"]
    assert found.teacher_rows == {"teacher": 2 * tiny.rows()}
    assert [stage.label for stage in found.to_train] == ["teacher", "student"]
    assert not list(tmp_path.rglob("*"))
    Local(storage, Display(quiet=True)).run(tiny.teacher())
    assert plan([tiny.student()], storage).teacher_rows == {"teacher": 2 * tiny.rows()}
    Local(storage, Display(quiet=True)).run(tiny.student())
    assert plan([tiny.student(tau=9.0)], storage).teacher_rows == {"teacher": 0}


def test_a_loss_that_is_not_finite_stops_with_step_term_and_rate_and_keeps_the_checkpoint(
    runner: MakeRunner, tmp_path: Path
) -> None:
    stage = replace(tiny.teacher(), budget=replace(tiny.teacher().budget, optimiser=Exploding(lr=0.1)))
    with pytest.raises(DivergedError, match=r"CrossEntropy is not finite at step 7 of epoch 3, learning rate") as error:
        run(runner, tmp_path, stage)
    assert "\n" not in str(error.value)
    folder = tmp_path / "stages" / fingerprint(stage)
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 2
    assert all(tensor.isfinite().all() for tensor in load_file(folder / "last.safetensors").values())
    assert not (folder / "result.json").exists()


@dataclass(frozen=True)
class Exploding(SGD):
    """Poisons the weights in the middle of the third epoch."""

    def build(self, parameters: Any) -> Any:
        optimiser = super().build(parameters)
        steps = itertools.count()
        per_epoch = tiny.rows() // 32

        def poison(*_: object) -> None:
            if next(steps) == 2 * per_epoch + 5:
                for group in optimiser.param_groups:
                    for parameter in group["params"]:
                        parameter.data.mul_(float("inf"))

        optimiser.register_step_post_hook(poison)
        return optimiser


@pytest.mark.ray
@pytest.mark.cores
@pytest.mark.slow
@pytest.mark.usefixtures("_ray")
def test_two_workers_train_what_one_trains_though_their_shares_differ_by_a_row(tmp_path: Path) -> None:
    stage = tiny.with_batch(tiny.student(), 25)
    one = run(lambda root, **s: Local(Storage(root), Display(quiet=True), **s), tmp_path / "one", stage)
    two = run(lambda root, **s: Cluster(Storage(root), Display(quiet=True), **s), tmp_path / "two", stage, workers=2)
    assert two.metrics == pytest.approx(one.metrics, abs=0.02)
    assert two.counts.cache_rows == one.counts.cache_rows
    for found, expected in zip(lines(two), lines(one), strict=True):
        assert found["terms"] == pytest.approx(expected["terms"], rel=1e-2)


@pytest.mark.ray
@pytest.mark.usefixtures("_ray")
def test_what_a_run_counts_is_what_the_cluster_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: dict[tuple[str, str], float] = {}

    @dataclass
    class Recorded:
        what: str

        def inc(self, amount: float, tags: dict[str, str]) -> None:
            key = (tags["phase"], self.what)
            counted[key] = counted.get(key, 0) + amount

    monkeypatch.setattr(cluster, "_metric", Recorded)
    gauge, shown = cluster._gauge, dict[tuple[str, str, str], list[float]]()

    @dataclass
    class Shown:
        what: str

        def set(self, value: float, tags: dict[str, str]) -> None:
            gauge(self.what).set(value, tags)  # Ray itself refuses a value or a tag that is none
            shown.setdefault((tags["stage"], tags["phase"], self.what), []).append(value)

    monkeypatch.setattr(cluster, "_gauge", Shown)
    runner = Cluster(Storage(tmp_path), Display(quiet=True))
    runner._own = True
    done = runner.run(tiny.student())[0]
    phases = done.counts.as_json()["phases"]
    assert {(phase, what): n for phase, each in phases.items() for what, n in each.items()} == counted
    entries = list((tmp_path / "cache").rglob("*.arrow"))
    assert phases["label"]["rows"] == 2 * tiny.rows()
    assert phases["label"]["bytes"] == 2 * tiny.rows() * 20 < sum(path.stat().st_size for path in entries)
    assert phases["train"]["cache_rows"] == done.counts.cache_rows
    assert phases["train"]["bytes"] == 20 * done.counts.cache_rows
    assert phases["preflight"]["rows"] == 512
    student, epochs = fingerprint(tiny.student()), lines(done)
    assert shown[student, "label", "progress"][-1] == 1.0
    assert shown[student, "train", "progress"] == [0.25, 0.5, 0.75, 1.0]
    assert shown[student, "train", "loss"] == [epoch["loss"] for epoch in epochs]
    assert shown[student, "train", "val_top1"] == [epoch["val_top1"] for epoch in epochs]
    assert gauge("progress").info["name"] == "raykd_progress"


@pytest.mark.ray
@pytest.mark.usefixtures("_ray")
def test_more_workers_than_there_are_places_for_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="workers=64"):
        Cluster(Storage(tmp_path), Display(quiet=True), workers=64).run(tiny.teacher())


def test_cached_rows_that_are_not_the_students_are_refused_by_row(tmp_path: Path) -> None:
    runner = Local(Storage(tmp_path), Display(quiet=True))
    teacher = runner.run(tiny.teacher())[0]
    view = tiny.student().view
    given = Pretrained(teacher.stage.student, teacher.weights)
    labeling = Labeling("teacher", given, view, tiny.student().kept["teacher"], runner.storage)
    (entry,) = labeling.entries()
    for slot in entry.slots(2):  # right answers to inputs that were seen in the other replica
        positions = np.asarray(entry.positions(slot))
        seen = view.batch(positions, np.full(len(positions), 1 - slot.replica))
        logits = teacher.network(seen.inputs_B)["logits"].detach().numpy()
        entry.commit(Shard(Slot(slot.replica, slot.index), seen.ids_B.numpy(), input_checksums(seen.inputs_B), logits))
    with pytest.raises(ValueError, match=r"row \d+ in replica \d is not the input"):
        runner.run(tiny.student())


def test_a_bare_term_is_an_objective() -> None:
    assert replace(tiny.teacher(), objective=CrossEntropy()) == tiny.teacher()  # type: ignore[arg-type]
