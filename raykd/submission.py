"""A run as a job of a Ray cluster: handed to its job server, followed to its end, submitted again when it is lost.

    words of `raykd run` -> Submission -> job NAME-1 -> log, exit code
                                             | killed, node lost, storage away
                                             +-> job NAME-2, which continues what lies on the storage

The name is a fingerprint of the command and of what it makes: the same submission that still runs is followed, not started
twice. No Ray here: `Jobs` is what is needed of its client. Values of environment variables are never shown.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import yaml

from raykd.identity import digest

FIELDS = {
    "conda", "config", "container", "env_vars", "excludes", "image_uri", "pip", "py_executable", "py_modules", "uv",
    "worker_process_setup_hook",
}  # fmt: skip
"""Of a runtime environment; `working_dir` is an option of the command."""
OVER = ("SUCCEEDED", "FAILED", "STOPPED")
MISTAKE, DIVERGED, INTERRUPTED = 2, 3, 130
"""Exit codes of a run that another try would not help."""
PAUSE_S, LONGEST_S = 5.0, 300.0
"""Before the first try after a failure, doubled for each further one; at most."""
QUIET_S = 300.0
"""Without a line of the log, after which the connection is made anew: it may have died without a word."""
PATIENCE_S = 600.0
"""For a cluster that does not answer while a job is followed."""
ASK_S = 1.0
TAILS = 3
"""Tries to read what is left of the log of a job that is over."""


class Job(Protocol):
    """What the server knows of a job."""

    @property
    def submission_id(self) -> str | None:
        """Its name."""

    @property
    def status(self) -> str:
        """PENDING, RUNNING, or one of `OVER`."""

    @property
    def message(self) -> str | None:
        """Why it failed, and more."""

    @property
    def driver_exit_code(self) -> int | None:
        """None before the command is over, and where it was lost or never started."""


class Jobs(Protocol):
    """A job server, as Ray's `JobSubmissionClient` shows it."""

    def submit_job(
        self, *, entrypoint: str, submission_id: str, runtime_env: dict[str, Any], metadata: dict[str, str]
    ) -> str:
        """Start a job. Raises `RuntimeError` if one of that name was started before, and for all that goes wrong."""

    def list_jobs(self) -> Sequence[Job]:
        """All that it knows, those that are over too."""

    def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        """The log from its first character until the job is over, in chunks."""

    def stop_job(self, job_id: str) -> bool:
        """Ask a job to end."""


