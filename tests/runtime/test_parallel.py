"""Several stages at once on a real local Ray: the same networks, errors that stay where they are, interrupts."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
import tiny
import tiny_jobs

from raykd.budget import SGD
from raykd.identity import fingerprint
from raykd.methods.auto_chain import auto_chain
from raykd.models import MLP
from raykd.plan import plan, waits
from raykd.runtime import Display, Local, cluster, make_runner, resolve
from raykd.runtime.cluster import Cluster
from raykd.shares import Node
from raykd.stage import Stage
from raykd.storage import Storage
from raykd.training.loop import DivergedError


@pytest.fixture(scope="module", params=[2, pytest.param(1, marks=pytest.mark.slow)])
def _ray(request: pytest.FixtureRequest) -> Iterator[None]:
    ray.init(address="local", num_cpus=request.param, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


two_cpus = pytest.mark.parametrize("_ray", [2], indirect=True)


def slow(stage: Stage, label: str) -> Stage:
    """Takes its time over every batch."""
    return replace(stage, view=replace(stage.view, ops=(*stage.view.ops, tiny_jobs.Slow(0.05))), label=label)


def teachers(**changes: Any) -> dict[str, Stage]:
    return {f"t{width}": slow(replace(tiny.teacher(width=width), **changes), f"t{width}") for width in (32, 24)}


def students(above: dict[str, Stage]) -> list[Stage]:
    """One of each teacher, and one of both."""
    written = tiny.student(replicas=1)
    one, other = ({name: each} for name, each in above.items())
    found = zip(("of t32", "of t24", "of both"), (one, other, above), strict=True)
    return [replace(written, teachers=their, label=label) for label, their in found]


def parallel(root: Path, seats: int | None = 2, **settings: Any) -> Cluster:
    runner = Cluster(Storage(root), Display(quiet=True), parallel=seats, **settings)
    runner._own = True  # what is made alone is trained in this process, as on a Ray of the run's own
    return runner


def times(root: Path, stage: Stage) -> tuple[float, float]:
    """When its training began and ended."""
    folder = root / "stages" / fingerprint(stage)
    return (folder / "stage.json").stat().st_mtime, (folder / "result.json").stat().st_mtime


@pytest.mark.ray
@pytest.mark.usefixtures("_ray")
def test_stages_at_once_are_what_they_are_one_after_the_other(tmp_path: Path) -> None:
    above = teachers()
    written = students(above)
    runner, local = parallel(tmp_path / "two"), Local(Storage(tmp_path / "one"), Display(quiet=True))
    found, expected = runner.run(*written), local.run(*written)
    for one, other in zip(found, expected, strict=True):
        assert one.metrics == pytest.approx(other.metrics, abs=0.02)
    (begun, ended), (other_begun, other_ended) = (times(tmp_path / "two", each) for each in above.values())
    assert max(begun, other_begun) < min(ended, other_ended)  # both at once, on however few cores
    # each teacher was asked once about each row, by whichever of its students came first, and tried and evaluated once
    assert runner.counts.teacher_rows == local.counts.teacher_rows == {"t32": tiny.rows(), "t24": tiny.rows()}
    assert runner.counts.preflight_rows == local.counts.preflight_rows
    assert runner.counts.cache_rows == local.counts.cache_rows
    assert runner.counts.phases["train"]["cache_rows"] == local.counts.phases["train"]["cache_rows"]
    again = parallel(tmp_path / "two")
    assert [each.metrics for each in again.run(*written)] == [each.metrics for each in found]
    assert "train" not in again.counts.seconds


@pytest.mark.ray
@pytest.mark.usefixtures("_ray")
@two_cpus
def test_an_error_ends_those_that_wait_for_it_and_is_raised_when_the_others_are_done(tmp_path: Path) -> None:
    above = teachers()
    bad = replace(above["t24"], budget=replace(above["t24"].budget, optimiser=SGD(lr=1e30)))
    of_good, of_bad, of_both = written = students({"t32": above["t32"], "t24": bad})
    with pytest.raises(DivergedError, match=r"stage t24: .* is not finite") as error:
        parallel(tmp_path).run(*written)
    assert "\n" not in str(error.value)
    storage = Storage(tmp_path)
    assert storage.result(of_good) is not None
    for never in (of_bad, of_both):
        assert storage.result(never) is None
        assert not storage.folder(never).exists()


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("_ray", "_interruptible")
@two_cpus
def test_an_interrupt_ends_all_that_is_running(tmp_path: Path) -> None:
    budget = replace(tiny.teacher().budget, epochs=10_000)
    long = list(teachers(budget=budget).values())
    lines = [tmp_path / "stages" / fingerprint(stage) / "metrics.jsonl" for stage in long]

    def interrupt() -> None:
        while not all(path.exists() for path in lines):
            time.sleep(0.05)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        parallel(tmp_path).run(*long)
    time.sleep(0.5)
    seen = [path.read_text() for path in lines]
    time.sleep(1.5)
    assert [path.read_text() for path in lines] == seen
    assert all(Storage(tmp_path).result(stage) is None for stage in long)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("_ray")
@two_cpus
def test_candidates_that_are_tried_at_once_yield_the_same_choice(tmp_path: Path) -> None:
    stage = replace(tiny.student(replicas=1), student=MLP((4,), shape=tiny.SHAPE))
    selection = auto_chain(stage, 2, epsilon=1.0)
    runner = parallel(tmp_path)
    assert resolve(selection, runner, speculative=3).stage == stage
    assert all(runner.storage.result(each) is not None for each in selection.candidates)
    # asked by three for the same
    assert runner.counts.teacher_rows["teacher"] == tiny.rows() * 4


def steps(*stages: Stage) -> Any:
    return [step for step in plan(stages, Storage(Path("/nowhere"))).steps if isinstance(step.network, Stage)]


def seats(
    monkeypatch: pytest.MonkeyPatch, stages: Sequence[Stage], cpus: int, gpus: int, nodes: int, **said: Any
) -> int:
    """On a cluster of such a size."""
    node = Node({"CPU": cpus // nodes, "GPU": gpus // nodes})
    monkeypatch.setattr(cluster, "_nodes", lambda: [node] * nodes)
    return Cluster(Storage(Path("/nowhere")), Display(quiet=True), **said).seats(steps(*stages))


def test_seats_are_as_many_as_devices_where_that_is_expected_to_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    many = list(teachers().values())
    assert seats(monkeypatch, many, cpus=2, gpus=0, nodes=1) == 1  # one stage takes all cores of a node
    assert seats(monkeypatch, many, cpus=8, gpus=0, nodes=4) == 4
    assert seats(monkeypatch, many, cpus=8, gpus=2, nodes=1) == 2
    assert seats(monkeypatch, many[:1], cpus=8, gpus=2, nodes=1) == 1
    for said in ({"workers": 2}, {"overlap": True}, {"overlap": False}):
        assert seats(monkeypatch, many, cpus=8, gpus=2, nodes=1, **said) == 1
    assert seats(monkeypatch, many, cpus=2, gpus=0, nodes=1, parallel=3) == 3


def test_long_fills_are_better_done_by_all_devices_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = replace(tiny.teacher(), student=MLP((4096, 4096), shape=tiny.SHAPE))
    written = [replace(tiny.student(replicas=4), teachers={"teacher": teacher}, seed=seed) for seed in (0, 1)]
    assert all(each.flops for step in steps(*written)[1:] for each in step.fillings)
    asked = [step for step in steps(*written) if step.fillings]

    def found(gpus: int) -> int:
        monkeypatch.setattr(cluster, "_nodes", lambda: [Node({"CPU": 8, "GPU": gpus})])
        return Cluster(Storage(Path("/nowhere")), Display(quiet=True)).seats(asked)

    assert found(8) == 1  # two stages on two of eight devices, and two long fills
    assert found(2) == 2


def test_a_stage_waits_for_what_it_starts_from_and_for_shorter_parts_of_its_own_training() -> None:
    whole = tiny.teacher(epochs=4)
    part = replace(whole, budget=replace(whole.budget, until=2, keep="last"), label="part")
    after = replace(tiny.student(), teachers={"teacher": part}, init=None, label="after")
    order = [step.network for step in steps(after, whole, tiny.student())]
    places = {str(each): i for i, each in enumerate(order)}
    found = waits([each for each in order if isinstance(each, Stage)])
    assert found[places["part"]] == set()
    assert found[places["teacher"]] == {places["part"]}
    assert found[places["after"]] == {places["part"]}
    assert found[places["student"]] == {places["teacher"]}
    going_on = replace(tiny.student(seed=1), init=tiny.student(), label="going on")
    assert waits([tiny.teacher(), tiny.student(), going_on]) == [set(), {0}, {0, 1}]
    assert waits([going_on]) == [set()]  # the others are done


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"local": True, "parallel": 2}, "parallel=2 with local"),
        ({"local": False, "parallel": 2, "workers": 2}, "parallel=2 with workers=2: .* leave one of them out"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, settings: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words) as error:
        make_runner(tmp_path, **settings)
    assert "\n" not in str(error.value)
