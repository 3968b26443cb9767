"""The event log of a run, and standard error for machines: whole, documented, without secrets, never in the way."""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
from runs import JOBS

from raykd.budget import SGD
from raykd.identity import fingerprint
from raykd.runtime import Display, Local, events, filling, recorded
from raykd.runtime.progress import gauges, style_of
from raykd.stage import Stage
from raykd.storage import Storage
from raykd.training.loop import DivergedError

KD = f"{JOBS}:kd"
SHAPES: Mapping[str, Callable[[Any], bool]] = {
    "text": lambda value: isinstance(value, str),
    "count": lambda value: type(value) is int and value >= 0,
    "number": lambda value: value is None or (type(value) in (int, float) and math.isfinite(value)),
    "object": lambda value: isinstance(value, dict),
    "list": lambda value: isinstance(value, list),
}
EVERY = {"time": "text", "event": "text", "run": "text"}


def documented() -> dict[str, dict[str, str]]:
    """The table in the module's docstring: event -> field, with a question mark if it may be left out -> shape."""
    rows = re.findall(r"^ {4}([a-z]+ [a-z]+|[a-z]+) {2,}((?:\w+\??:\w+ ?)+)$", events.__doc__ or "", re.MULTILINE)
    return {name: dict(field.split(":") for field in fields.split()) for name, fields in rows}


def mistakes(event: Mapping[str, Any]) -> list[str]:
    """What about an event is not as the table says."""
    row = {**EVERY, **documented().get(event["event"], {"no such event": "text"})}
    known = {field.rstrip("?"): shape for field, shape in row.items()}
    lacking = [field for field in row if not field.endswith("?") and field not in event]
    unknown = [field for field in event if field not in known]
    wrong = [field for field, value in event.items() if field in known and not SHAPES[known[field]](value)]
    return lacking + unknown + wrong


def logs(root: Path) -> list[list[dict[str, Any]]]:
    """The events of each run, in the order in which they were begun; every line is whole."""
    paths = sorted(root.glob("runs/*/events.jsonl"), key=lambda path: path.stat().st_ctime_ns)
    return [[json.loads(line) for line in path.read_text().splitlines()] for path in paths]


def kinds(log: list[dict[str, Any]]) -> list[str]:
    return [event["event"] for event in log]


def local(root: Path) -> Local:
    return Local(Storage(root), Display(quiet=True))


def diverging() -> Stage:
    stage = tiny.teacher()
    return replace(stage, label="diverging", budget=replace(stage.budget, optimiser=SGD(lr=1e30)))


def ran(root: Path, stage: Stage) -> None:
    runner = local(root)
    with recorded(runner, target="here"):
        runner.run(stage)


def test_every_event_is_one_of_the_table_and_each_of_the_table_is_emitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(documented()) == 14
    monkeypatch.setattr(filling, "TELL_S", 0.0)
    ran(tmp_path, tiny.student())
    next(tmp_path.rglob("views/00001/*.arrow")).write_bytes(b"of something else")
    runner, other = local(tmp_path), tiny.student(tau=3.0)
    lease = runner.storage.lease(fingerprint(other))
    assert lease is not None

    def release(event: Mapping[str, Any]) -> None:
        if event["event"] == "waiting":
            lease.release()

    runner.display.events.echo = release
    with recorded(runner, target="here"):
        runner.run(other)
    with pytest.raises(DivergedError):
        ran(tmp_path, diverging())
    given = Storage(tmp_path).finished(tiny.teacher())
    ran(tmp_path / "elsewhere", replace(other, teachers={"teacher": given}))
    found = [event for root in (tmp_path, tmp_path / "elsewhere") for log in logs(root) for event in log]
    assert [(event, mistakes(event)) for event in found if mistakes(event)] == []
    assert {event["event"] for event in found} == documented().keys()


