"""Runs of `raykd run` in processes of their own, which may be killed. They are forked by a server that has imported all, once.

What a run does is what the command does; only Python's start and the imports, 4 s of a core, are not paid for each.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from raykd import cli

_numbers = itertools.count()
JOBS = str(Path(__file__).parents[1] / "tiny_jobs.py")


@dataclass(frozen=True)
class Run:
    """A run under way, or over. `log` and its sibling `.err` are what it says."""

    process: BaseProcess
    log: Path

    def wait_for(self, reached: Callable[[], bool], seconds: float = 120) -> None:
        """Until `reached` says so, which it must before the run ends."""
        end = time.monotonic() + seconds
        while not reached():
            assert self.process.is_alive(), f"it ended too early: {self.said}"
            assert time.monotonic() < end
            time.sleep(0.01)

    def kill(self) -> None:
        """With SIGKILL."""
        self.process.kill()
        self.process.join()

    def result(self) -> dict[str, Any]:
        """What it prints with --json, once it is over."""
        self.process.join(200)
        assert self.process.exitcode == 0, self.said
        return json.loads(self.log.read_text().splitlines()[-1])

    @property
    def said(self) -> str:
        """What a person would see."""
        return self.log.with_suffix(".err").read_text()


def start(recipe: str, storage: Path, *words: str) -> Run:
    """`raykd run` of a recipe of tiny_jobs.py; what it says lies beside the storage."""
    log = storage.parent / f"run{next(_numbers)}.out"
    command = ("run", f"{JOBS}:{recipe}", "--storage", str(storage), "--no-baseline", "--json", *words)
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=_run, args=(command, dict(os.environ), log))
    process.start()
    return Run(process, log)


def shards(storage: Path) -> int:
    """How many are committed."""
    return len(list(storage.glob("cache/v1/*/*/views/*/*.arrow")))


def _run(command: tuple[str, ...], environment: Mapping[str, str], log: Path) -> None:
    os.environ.clear()
    # an earlier test's Ray may have settled its mode: that of a cluster that is joined, and of no other
    joins = "RAY_ADDRESS" in environment
    os.environ.update({name: value for name, value in environment.items() if joins or name != "RAY_AUTH_MODE"})
    for path, stream in ((log, 1), (log.with_suffix(".err"), 2)):
        with path.open("w") as file:
            os.dup2(file.fileno(), stream)
    cli.main(command)
