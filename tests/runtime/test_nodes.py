"""Machines that are gone in the middle: while teachers label, while a student trains, and the one that runs the command.

Several raylets on this machine stand for several machines; whoever is killed is killed with SIGKILL.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import ray
import tiny
import tiny_cache
from ray import cloudpickle
from ray.cluster_utils import Cluster as Machines
from runs import JOBS, Run, shards, start
from torch import Tensor, nn

from raykd.data import Draws, Operation, View
from raykd.identity import aside, fingerprint
from raykd.labeling.placement import Actors
from raykd.methods.kl import KL
from raykd.models import MLP
from raykd.runtime import Display, Local
from raykd.runtime.cluster import Cluster
from raykd.runtime.runner import Trained
from raykd.shares import Share
from raykd.stage import Pretrained, Stage
from raykd.storage import Storage
from raykd.terms import Distill

pytestmark = pytest.mark.ray

FAST = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 500,
    "health_check_failure_threshold": 2,
}
MEMORY = 80 * 2**20
REPLICAS, EPOCHS = 12, 8


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    """A head that does no work, and three machines of a core each."""
    head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": MEMORY, "_system_config": FAST}
    found = Machines(initialize_head=True, head_node_args=head)
    try:
        for _ in range(3):
            found.add_node(num_cpus=1, object_store_memory=MEMORY)
        ray.init(address=found.address, log_to_driver=False, logging_level=logging.ERROR)
        cloudpickle.register_pickle_by_value(sys.modules[__name__])
        yield found
    finally:
        ray.shutdown()
        found.shutdown()


def lose(machines: Machines, node_id: str) -> None:
    """The power of a machine fails."""
    node = next(node for node in machines.worker_nodes if node.node_id == node_id)
    machines.remove_node(node, allow_graceful=False)


def until(reached: Callable[[], bool], work: Future[Any] | None = None, seconds: float = 200) -> None:
    """Wait for it; `work` must not end before."""
    end = time.monotonic() + seconds
    while not reached():
        assert work is None or not work.done(), f"it ended too early: {work.exception() or work.result()}"
        assert time.monotonic() < end
        time.sleep(0.01)


def note(log: str, what: str) -> None:
    """One write, so that a kill leaves the line whole or out."""
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{what} {os.getpid()} {ray.get_runtime_context().get_node_id()}\n".encode())
    os.close(descriptor)


def noted(log: Path) -> list[list[str]]:
    """What, process and machine of every line that was not written here."""
    lines = log.read_text().splitlines() if log.exists() else []
    return [line.split() for line in lines if line.split()[1] != str(os.getpid())]


class Telling(nn.Module):
    """Changes nothing, takes its time, and notes how many rows it saw."""

    def __init__(self, log: str, seconds: float):
        super().__init__()
        self.log, self.seconds = log, seconds

    def forward(self, inputs_B: Tensor) -> Tensor:
        if self.log and inputs_B.device.type == "cpu" and len(inputs_B) > 2 and ray.is_initialized():
            note(self.log, str(len(inputs_B)))
            time.sleep(self.seconds)
        return inputs_B


@dataclass(frozen=True)
class Watched(MLP):
    """A teacher whose forward passes are noted."""

    log: str = aside("")
    seconds: float = aside(0.0)

    def body(self) -> nn.Module:
        body = super().body()
        body.flatten = nn.Sequential(body.flatten, Telling(self.log, self.seconds))
        return body


@dataclass(frozen=True)
class Noted(Operation):
    """Changes nothing, takes its time, and notes every batch that training reads."""

    log: str = aside("")
    seconds: float = aside(0.0)

    def __call__(self, images_BCHW: Tensor, draws: Draws) -> Tensor:
        if self.log and len(images_BCHW) <= 32 and ray.is_initialized():
            note(self.log, "batch")
            time.sleep(self.seconds)
        return images_BCHW


@dataclass(frozen=True)
class Differing(Actors):
    """Teachers that take different shares of a machine have pools of their own."""

    def share(self, teacher: str) -> Share:
        return Share(cpus=0.5 if teacher == "small" else 1.0)


def watched(root: Path, width: int, *, log: Path | None = None) -> Pretrained:
    """A teacher with random weights that have opinions."""
    network = MLP((width,), shape=tiny.SHAPE)
    known = tiny_cache.teacher(root, seed=width, network=network)
    seen = Watched((width,), shape=tiny.SHAPE, log=str(log or ""), seconds=0.05 if log else 0.0)
    return Pretrained(seen, known.weights)


def quiet(root: Path, **settings: Any) -> Cluster:
    return Cluster(Storage(root), Display(quiet=True), any_teacher=True, **settings)


def taught(root: Path, logs: Path | None) -> Stage:
    """A student of two teachers."""
    teachers = {name: watched(root, width, log=logs and logs / name) for name, width in (("large", 24), ("small", 12))}
    stage = tiny.student(epochs=2, replicas=REPLICAS)
    view = View(tiny.DATASET, tiny.MOVED, replicas=REPLICAS)
    budget = replace(stage.budget, epochs=REPLICAS)
    return replace(stage, view=view, teachers=teachers, objective=1.0 * Distill(KL()), budget=budget)


def said(root: Path, stage: Stage) -> dict[str, Any]:
    """All that each teacher says, out of the cache."""
    found = {}
    for name, kept in stage.kept.items():
        reader = Storage(root).reader(name, stage.teachers[name], stage.seen, kept[0])
        rows = range(tiny.rows())
        found[name] = [reader.gather([replica] * len(rows), rows) for replica in range(REPLICAS)]
    return found


def test_a_machine_lost_while_it_trains_costs_an_epoch_at_most(tmp_path: Path, machines: Machines) -> None:
    root, log = tmp_path / "storage", tmp_path / "log"
    written = tiny.teacher(epochs=EPOCHS)
    stage = replace(written, view=replace(written.view, ops=(Noted(str(log), 0.02),)))
    plain = replace(written, view=replace(written.view, ops=(Noted(),)))
    assert fingerprint(stage) == fingerprint(plain)
    metrics = root / "stages" / fingerprint(stage) / "metrics.jsonl"

    def epochs() -> int:
        return len(metrics.read_text().splitlines()) if metrics.exists() else 0

    with ThreadPoolExecutor(1) as threads:
        work = threads.submit(lambda: quiet(root).run(stage)[0])
        until(lambda: epochs() >= 3, work)
        before = noted(log)[-1]
        lose(machines, before[2])
        kept = epochs()
        assert 3 <= kept < EPOCHS
        done: Trained = work.result(200)

    steps = tiny.rows() // 32
    again = [line for line in noted(log) if line[1] != before[1]]
    assert {machine for _, _, machine in again}.isdisjoint({before[2]})
    assert 0 < len(again) <= (EPOCHS - kept) * steps
    assert len(again) % steps == 0  # whole epochs, and none that was kept
    (expected,) = Local(Storage(tmp_path / "local"), Display(quiet=True)).run(plain)
    assert done.metrics == pytest.approx(expected.metrics, abs=1e-5)


def test_a_driver_that_is_killed_leaves_nothing_at_work_and_the_same_command_goes_on(
    tmp_path: Path, machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", machines.address)
    storage, replicas = tmp_path / "storage", 24
    Local(Storage(storage), Display(quiet=True)).run(tiny.teacher())
    cores = ray.cluster_resources()["CPU"]

    def submitted() -> Run:
        words = ("--replicas", str(replicas), "--epochs", str(replicas), "--seconds", "0.03", "--batch", "128")
        return start("slow", storage, *words, "--no-overlap")

    until(lambda: ray.available_resources().get("CPU") == cores)
    first = submitted()
    first.wait_for(lambda: shards(storage) >= 4, seconds=200)
    first.kill()
    committed = shards(storage)
    until(lambda: ray.available_resources().get("CPU") == cores)  # what it had at work is over
    left = shards(storage)
    assert 4 <= committed <= left < replicas
    done = submitted().result()
    assert done["teacher_rows"] == {"teacher": (replicas - left) * tiny.rows()}


def test_a_machine_lost_while_two_teachers_label_costs_what_it_had_in_hand(tmp_path: Path, machines: Machines) -> None:
    root, logs = tmp_path / "storage", tmp_path / "logs"
    logs.mkdir()
    machines.add_node(num_cpus=1, object_store_memory=MEMORY)  # for the one that another test lost
    stage = taught(tmp_path, logs)
    runner = quiet(root, actors=Differing(), overlap=False)
    runner._own = True  # the student is trained here: what is asked is how its teachers fare
    with ThreadPoolExecutor(1) as threads:
        work = threads.submit(lambda: runner.run(stage)[0])
        until(lambda: shards(root) >= 5 and all(noted(logs / name) for name in stage.teachers), work)
        lost = noted(logs / "small")[-1][2]
        at_work = {process for log in logs.iterdir() for _, process, machine in noted(log) if machine == lost}
        lose(machines, lost)
        assert shards(root) < 2 * REPLICAS
        done = work.result(200)

    for name in stage.teachers:
        computed = sum(int(rows) for rows, _, _ in noted(logs / name))
        assert REPLICAS * tiny.rows() <= computed <= (REPLICAS + len(at_work)) * tiny.rows()
    assert 1 <= len(at_work) <= 3

    local = Local(Storage(tmp_path / "local"), Display(quiet=True), any_teacher=True)
    (expected,) = local.run(taught(tmp_path, None))
    ours, theirs = said(root, stage), said(tmp_path / "local", taught(tmp_path, None))
    for name in stage.teachers:
        for one, other in zip(ours[name], theirs[name], strict=True):
            assert (one - other).abs().max() <= 1e-2 * other.abs().max()
    assert done.metrics == pytest.approx(expected.metrics, abs=0.02)


def below(process: int) -> dict[int, str]:
    """The processes that a process started, and they in turn: names by number."""
    found, parents = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = path.read_text().partition("(")[2].rpartition(")")
            parents[int(path.parent.name)] = int(rest.split()[1]), name
        except OSError:
            continue  # it ended while we looked
    while new := {pid for pid, (parent, _) in parents.items() if parent in {process, *found}} - found.keys():
        found |= {pid: parents[pid][1] for pid in new}
    return found


@contextmanager
def by_hand(count: int) -> Iterator[tuple[str, list[int]]]:
    """A head without cores, and machines of a core each, as `ray start` makes them: the address, and who runs the machines."""
    folder = Path(tempfile.mkdtemp(prefix="rk", dir="/tmp"))  # short: a socket's path has 107 characters at most
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]
    command += [f"--object-store-memory={MEMORY}"]
    started: list[subprocess.Popen[bytes]] = []

    def node(*words: str) -> int:
        silent: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
        started.append(subprocess.Popen([*command, *words], env=environment, **silent))
        return started[-1].pid

    try:
        head = ("--head", "--port=0", "--num-cpus=0", "--include-dashboard=false", f"--temp-dir={folder}")
        node(*head, f"--system-config={json.dumps(FAST)}")
        until((folder / "ray_current_cluster").exists)
        address = (folder / "ray_current_cluster").read_text().strip()
        machines = [node(f"--address={address}", "--num-cpus=1") for _ in range(count)]
        until(lambda: all("raylet" in below(machine).values() for machine in machines))
        yield address, machines
    finally:
        left = [pid for process in started for pid in (process.pid, *below(process.pid))]
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for process in started:
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
def test_a_raylet_that_is_killed_while_a_command_runs_costs_what_it_had_in_hand(tmp_path: Path) -> None:
    storage, replicas = tmp_path / "storage", 24
    Local(Storage(storage), Display(quiet=True)).run(tiny.teacher())
    with by_hand(2) as (address, nodes):
        words = ["--replicas", str(replicas), "--epochs", str(replicas), "--seconds", "0.05", "--no-baseline", "--json"]
        command = [sys.executable, "-m", "raykd", "run", f"{JOBS}:slow", "--storage", str(storage), *words]
        environment = {**os.environ, "RAY_ADDRESS": address, "RAY_AUTH_MODE": "disabled"}
        pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, env=environment, **pipes) as run:
            until(lambda: shards(storage) >= 4 or run.poll() is not None, seconds=250)
            raylet = next(pid for pid, name in below(nodes[0]).items() if name == "raylet")
            os.kill(raylet, signal.SIGKILL)
            assert shards(storage) < replicas
            out, err = run.communicate(timeout=250)
        assert run.returncode == 0, err
    done = json.loads(next(line for line in out.splitlines() if line.startswith("{")))
    # what it had in hand was computed twice, or committed and never told
    assert (replicas - 1) * tiny.rows() <= done["teacher_rows"]["teacher"] <= (replicas + 1) * tiny.rows()
    assert shards(storage) == replicas