@dataclass(frozen=True)
class Submission:
    """A command, and what it needs of a cluster."""

    entrypoint: str
    """For a shell, in the working directory."""
    runtime_env: Mapping[str, Any]
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The same for the same command that makes the same stage."""
        return f"raykd-{digest([self.entrypoint, self.metadata.get('stage')])[:16]}"

    def number(self, job: Job) -> int:
        """Which try at this a job is, counted from 1; 0 for none."""
        found = re.fullmatch(rf"{self.name}-([0-9]+)", job.submission_id or "")
        return int(found[1]) if found else 0

    def hidden(self, text: str) -> str:
        """The text in one line, without values of environment variables."""
        for value in self.runtime_env.get("env_vars", {}).values():
            if len(value) > 3:
                text = text.replace(value, "***")
        return " ".join(text.split())


@dataclass
class Followed:
    """A submission on a cluster, with everything that a person sees of it."""

    jobs: Jobs
    submission: Submission
    show: Callable[[str], None]
    """Takes the jobs' log, as it comes."""
    say: Callable[[str], None]
    """Takes lines about the submission itself."""
    pause: Callable[[float], None] = time.sleep
    job: str = ""
    """The one that runs, or ran last."""

    def run(self, retries: int) -> int:
        """Until it is done, or failed once more than `retries`. The exit code: that of `exit_code`.

        Raises `OSError` if the cluster takes no job, or does not answer for `PATIENCE_S`.
        """
        failures = 0
        while True:
            self.submit()
            over = self._follow()
            code = exit_code(over)
            if code == 1:
                self.say(f"the job {self.job} failed: {self._reason(over)}")
            if code != 1 or failures == retries:
                return code
            wait_s = min(PAUSE_S * 2**failures, LONGEST_S)
            failures += 1
            self.say(f"submitted again in {wait_s:g} s, to continue; try {failures} of {retries}")
            self.pause(wait_s)

    def submit(self) -> None:
        """Start the job, or find the one that runs. Raises `OSError` if the cluster takes none."""
        known = self._known()
        if self._found(known):
            return
        job = f"{self.submission.name}-{max(known, default=0) + 1}"
        try:
            self.jobs.submit_job(
                entrypoint=self.submission.entrypoint,
                submission_id=job,
                runtime_env=dict(self.submission.runtime_env),
                metadata=dict(self.submission.metadata),
            )
        except (RuntimeError, OSError) as error:
            # who submits the same at the same time may have been first
            if not self._found(self._known()):
                raise OSError(self.submission.hidden(f"the cluster took no job: {error}")) from error
        else:
            self.job = job
            self.say(f"submitted as the job {job}: {self.submission.entrypoint}")

    def _found(self, known: Mapping[int, Job]) -> bool:
        """Whether one of these still runs; it is the one to follow."""
        running = [job.submission_id or "" for job in known.values() if job.status not in OVER]
        if running:
            self.job = running[0]
            self.say(f"the job {self.job} is the same, and not over: it is followed")
        return bool(running)

    def _known(self) -> dict[int, Job]:
        """The jobs of this submission, by number. Asked again for a while where the cluster does not answer."""
        waited_s = 0.0
        while True:
            try:
                jobs = {self.submission.number(job): job for job in self.jobs.list_jobs()}
            except (RuntimeError, OSError) as error:
                if waited_s >= PATIENCE_S:
                    said = self.submission.hidden(str(error))
                    raise ConnectionError(f"the cluster has not answered for {PATIENCE_S:g} s: {said}") from error
                if not waited_s:
                    self.say("the cluster does not answer; asking again")
                waited_s += ASK_S
                self.pause(ASK_S)
            else:
                jobs.pop(0, None)
                return jobs

    def _follow(self) -> Job | None:
        """Show the log until the job is over; None if the cluster lost it."""
        shown, broken = _Shown(self.show), 0
        while True:
            whole = asyncio.run(_tail(self.jobs.tail_job_logs(self.job), shown))
            broken = 0 if whole else broken + 1
            found = next((job for job in self._known().values() if job.submission_id == self.job), None)
            if (found is None or found.status in OVER) and (whole or broken >= TAILS):
                return found
            self.pause(ASK_S)

    def _reason(self, over: Job | None) -> str:
        if over is None:
            return "the cluster knows it no more"
        if over.driver_exit_code is not None:
            return f"exit code {over.driver_exit_code}"
        return self.submission.hidden((over.message or "no reason given").splitlines()[0])


@dataclass
class _Shown:
    """How much of a log was shown: a new connection begins with its first character."""

    show: Callable[[str], None]
    characters: int = 0


async def _tail(chunks: AsyncIterator[str], shown: _Shown) -> bool:
    """Show what is new; whether the log was read to its end."""
    at = 0
    while True:
        try:
            async with asyncio.timeout(QUIET_S):
                chunk = await anext(chunks, None)
        except Exception:  # whatever ends the connection: what became of the job is asked next
            return False
        if chunk is None:
            return True
        new = chunk[max(0, shown.characters - at) :]
        at += len(chunk)
        if new:
            shown.show(new)
        shown.characters = max(shown.characters, at)


def exit_code(over: Job | None) -> int:
    """What a job that is over comes to: 0 done, 1 failed or lost, 2 a user's mistake, 3 its loss diverged, 130 stopped."""
    if over is None:
        return 1
    if over.status == "FAILED":
        return over.driver_exit_code if over.driver_exit_code in (MISTAKE, DIVERGED, INTERRUPTED) else 1
    return 0 if over.status == "SUCCEEDED" else INTERRUPTED


