"""The event log of a run: what it did, a JSON object a line, for whoever looks later or from elsewhere.

    <storage>/runs/<utc start>-<random>/events.jsonl     appended by the driver alone, a whole line a write
    <storage>/leases/run-<utc start>-<random>            held as long as the run lasts, so that a killed one is known

It begins with the first thing that a run does: one that finds all done leaves no log, and neither does one that is refused
before any work. A kill leaves whole lines, or a last torn one that readers skip. A line that cannot be written is kept for the
next one's turn, and the run goes on.

Every event has `time` (UTC, milliseconds), `event` and `run`; of a stage also `stage` (its fingerprint) and its `label`. What
may be left out has a question mark. A number may be null: JSON knows no NaN.

    run started         target?:text knobs?:object options?:object versions:object host:text pid:count
    plan                stages:list
    stage started       stage:text label:text student:text dataset:text objective:text
    preflight           phase:text teacher:text rows:count accuracy:number chance:number doubt:text
    evaluation          phase:text teacher:text metrics:object
    waiting             phase:text what:text stage?:text label?:text
    quarantine          phase:text path:text stage?:text label?:text
    labeling started    phase:text stage?:text label?:text teacher:text missing:object entries:object
    labeling progress   phase:text stage?:text label?:text teacher:text rows:object done:count of:count
    labeling done       phase:text stage?:text label?:text teacher:text rows:object done:count of:count seconds:number
    epoch               phase:text stage:text label:text epoch:count epochs:count loss:number terms:object val_top1:number \
val_nll:number lr:number seconds:number rows_per_second:number
    stage done          stage:text label:text metrics:object seconds:number
    stage failed        stage:text label:text error:text message:text
    run ended           outcome:text seconds:number counts:object error?:text message?:text

`stages` of a plan: of each that is to be made its `stage`, `label`, `epochs` and the `rows` that each teacher must still
compute. `missing` and `rows` are by teacher, `rows` those that this run computed; `done` of `of` counts what other runs
computed, too. `entries`: of each entry of the cache that is filled, how many shards it will have. `epoch` counts from 1;
`error` is the type of what was raised. `outcome`: ok, failed or interrupted.

Not in it: the environment; of URLs no user, password or query; of options and knobs no value whose name says that it is secret.
"""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import platform
import re
import secrets
import socket
import stat
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from threading import RLock
from typing import Any, Protocol

from raykd.identity import fingerprint
from raykd.places import Lease
from raykd.plan import Step
from raykd.stage import Stage
from raykd.storage import Storage

FOLDER, FILE = "runs", "events.jsonl"
NAME = re.compile(r"[0-9]{8}T[0-9]{6}\.[0-9]{3}Z-[0-9a-f]{8}")  # in the order of their beginnings
PACKAGES = ("raykd", "ray", "torch")
KEPT = 10_000  # lines that could not be written yet, at most
TEXT = 4000  # characters of a text, at most
LINE = 1 << 24  # bytes of a line that a reader takes for one
LIMIT = 1 << 30  # bytes of a log that a reader looks at
SECRET = re.compile(r"(^|_)(secret|token|password|passwd|credentials?|key)$", re.IGNORECASE)
USER = re.compile(r"(\w+://)[^/\s@]*@")
QUERY = re.compile(r"(\w+://[^\s?#]*)[?#][^\s'\")]*")

log = logging.getLogger(__name__)


class Tell(Protocol):
    """Says that something happened; `text` is for people."""

    def __call__(self, event: str, text: str = "", /, **fields: object) -> None:
        """Notes the event."""


class Events:
    """Where the events of a process go: nowhere, or into the log of the run that is under way."""

    def __init__(self) -> None:
        self.echo: Callable[[Mapping[str, Any]], None] = lambda _: None
        """Is told every event, logged or not."""
        self._run: _Run | None = None

    @contextmanager
    def run(self, storage: Storage, counts: Callable[[], Mapping[str, Any]], **about: object) -> Iterator[None]:
        """Log what happens inside; `about` and, at the end, `counts` are noted. A run inside a run is a part of it."""
        if self._run is not None:
            yield
            return
        self._run = run = _Run(storage, about, self.echo)
        started = time.perf_counter()
        ended: dict[str, object] = {"outcome": "ok"}
        try:
            yield
        except Exception as error:
            if not isinstance(error, ValueError):  # a mistake that is found before any work is no run
                run.begin()
            ended = {"outcome": "failed", **failure(error)}
            raise
        except BaseException:
            ended = {"outcome": "interrupted"}
            raise
        finally:
            if run.begun:
                self.note("run ended", **ended, seconds=round(time.perf_counter() - started, 3), counts=counts())
            run.close()
            self._run = None

    def note(self, event: str, **fields: object) -> None:
        """Something happened."""
        if self._run is None:
            self.echo(_event(event, fields))
        else:
            self._run.begin()
            self._run.note(event, **fields)

    def remark(self, text: str) -> None:
        """A line for people: an event that is in no log."""
        self.echo(remark(text, **({} if self._run is None else {"run": self._run.name})))


