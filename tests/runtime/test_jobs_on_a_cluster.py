"""Jobs on a real cluster with a dashboard, in processes of its own: submitted, followed, killed, submitted again."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tiny
from ray.runtime_env import RuntimeEnv
from runs import shards

from raykd import recipes, submission
from raykd.runtime import Display, Local
from raykd.storage import Storage
from raykd.submission import FIELDS

ROOT = Path(__file__).parents[2]
MARK = "RAYKD_JOBS_TEST"
KD = ("--epochs", "2", "--replicas", "2", "--no-baseline", "--json")

pytestmark = pytest.mark.ray


@dataclass(frozen=True)
class Started:
    address: str
    log: Path


def of_the_cluster(mark: str) -> dict[int, str]:
    """Its processes: pids and command lines."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"{MARK}={mark}\0".encode() in path.read_bytes():
                found[int(path.parent.name)] = path.with_name("cmdline").read_text().replace("\0", " ")
        except OSError:
            continue  # it ended while we looked
    return found


def free_ports(count: int) -> list[int]:
    """Between those of Ray's workers and those that the system gives to whoever asks, Ray's own servers too."""
    ports: list[int] = []
    while len(ports) < count:
        with socket.socket() as tried:
            port = random.randrange(20_000, 32_000)
            if port not in ports and tried.connect_ex(("127.0.0.1", port)):
                ports.append(port)
    return ports


def wait_for(reached: Callable[[], bool], log: Path, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end, log.read_text()[-2000:]
        time.sleep(0.05)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.status == 200
    except OSError:
        return False


def with_job_server() -> str:
    """A path on which Ray finds what its job server needs (see Makefile)."""
    return os.pathsep.join(filter(None, [str(Path(sys.prefix, "job-server")), os.environ.get("PYTHONPATH")]))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    """A head with two cores, in a folder of a short name: a socket's may have 107 characters."""
    folder, log = tempfile.mkdtemp(prefix="rk", dir="/tmp"), tmp_path_factory.mktemp("cluster") / "log"
    dashboard, agent, client = free_ports(3)
    command = [
        sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--port=0", "--num-cpus=2",
        f"--temp-dir={folder}", "--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}",
        f"--dashboard-agent-listen-port={agent}", f"--ray-client-server-port={client}", "--disable-usage-stats",
        "--object-store-memory=100000000",
    ]  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAYKD_")} | {
        MARK: folder,
        "RAY_AUTH_MODE": "disabled",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",  # `python` of a job is this one
        "PYTHONPATH": with_job_server(),
    }
    with log.open("w") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, env=environment, start_new_session=True)
    try:
        url = f"http://127.0.0.1:{dashboard}"
        wait_for(lambda: answers(f"{url}/api/jobs/"), log)
        yield Started(url, log)
    finally:
        process.kill()
        process.wait()
        while left := of_the_cluster(folder):  # its parts have process groups of their own
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def submit(cluster: Started, raykd: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`raykd submit` to that cluster."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.delenv("RAYKD_STORAGE")
    monkeypatch.setattr(submission, "PAUSE_S", 0.1)
    return lambda *words: raykd("submit", *words, "--address", cluster.address)


def result_of(out: str) -> dict[str, Any]:
    """The line that --json ends with."""
    (line,) = [line for line in out.splitlines() if line.startswith('{"stage"')]
    return json.loads(line)


def test_a_job_succeeds_with_its_result_on_the_storage_and_the_same_from_ray_job_submit_computes_nothing(
    cluster: Started, submit: Any, tmp_path: Path
) -> None:
    storage = tmp_path / "storage"
    written = recipes.load(f"{ROOT}/jobs/digits.py:kd").stage()
    Local(Storage(storage), Display(quiet=True)).run(
        written.teachers["teacher"]
    )  # how it came to be is not what is asked
    done = submit("jobs/digits.py:kd", *KD, "--storage", str(storage), "--working-dir", str(ROOT), "--retries", "0")
    assert done.code == 0, done.out + done.err
    first = result_of(done.out)
    (result,) = [json.loads(path.read_text()) for path in storage.glob(f"stages/{first['stage']}/result.json")]
    assert result["metrics"]["test_top1"] == first["metrics"]["test_top1"]
    assert first["teacher_rows"] == {"teacher": 2 * 100}
    assert "submitted as the job raykd-" in done.err

    again = subprocess.run(
        [
            sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--address", cluster.address, "--working-dir",
            ".", "--runtime-env", "cluster/runtime-env.yaml", "--", "python", "jobs/digits.py", "kd", *KD, "--storage",
            str(storage),
        ],
        cwd=ROOT, env={**os.environ, "RAY_AUTH_MODE": "disabled", "PYTHONPATH": with_job_server()},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert again.returncode == 0, again.stdout + again.stderr
    second = result_of(again.stdout)
    assert (second["stage"], second["metrics"]) == (first["stage"], first["metrics"])
    assert second["teacher_rows"] == {"teacher": 0}
    assert second["cache_rows"] == 0


def test_a_mistake_that_only_the_job_finds_gives_its_exit_code_and_is_not_submitted_again(
    submit: Any, tmp_path: Path
) -> None:
    done = submit(
        "jobs/digits.py:kd", "--storage", str(tmp_path / "storage"), "--working-dir", str(ROOT), "--teacher-gpus",
        "nobody=1",
    )  # fmt: skip
    assert done.code == 2, done.out + done.err
    assert "GPUs are declared for the teacher 'nobody'" in done.out
    assert done.err.count("submitted") == 1


def test_a_job_whose_driver_is_killed_is_submitted_again_by_itself_and_continues(submit: Any, tmp_path: Path) -> None:
    storage, folder, replicas = tmp_path / "storage", tmp_path / "project", 12
    folder.mkdir()
    for name in ("tiny.py", "tiny_jobs.py"):
        shutil.copy(ROOT / "tests" / name, folder)
    killed: list[int] = []

    def driver() -> int | None:
        """Its pid; what the shell around it says begins otherwise."""
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):  # it ended while we looked
                words = path.read_bytes().split(b"\0")
                if words[:3] == [b"python", b"-m", b"raykd"] and str(storage).encode() in words:
                    return int(path.parent.name)
        return None

    def kill() -> None:
        while shards(storage) < 3 or (pid := driver()) is None:
            if over.wait(0.01):
                return
        os.kill(pid, signal.SIGKILL)
        killed.append(shards(storage))

    over = threading.Event()
    killer = threading.Thread(target=kill)
    killer.start()
    try:
        done = submit(
            f"{folder}/tiny_jobs.py:slow", "--storage", str(storage), "--working-dir", str(folder), "--replicas",
            str(replicas), "--epochs", str(replicas), "--local", "--no-baseline", "--json", "--retries", "1",
        )  # fmt: skip
    finally:
        over.set()
        killer.join()
    assert done.code == 0, done.out + done.err
    assert len(killed) == 1
    assert 3 <= killed[0] < replicas
    assert "submitted again" in done.err
    assert result_of(done.out)["teacher_rows"] == {"teacher": (replicas - killed[0]) * tiny.rows()}


def test_nobody_at_an_address_is_one_line(raykd: Any, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    address = f"http://127.0.0.1:{port}"
    done = raykd("submit", "jobs/digits.py:kd", "--storage", "/x", "--working-dir", str(ROOT), "--address", address)
    assert done.code == 1
    assert len(done.err.splitlines()) == 1
    assert address in done.err


def test_the_fields_that_we_know_are_fields_of_ray() -> None:
    assert RuntimeEnv.known_fields >= FIELDS