def test_a_log_tells_the_run_from_its_beginning_to_its_end(tmp_path: Path) -> None:
    ran(tmp_path, tiny.student(epochs=3))
    (log,) = logs(tmp_path)
    assert kinds(log)[:3] == ["run started", "plan", "stage started"]
    assert kinds(log)[-2:] == ["stage done", "run ended"]
    assert len({event["run"] for event in log}) == 1
    assert [event["time"] for event in log] == sorted(event["time"] for event in log)
    assert log[-1]["outcome"] == "ok"
    assert log[-1]["counts"]["teacher_rows"] == {"teacher": 2 * tiny.rows()}
    name, above = fingerprint(tiny.student(epochs=3)), fingerprint(tiny.teacher())
    assert [(each["stage"], each["rows"]) for each in log[1]["stages"]] == [
        (above, {}),
        (name, {"teacher": 2 * tiny.rows()}),
    ]
    mine = [event for event in log if event.get("stage") == name]
    assert [event["epoch"] for event in mine if event["event"] == "epoch"] == [1, 2, 3]
    lines = (tmp_path / "stages" / name / "metrics.jsonl").read_text().splitlines()
    told = [event["val_top1"] for event in mine if event["event"] == "epoch"]
    assert told == [json.loads(line)["val_top1"] for line in lines]
    (started,) = [event for event in mine if event["event"] == "labeling started"]
    assert started["missing"] == {"teacher": 2 * tiny.rows()}
    assert {
        name: len(list(tmp_path.glob(f"cache/v1/*/{name}/views/*/*.arrow"))) for name in started["entries"]
    } == started["entries"]
    assert not list((tmp_path / "leases").iterdir())


def test_a_run_that_finds_all_done_leaves_no_log_and_neither_does_one_that_is_refused(tmp_path: Path) -> None:
    ran(tmp_path, tiny.teacher())
    ran(tmp_path, tiny.teacher())
    runner = local(tmp_path)
    with pytest.raises(ValueError, match="no"), recorded(runner, target="here"):
        raise ValueError("no")
    assert len(logs(tmp_path)) == 1


def test_a_run_that_fails_says_where_and_why(tmp_path: Path) -> None:
    with pytest.raises(DivergedError) as error:
        ran(tmp_path, diverging())
    (log,) = logs(tmp_path)
    failed, ended = log[-2:]
    assert (failed["event"], failed["stage"]) == ("stage failed", fingerprint(diverging()))
    assert failed["error"] == ended["error"] == "DivergedError"
    assert failed["message"] == ended["message"] == str(error.value)
    assert ended["outcome"] == "failed"


def test_an_interrupted_run_says_so(tmp_path: Path) -> None:
    runner = local(tmp_path)

    def interrupt(event: Mapping[str, Any]) -> None:
        if event["event"] == "epoch":
            raise KeyboardInterrupt

    runner.display.events.echo = interrupt
    with suppress(KeyboardInterrupt), recorded(runner, target="here"):
        runner.run(tiny.teacher())
    (log,) = logs(tmp_path)
    assert log[-1]["outcome"] == "interrupted"
    assert "stage failed" not in kinds(log)