class _Run:
    """The file of one run, and the lease that says that it lives."""

    def __init__(
        self, storage: Storage, about: Mapping[str, object], echo: Callable[[Mapping[str, Any]], None]
    ) -> None:
        self.storage, self.about, self.echo = storage, about, echo
        now = datetime.now(UTC)
        self.name = f"{now:%Y%m%dT%H%M%S}.{now.microsecond // 1000:03}Z-{secrets.token_hex(4)}"
        self.path = storage.root / FOLDER / self.name / FILE
        self.begun = False
        self._lines: deque[bytes] = deque(maxlen=KEPT)
        self._lock = RLock()
        self._lease: Lease | None = None
        self._torn = self._warned = False

    def begin(self) -> None:
        """Take the lease and say who runs what; once."""
        with self._lock:
            if self.begun:
                return
            self.begun = True
            with self._forgiven():
                self._lease = self.storage.lease(f"run-{self.name}")
            here = {"versions": _versions(), "host": socket.gethostname(), "pid": os.getpid()}
            self.note("run started", **self.about, **here)

    def note(self, event: str, **fields: object) -> None:
        """Append what could not be written before, and this."""
        with self._lock:
            noted = _event(event, {"run": self.name, **fields})
            self.echo(noted)
            self._lines.append(json.dumps(noted).encode() + b"\n")
            with self._forgiven():
                while self._lines:
                    self._append(self._lines[0])
                    self._lines.popleft()

    def close(self) -> None:
        """The run is over."""
        with self._forgiven():
            if self._lease is not None:
                self._lease.release()

    def _append(self, line: bytes) -> None:
        # opened each time, because closing is what shows a line to other machines, and a storage that was away is another one
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        try:
            file = os.open(self.path, flags, 0o666)
        except FileNotFoundError:  # never more than its own folders: a storage that is gone is not made anew
            for folder in (self.path.parent.parent, self.path.parent):
                folder.mkdir(exist_ok=True)
            file = os.open(self.path, flags, 0o666)
        try:
            data = b"\n" + line if self._torn else line
            self._torn = os.write(file, data) < len(data)
            if self._torn:  # the disk is full: what is there ends in the middle, and the next line begins anew
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(file)

    @contextmanager
    def _forgiven(self) -> Iterator[None]:
        """A log is not worth a run: what cannot be written is said once."""
        try:
            yield
        except OSError as error:
            if not self._warned:
                self._warned = True
                log.warning("%s cannot be written (%s): the run goes on", self.path, error.strerror or error)


def remark(text: str, **fields: object) -> dict[str, Any]:
    """A line for people, as an event that is in no log."""
    return _event("note", {**fields, "text": text.strip()})


def named(stage: Stage) -> dict[str, object]:
    """The fields that name a stage."""
    return {"stage": fingerprint(stage), "label": str(stage)}


def planned(steps: Sequence[Step]) -> list[dict[str, object]]:
    """`stages` of a plan, of those that are to be made."""
    return [
        {
            **named(step.network),
            "epochs": step.network.budget.trained,
            "rows": {filling.name: filling.missing for filling in step.fillings},
        }
        for step in steps
        if isinstance(step.network, Stage) and not step.done
    ]


def failure(error: BaseException) -> dict[str, object]:
    """The fields that say what was raised."""
    return {"error": type(error).__name__, "message": " ".join(str(error).split())}


def plain(value: object) -> Any:
    """The value as JSON that anybody may see: URLs without who asks and with what right, no secrets, no NaN, no end of text."""
    if isinstance(value, Mapping):
        hidden = "(not shown)"
        return {
            str(key): hidden if SECRET.search(str(key)) and isinstance(each, str) and each else plain(each)
            for key, each in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(each) for each in value]
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    text = QUERY.sub(r"\1", USER.sub(r"\1", str(value)))
    return text if len(text) <= TEXT else f"{text[:TEXT]}..."


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The events of a log, whatever it holds: a line that is none is skipped.

    Raises `ValueError` if it is no regular file, `OSError` if it cannot be read.
    """
    if not stat.S_ISREG(path.lstat().st_mode):  # a named pipe would block the open
        raise ValueError(f"{path} is no regular file")
    with path.open("rb") as file:
        while file.tell() < LIMIT and (line := file.readline(LINE)):
            with suppress(ValueError, RecursionError):
                found = json.loads(line)
                if isinstance(found, dict) and isinstance(found.get("event"), str):
                    yield found


def _event(event: str, fields: Mapping[str, object]) -> dict[str, Any]:
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {"time": now, "event": event, **plain(fields)}


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):  # raykd itself, where it runs from its sources
            found[name] = version(name)
    return found
