"""What all tests share."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is there: tests share two cores

import pytest
import torch

from raykd import cli

sys.path.insert(0, str(Path(__file__).parent))  # `import laws` from any folder of tests
os.environ.setdefault("RAYKD_PATIENCE", "0.2")  # a storage that fails in a test stays away
os.environ.setdefault("RAY_worker_niceness", "0")  # tests share two cores with nobody who must go first
# real processes are forked by a server that has imported, once, what they run, and what torch and Ray import when first used
multiprocessing.get_context("forkserver").set_forkserver_preload(
    ["raykd.cli", "raykd.runtime.cluster", "ray.data", "ray.train.torch", "torch._dynamo", "torch.utils.flop_counter"]
)


CPUS = "RAYKD_TEST_CPUS"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest comes first, so that two processes end together; what is about several cores is left out on one."""
    on_ray = {item.path for item in items if item.get_closest_marker("ray")}
    items.sort(key=lambda item: (item.path not in on_ray, item.path.parent.name != "training"))
    if os.environ.get(CPUS) == "1":
        for item in items:
            if item.get_closest_marker("cores"):
                item.add_marker(pytest.mark.skip(reason="about work on several cores"))


@pytest.fixture(scope="session", autouse=True)
def _cores() -> Iterator[None]:
    """RAYKD_TEST_CPUS=1: every Ray that this process starts has so many cores, whatever a test asks for."""
    if cpus := os.environ.get(CPUS):
        import ray

        with pytest.MonkeyPatch.context() as patch:
            init = ray.init
            patch.setattr(ray, "init", lambda *given, **settings: init(*given, **{**settings, "num_cpus": int(cpus)}))
            yield
    else:
        yield


@pytest.fixture(autouse=True)
def _same_seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def _interruptible() -> Iterator[None]:
    """For a test that interrupts itself: what runs several at once may have told this process to leave interrupts to it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Outcome:
    def __init__(self, code: int, out: str, err: str):
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> dict[str, Any]:
        return json.loads(self.out.splitlines()[-1])


@pytest.fixture
def raykd(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a command line in this process, on a storage of its own."""
    monkeypatch.setenv("RAYKD_STORAGE", str(tmp_path / "storage"))

    def call(*words: str) -> Outcome:
        with pytest.raises(SystemExit) as ended:
            cli.main(words)
        captured = capsys.readouterr()
        return Outcome(int(ended.value.code or 0), captured.out, captured.err)

    return call


@pytest.fixture(scope="session")
def processes() -> Any:
    """A context for real processes."""
    return multiprocessing.get_context("forkserver")