def test_a_fill_says_how_far_it_is_no_more_often_than_it_should(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(root: Path, seconds: float) -> list[dict[str, Any]]:
        monkeypatch.setattr(filling, "TELL_S", seconds)
        ran(root, tiny.student(replicas=4))
        return [event for event in logs(root)[0] if event["event"].startswith("labeling")]

    assert [event["event"] for event in told(tmp_path / "seldom", 3600.0)] == ["labeling started", "labeling done"]
    _, *progress, done = told(tmp_path / "often", 0.0)
    assert [event["done"] for event in progress] == [tiny.rows() * n for n in range(1, 5)]
    assert {event["of"] for event in progress} == {4 * tiny.rows()}
    assert done["rows"] == {"teacher": 4 * tiny.rows()}


@pytest.mark.parametrize("what", ["open", "write", "half"])
def test_a_storage_that_is_away_for_a_moment_costs_no_line_and_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    opened, written, logged, failures = os.open, os.write, set[int](), [3]

    def fails() -> bool:
        failures[0] -= 1
        return failures[0] >= 0

    def open_(path: Any, *given: Any, **more: Any) -> int:
        mine = str(path).endswith(events.FILE)
        if mine and what == "open" and fails():
            raise OSError(errno.EIO, "away")
        file = opened(path, *given, **more)
        (logged.add if mine else logged.discard)(file)
        return file

    def write(file: int, data: Any) -> int:
        if file in logged and what == "write" and fails():
            raise OSError(errno.EIO, "away")
        return written(file, data[: len(data) // 2] if file in logged and what == "half" and fails() else data)

    monkeypatch.setattr(os, "open", open_)
    monkeypatch.setattr(os, "write", write)
    with caplog.at_level(logging.WARNING, "raykd"):
        ran(tmp_path, tiny.teacher())
    assert [record.message for record in caplog.records if "cannot be written" in record.message] == [
        record.message for record in caplog.records[:1]
    ]
    (path,) = tmp_path.glob("runs/*/events.jsonl")
    found = list(events.read(path))
    assert kinds(found) == ["run started", "plan", "stage started", *["epoch"] * 4, "stage done", "run ended"]
    assert len(path.read_text().splitlines()) == len(found) + (3 if what == "half" else 0)


def test_a_log_that_can_never_be_written_leaves_the_run_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "runs").write_text("a file in the way")
    with caplog.at_level(logging.WARNING, "raykd"):
        ran(tmp_path, tiny.teacher())
    assert Storage(tmp_path).result(tiny.teacher()) is not None
    assert sum("cannot be written" in record.message for record in caplog.records) == 1


def test_a_reader_skips_what_is_torn_or_no_event(tmp_path: Path) -> None:
    path = tmp_path / events.FILE
    good = [{"event": "epoch", "epoch": 1}, {"event": "epoch", "epoch": 2}]
    noise = [b'{"event": "epo', b"\xff\x00", b"[" * 100_000, b"[1]", b'{"event": 3}', b"1" * 5000, b""]
    path.write_bytes(b"\n".join([json.dumps(good[0]).encode(), *noise, json.dumps(good[1]).encode(), b'{"event": "to']))
    assert list(events.read(path)) == good
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="no regular file"):
        list(events.read(tmp_path / "pipe"))


def test_no_secret_reaches_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3same")
    runner = local(tmp_path)
    url = "s3://me:s3same@bucket/raykd?X-Amz-Signature=s3same#s3same"
    asked = {
        "knobs": {"api_key": "s3same", "tokens": 4, "weights": url},
        "options": {"cache": url, "Password": "s3same"},
    }
    with suppress(OSError), recorded(runner, target=url, **asked):
        runner.run(tiny.teacher())
        raise OSError(f"cannot reach {url}")
    (log,) = logs(tmp_path)
    assert "s3same" not in json.dumps(log)
    assert log[0]["knobs"] == {"api_key": "(not shown)", "tokens": 4, "weights": "s3://bucket/raykd"}
    assert log[-1]["message"] == "cannot reach s3://bucket/raykd"


@pytest.mark.parametrize("how", ["option", "environment"])
def test_for_machines_standard_error_is_the_events_and_nothing_else(
    raykd: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    words = ["--log", "json"] if how == "option" else []
    if how == "environment":
        monkeypatch.setenv("RAYKD_LOG", "json")
    done = raykd("run", KD, "--local", "--no-baseline", *words)
    seen = [json.loads(line) for line in done.err.splitlines()]
    (log,) = logs(tmp_path / "storage")
    assert [event for event in seen if event["event"] != "note"] == log
    assert any(event["event"] == "note" and event["text"].startswith("tau = 2.0") for event in seen)
    assert "tiny kd" in done.out
    refused = raykd("run", KD, "--local", "--tau", "0", *words)
    assert refused.code == 2
    assert "temperature is 0.0" in json.loads(refused.err)["text"]


def test_warnings_of_modules_are_events_for_machines_too(raykd: Any, tmp_path: Path) -> None:
    raykd("run", KD, "--local", "--no-baseline")
    next((tmp_path / "storage").rglob("*.arrow")).write_bytes(b"of something else")
    done = raykd("run", KD, "--local", "--no-baseline", "--tau", "3", "--log=json")
    seen = [json.loads(line) for line in done.err.splitlines()]
    assert any(event["event"] == "note" and "is corrupt" in event["text"] for event in seen)
    assert any(event["event"] == "quarantine" for event in seen)
    assert "corrupt" not in raykd("run", KD, "--local", "--no-baseline", "--tau", "3").err


def test_another_style_is_refused(raykd: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert style_of("json") == "json"
    monkeypatch.setenv("RAYKD_LOG", "xml")
    with pytest.raises(ValueError, match="RAYKD_LOG='xml': text or json"):
        Display()
    assert raykd("run", KD, "--local").code == 2


def test_gauges_of_progress_go_from_0_to_1() -> None:
    labeling = [gauges("labeling progress", {"done": done, "of": 8}) for done in (0, 2, 8)]
    assert labeling == [{"progress": 0.0}, {"progress": 0.25}, {"progress": 1.0}]
    epoch = {"epoch": 3, "epochs": 4, "loss": 2.5, "val_top1": 0.5}
    assert gauges("epoch", epoch) == {"progress": 0.75, "loss": 2.5, "val_top1": 0.5}
    assert gauges("stage done", {}) == {}