def entry_point(target: str, words: Sequence[str], *, folder: Path, file: Path, by_itself: bool) -> str:
    """The command of a job: every word quoted for a shell, the target's file as it lies in the working directory.

    `by_itself`: the file takes a recipe's name and options, as those in `jobs/` do. Raises `ValueError` for a file outside of
    the folder, which would stay here. A module that is installed may lie anywhere.
    """
    place, _, recipe = target.rpartition(":")
    inside = file.resolve().is_relative_to(folder.resolve())
    if not inside and (place.endswith(".py") or "site-packages" not in file.parts):
        raise ValueError(
            f"the target {target} lies in {file}, outside of the working directory {folder}, so it would not be submitted:"
            " name a folder above it with --working-dir"
        )
    if not place.endswith(".py"):
        command = ["python", "-m", "raykd", "run", target]
    else:
        path = file.resolve().relative_to(folder.resolve()).as_posix()
        command = ["python", path, recipe] if by_itself else ["python", "-m", "raykd", "run", f"{path}:{recipe}"]
    return shlex.join([*command, *words])


def read_runtime_env(file: Path) -> dict[str, Any]:
    """What a runtime environment file says.

    Raises `ValueError` that names the file, never a value of `env_vars`, if it is not readable YAML of known fields.
    """
    try:
        content = yaml.safe_load(file.read_text())
    except OSError as error:
        raise ValueError(f"the runtime environment {str(file)!r} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        raise ValueError(f"the runtime environment {str(file)!r} is not YAML: a mistake{where}") from None
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise ValueError(f"the runtime environment {str(file)!r} is not a mapping: FIELD: VALUE would be right")
    unknown = sorted(content.keys() - FIELDS)
    if unknown:
        known = ", ".join(sorted(FIELDS))
        hint = " (--working-dir names that folder)" if "working_dir" in unknown else ""
        raise ValueError(f"the runtime environment {str(file)!r} has {unknown[0]!r}{hint}: known are {known}")
    variables, excludes = content.get("env_vars", {}), content.get("excludes", [])
    if not isinstance(variables, dict) or not all(isinstance(name, str) for name in variables):
        raise ValueError(f"env_vars of {str(file)!r} is not a mapping: NAME: 'VALUE' would be right")
    for name, value in variables.items():
        if not isinstance(value, str):
            raise ValueError(f"{name} in env_vars of {str(file)!r} is {type(value).__name__}: quote it")
    if not isinstance(excludes, list) or not all(isinstance(each, str) for each in excludes):
        raise ValueError(f"excludes of {str(file)!r} is not a list of patterns")
    return content


def check_address(address: str) -> str:
    """The address of a job server, without credentials, to be shown. Raises `ValueError` for anything else."""
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        shown = address if "@" not in address else f"{parts.scheme}://***"
        raise ValueError(f"the address {shown!r} is not that of a job server: http://HEAD:8265 would be right")
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def check_storage(storage: str | None) -> None:
    """Raise `ValueError` for a storage that a job's nodes would not share."""
    right = "an absolute path that all nodes see would be right, by --storage, RAYKD_STORAGE or env_vars"
    if storage is None:
        raise ValueError(f"no storage is named, and a job's own folder is temporary: {right}")
    if not Path(storage).is_absolute():
        raise ValueError(f"the storage {storage!r} would lie in the job's temporary folder: {right}")


def headers() -> dict[str, str]:
    """For every request to the job server, from RAY_JOB_HEADERS as Ray's own command takes them.

    Raises `ValueError`, without the value, if that is not a JSON object of strings.
    """
    try:
        found = json.loads(os.environ.get("RAY_JOB_HEADERS") or "{}")
    except ValueError:
        found = None
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise ValueError('RAY_JOB_HEADERS is not a JSON object of strings: {"NAME": "VALUE"} would be right')
    return found
