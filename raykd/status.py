"""What a storage says of itself: what is running, done, unfinished, failed, missing, and what it takes.

    runs/<id>/events.jsonl   what each run wanted and said      leases/run-<id>    held: it is under way
    stages/<fingerprint>/    result.json: done                  leases/<stage>     held: somebody trains it
    cache/                   shards that are there, of those that a log or the entry itself promises

It reads names and small JSON files, no tensors, and changes nothing. Of what lies there it believes nothing: a file that is not
what its place says is named among what is odd, and the rest is told all the same. A stage is

    done         it has a result                                 training     somebody holds its lease
    failed       the last that a run said of it is an error      unfinished   it was begun, and nobody is at it
    planned      a run that is under way will make it            missing      a run that is over wanted it, and it was not begun
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from raykd.places import held, place
from raykd.printable import printable
from raykd.runtime.events import FILE, FOLDER, NAME, read
from raykd.storage import Storage

State = Literal["running", "ok", "failed", "interrupted", "killed"]
FINGERPRINT = re.compile(r"[0-9a-f]{40}")
LIMIT = 1 << 26  # bytes of a JSON file of a stage; one takes kilobytes
SHOWN = 400  # characters of a text from a file


@dataclass
class Run:
    """A run, by its log."""

    run: str
    state: State = "killed"
    """killed: it neither said that it ended nor holds its lease."""
    target: str = "?"
    host: str = "?"
    pid: int | None = None
    began: str = "?"
    last: str = "?"
    """Time of its last event."""
    doing: str = ""
    """Its last event, in words."""
    error: str = ""
    planned: dict[str, str] = field(default_factory=dict)
    """Stages that it wanted: fingerprint -> label."""
    failed: dict[str, str] = field(default_factory=dict)
    """Stages of which the last that it said is an error."""
    seen: set[str] = field(default_factory=set)
    """Stages of which it said anything."""
    entries: dict[str, int] = field(default_factory=dict)
    """Shards that entries of the cache will have."""


@dataclass
class Seen:
    """A stage, by its folder and by what runs said of it."""

    stage: str
    label: str
    state: Literal["done", "training", "failed", "unfinished", "planned", "missing"]
    epoch: int | None = None
    """Epochs that are done."""
    epochs: int | None = None
    val_top1: float | None = None
    test_top1: float | None = None
    seconds: float | None = None
    """Of training."""
    who: str = ""
    """Who trains it."""
    error: str = ""
    when: float = 0.0
    """Seconds since 1970 at which it was last written."""


@dataclass
class Fill:
    """An entry of the cache that lacks shards."""

    entry: str
    teacher: str
    view: str
    shards: int
    of: int
    """As many as a log promises; where none does, of the replicas that were begun."""
    busy: bool
    """Whether somebody computes some now."""


@dataclass
class Status:
    """All of it."""

    storage: str
    exists: bool
    runs: list[Run] = field(default_factory=list)
    """Those under way, and those that ended before what they wanted was there; the newest first."""
    stages: list[Seen] = field(default_factory=list)
    fills: list[Fill] = field(default_factory=list)
    bytes: dict[str, int] = field(default_factory=dict)
    """Disk use by what lies directly in the storage."""
    odd: list[str] = field(default_factory=list)
    """What lies there and is not what it should be, a line each."""

    def as_json(self) -> dict[str, Any]:
        """For `raykd status --json`."""
        runs = [{**asdict(run), "seen": sorted(run.seen)} for run in self.runs]
        return {**asdict(self), "runs": runs}

    def those(self, *states: str) -> list[Seen]:
        """The stages in these states, what was written last first."""
        found = [seen for seen in self.stages if seen.state in states]
        return sorted(found, key=lambda seen: (seen.when, seen.stage), reverse=True)


def status(storage: Storage) -> Status:
    """Look at a storage. Raises `ValueError` if it is a file."""
    root = storage.root
    found = Status(str(root), root.exists())
    if not found.exists:
        return found
    if not root.is_dir():
        raise ValueError(f"storage {str(root)!r} is a file: name a folder")
    leases = {name for name in _names(root / "leases", found.odd) if not name.startswith(".")}
    runs = [_run(root, name, f"run-{name}" in leases, found.odd) for name in _named(root / FOLDER, NAME, found.odd)]
    said: dict[str, str] = {}
    for run in runs:  # a later one knows better
        said |= dict.fromkeys(run.seen, "") | run.failed
    names = _named(root / "stages", FINGERPRINT, found.odd)
    stages = (_stage(root, name, name in leases, said.get(name, ""), found.odd) for name in names)
    found.stages = [stage for stage in stages if stage is not None]
    _add_wanted(found, runs, said)
    found.fills = _fills(storage, runs, found.odd)
    found.bytes = dict(_sizes(root, found.odd))
    return found


def plain(text: object) -> str:
    """A text from a file as a terminal may see it: what is no visible character is escaped."""
    return printable(str(text)[:SHOWN])


def _add_wanted(found: Status, runs: list[Run], said: Mapping[str, str]) -> None:
    """The runs worth a look, and the stages that they wanted and that are not there."""
    known = {seen.stage for seen in found.stages}
    done = {seen.stage for seen in found.stages if seen.state == "done"}
    later: set[str] = set()
    for run in sorted(runs, key=lambda run: (run.state == "running", run.run), reverse=True):
        lacks = {name: label for name, label in run.planned.items() if name not in done}
        # one that ended before it had a plan is told until its target is tried again
        wants = set(lacks) if run.planned else {run.target}
        if run.state == "running" or (run.state != "ok" and wants - later):
            found.runs.append(run)
        later |= {*run.planned, run.target}
        for name in set(lacks) - known:
            error = said.get(name, "")
            state: Any = "planned" if run.state == "running" else "failed" if error else "missing"
            found.stages.append(Seen(name, lacks[name], state, error=error))
        known |= set(lacks)


def _run(root: Path, name: str, leased: bool, odd: list[str]) -> Run:
    run = Run(name)
    try:
        for event in read(root / FOLDER / name / FILE):
            _hear(run, event)
    except (OSError, ValueError) as error:
        odd.append(_odd(root / FOLDER / name / FILE, error))
    if run.state == "killed" and leased and held(place(root), f"leases/run-{name}"):
        run.state = "running"
    return run


def _hear(run: Run, event: Mapping[str, Any]) -> None:
    """What an event says of its run, in whatever shape it is."""
    kind, stage, label = plain(event["event"]), event.get("stage"), plain(event.get("label", ""))
    run.last = plain(event.get("time", "?"))
    if kind == "run started":
        run.target, run.host = plain(event.get("target", "?")), plain(event.get("host", "?"))
        run.began, run.pid = run.last, _count(event.get("pid"))
    elif kind == "run ended":
        outcome = event.get("outcome")
        run.state = outcome if outcome in ("ok", "failed", "interrupted") else "failed"
        run.error = _error(event)
    elif kind == "plan":
        stages = event.get("stages")
        for each in stages if isinstance(stages, list) else []:
            if isinstance(each, dict) and _is_fingerprint(each.get("stage")):
                run.planned[each["stage"]] = plain(each.get("label", "?"))
    elif kind == "labeling started" and isinstance(event.get("entries"), dict):
        run.entries |= {name: count for name, each in event["entries"].items() if (count := _count(each)) is not None}
    if isinstance(stage, str) and _is_fingerprint(stage):
        run.seen.add(stage)
        run.failed.pop(stage, None)
        if kind == "stage failed":
            run.failed[stage] = _error(event)
    if kind != "run ended":
        run.doing = " ".join(filter(None, [kind, label, *_how_far(event)]))


def _how_far(event: Mapping[str, Any]) -> Iterator[str]:
    if "teacher" in event:
        yield f"by {plain(event['teacher'])}"
    for done, of in (("epoch", "epochs"), ("done", "of")):
        first, second = _count(event.get(done)), _count(event.get(of))
        if first is not None and second is not None:
            yield f"{first:,}/{second:,}"


def _stage(root: Path, name: str, leased: bool, error: str, odd: list[str]) -> Seen | None:
    folder, before = root / "stages" / name, len(odd)
    spec, result = _json(folder / "stage.json", odd), _json(folder / "result.json", odd)
    if spec is None and result is None:
        if len(odd) == before:
            odd.append(f"{plain(folder)}: neither stage.json nor result.json is there")
        return None
    label = plain((spec or {}).get("label", "?"))
    when = _modified(folder / ("stage.json" if result is None else "result.json"))
    if result is not None:
        metrics = result.get("metrics")
        val, test = (_number(metrics.get(f"{s}_top1")) if isinstance(metrics, dict) else None for s in ("val", "test"))
        return Seen(name, label, "done", None, _epochs(spec), val, test, _number(result.get("seconds")), when=when)
    last = _last_epoch(folder / "metrics.jsonl", odd)
    epoch = _count(last.get("epoch"))
    seen = Seen(
        name, label, "unfinished", 0 if epoch is None else epoch + 1, _epochs(spec), _number(last.get("val_top1")),
        when=max(when, _modified(folder / "metrics.jsonl")),
    )  # fmt: skip
    if leased and held(place(root), f"leases/{name}"):
        seen.state, seen.who = "training", _holder(root, name)
    elif error:
        seen.state, seen.error = "failed", error
    return seen


def _epochs(spec: Mapping[str, Any] | None) -> int | None:
    """Where the training ends, by its specification."""
    try:
        budget = (spec or {})["stage"]["of"]["budget"]["of"]
        return _count(budget["epochs"] if budget.get("until") is None else budget["until"])
    except (KeyError, TypeError, AttributeError):
        return None


def _last_epoch(path: Path, odd: list[str]) -> Mapping[str, Any]:
    data = _bytes(path, odd)
    for line in reversed((data or b"").splitlines()[-2:]):
        found = _parsed(line)
        if isinstance(found, dict):
            return found
    return {}


def _holder(root: Path, name: str) -> str:
    found = _parsed(_bytes(root / "leases" / name, []) or b"")
    return plain(found.get("owner", "")) if isinstance(found, dict) else ""


def _fills(storage: Storage, runs: list[Run], odd: list[str]) -> list[Fill]:
    promised: dict[str, int] = {}
    for run in runs:
        for name, count in run.entries.items():
            promised[name] = max(promised.get(name, 0), count)
    found = []
    try:
        for entry in storage.cache.entries():
            shards = entry.holdings().shards
            there = sum(shards.values())
            of = max(promised.get(entry.key_digest, 0), entry.shards.per_replica * (max(shards, default=0) + 1))
            if there < of:
                teacher, view = (plain(entry.about.get(word, "?")) for word in ("teacher", "view"))
                found.append(Fill(entry.key_digest, teacher, view, there, of, entry.working()))
    except (OSError, ValueError) as error:
        odd.append(_odd(storage.cache_root or storage.root / "cache", error))
    return found


def _sizes(root: Path, odd: list[str]) -> Iterator[tuple[str, int]]:
    """Bytes below each thing in the storage; of links their own."""

    def unread(error: OSError) -> None:
        odd.append(_odd(error.filename, error))

    for name in _names(root, odd):
        below = (Path(base, file) for base, _, files in os.walk(root / name, onerror=unread) for file in files)
        yield plain(name), sum(map(_size, below)) if (root / name).is_dir() else _size(root / name)


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:  # removed just now
        return 0


def _names(folder: Path, odd: list[str]) -> list[str]:
    try:
        return sorted(entry.name for entry in os.scandir(folder))
    except FileNotFoundError:
        return []
    except OSError as error:
        odd.append(_odd(folder, error))
        return []


def _named(folder: Path, pattern: re.Pattern[str], odd: list[str]) -> list[str]:
    """The names in a folder that are of those that belong there."""
    names = _names(folder, odd)
    foreign = [name for name in names if not pattern.fullmatch(name)]
    if foreign:
        more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        odd.append(f"{plain(folder / foreign[0])}{more}: no name that belongs there")
    return [name for name in names if pattern.fullmatch(name)]


def _json(path: Path, odd: list[str]) -> dict[str, Any] | None:
    data = _bytes(path, odd)
    if data is None:
        return None
    found = _parsed(data)
    if not isinstance(found, dict):
        odd.append(f"{plain(path)}: no JSON object")
        return None
    return found


def _parsed(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _bytes(path: Path, odd: list[str]) -> bytes | None:
    """What a small regular file holds; a pipe would block, a device would never end."""
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("no regular file")
        if status.st_size > LIMIT:
            raise ValueError(f"{status.st_size:,} bytes are more than it could have")
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        odd.append(_odd(path, error))
        return None


def _odd(path: object, error: Exception) -> str:
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return f"{plain(path)}: {plain(said)}"


def _modified(path: Path) -> float:
    try:
        return path.lstat().st_mtime
    except OSError:
        return 0.0


def _error(event: Mapping[str, Any]) -> str:
    return ": ".join(plain(event[name]) for name in ("error", "message") if event.get(name))


def _is_fingerprint(value: object) -> bool:
    return isinstance(value, str) and FINGERPRINT.fullmatch(value) is not None


def _count(value: object) -> int | None:
    return value if type(value) is int and abs(value) < 1 << 53 else None


def _number(value: object) -> float | None:
    return float(value) if type(value) in (int, float) and math.isfinite(value) else None  # type: ignore[arg-type]
