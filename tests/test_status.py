"""What a storage says of itself: of real runs that are killed, failed, finished and under way, and of any garbage."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny

from raykd.budget import SGD
from raykd.cache import Slot
from raykd.cli_status import shown
from raykd.identity import fingerprint
from raykd.places import Lease, place
from raykd.runtime import Display, Local, recorded
from raykd.status import Status, status
from raykd.storage import Storage
from raykd.training.loop import DivergedError

sys.path.insert(0, str(Path(__file__).with_name("runtime")))

from runs import Run, shards, start

REPLICAS = EPOCHS = 12


def ran(root: Path, *stages: Any) -> None:
    runner = Local(Storage(root), Display(quiet=True))
    with recorded(runner, target="here"):
        runner.run(*stages)


def diverging() -> Any:
    stage = tiny.teacher()
    return replace(stage, label="diverging", budget=replace(stage.budget, optimiser=SGD(lr=1e30)))


@pytest.fixture
def stop() -> Iterator[Callable[[Run, Callable[[], bool]], None]]:
    """Halts a run once it got somewhere, so that it stays there while it is looked at."""
    stopped = []

    def halt(run: Run, reached: Callable[[], bool]) -> None:
        stopped.append(run)
        run.wait_for(reached)
        assert run.process.pid is not None
        os.kill(run.process.pid, signal.SIGSTOP)

    yield halt
    for run in stopped:
        run.kill()


def states(found: Status) -> dict[str, str]:
    return {seen.label: seen.state for seen in found.stages}


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """A storage with a student and its teacher."""
    ran(tmp_path / "storage", tiny.student())
    return tmp_path / "storage"


def test_a_run_is_seen_while_it_labels_while_it_trains_when_it_is_killed_and_when_it_is_done(
    raykd: Any, tmp_path: Path, stop: Callable[[Run, Callable[[], bool]], None]
) -> None:
    root, teacher = tmp_path / "storage", fingerprint(tiny.teacher())
    words = ("--replicas", str(REPLICAS), "--epochs", str(EPOCHS), "--local")

    run = start("slow", root, *words)
    stop(run, lambda: shards(root) >= 2)
    found = status(Storage(root))
    (seen,) = found.runs
    assert (seen.state, seen.pid) == ("running", run.process.pid)
    assert seen.target.endswith("tiny_jobs.py:slow")
    assert seen.doing.startswith("labeling started slow by teacher")
    assert states(found) == {"teacher": "done", "slow": "planned"}
    (fill,) = found.fills
    assert 2 <= fill.shards < fill.of == REPLICAS
    assert fill.teacher.startswith("teacher")

    run.kill()
    found = status(Storage(root))
    assert [seen.state for seen in found.runs] == ["killed"]
    assert states(found) == {"teacher": "done", "slow": "missing"}

    run = start("slow", root, *words)
    stop(run, lambda: any(path.parent.name != teacher for path in root.glob("stages/*/metrics.jsonl")))
    found = status(Storage(root))
    assert [seen.state for seen in found.runs] == ["running"]  # it does again what the killed one did not
    (training,) = found.those("training")
    assert training.epoch is not None
    assert 1 <= training.epoch < EPOCHS == training.epochs
    assert training.who.startswith(f"pid {run.process.pid} on ")
    assert not found.fills
    run.kill()
    killed = raykd("status", "--json")
    (unfinished,) = [seen for seen in killed.json["stages"] if seen["label"] == "slow"]
    assert unfinished["state"] == "unfinished"
    assert f"{unfinished['epoch']} of {EPOCHS}" in killed.out
    assert "0 running; stages: 1 done, 1 unfinished" in killed.out

    assert start("slow", root, *words).result()["label"] == "slow"
    found = status(Storage(root))
    assert states(found) == {"teacher": "done", "slow": "done"}
    assert not found.runs
    assert not found.odd


def test_a_stage_that_failed_is_told_with_its_error_until_it_is_tried_again(raykd: Any, tmp_path: Path) -> None:
    root = tmp_path / "storage"
    student = replace(tiny.student(), teachers={"teacher": diverging()})
    with pytest.raises(DivergedError):
        ran(root, student)
    found = status(Storage(root))
    assert states(found) == {"diverging": "failed", "student": "missing"}
    (failed,) = found.those("failed")
    assert failed.error.startswith("DivergedError: stage diverging: CrossEntropy is not finite")
    assert [run.state for run in found.runs] == ["failed"]
    assert found.runs[0].error == failed.error
    assert "DivergedError" in raykd("status").out
    assert raykd("status").code == 0

    runner = Local(Storage(root), Display(quiet=True))
    with recorded(runner, target="here"):
        runner.tell("stage started", stage=fingerprint(diverging()), label="diverging")
    assert states(status(Storage(root)))["diverging"] == "unfinished"


def test_what_is_done_has_its_metrics(raykd: Any, finished: Path) -> None:
    found = raykd("status", "--json")
    result = Storage(finished).result(tiny.student())
    assert result is not None
    (mine,) = [seen for seen in found.json["stages"] if seen["label"] == "student"]
    assert (mine["val_top1"], mine["test_top1"]) == (result["metrics"]["val_top1"], result["metrics"]["test_top1"])
    assert mine["seconds"] == result["seconds"]
    assert f"{mine['test_top1']:.2%}" in found.out
    assert found.json["runs"] == found.json["fills"] == found.json["odd"] == []
    files = [path for path in finished.rglob("*") if path.is_file()]
    assert sum(found.json["bytes"].values()) == sum(path.stat().st_size for path in files)


def test_an_entry_that_lost_a_shard_lacks_it(finished: Path) -> None:
    next(finished.rglob("views/00001/*.arrow")).unlink()
    (fill,) = status(Storage(finished)).fills
    assert (fill.shards, fill.of, fill.busy) == (1, 2, False)
    (entry,) = Storage(finished).cache.entries()
    lease = entry.lease(Slot(1, 0))
    assert lease is not None
    with lease:
        assert status(Storage(finished)).fills[0].busy


def test_a_training_of_a_trial_has_somebody_at_it_though_no_run_has_a_log(tmp_path: Path) -> None:
    Local(Storage(tmp_path), Display(quiet=True)).run(tiny.teacher())
    folder = Storage(tmp_path).folder(tiny.teacher())
    (folder / "result.json").unlink()
    assert states(status(Storage(tmp_path))) == {"teacher": "unfinished"}
    lease = Lease.acquire(place(tmp_path), f"leases/{folder.name}", "who it is")
    assert lease is not None
    with lease:
        (seen,) = status(Storage(tmp_path)).stages
        assert (seen.state, seen.who, seen.epoch, seen.epochs) == ("training", "who it is", 4, 4)
    assert states(status(Storage(tmp_path))) == {"teacher": "unfinished"}


def test_it_only_reads_and_opens_no_tensors(finished: Path) -> None:
    for name in ("checkpoint.pt", "best.safetensors"):  # whoever opens a pipe waits for ever
        path = Storage(finished).folder(tiny.student()) / name
        path.unlink()
        os.mkfifo(path)
    before = {path: path.lstat().st_mtime_ns for path in finished.rglob("*")}
    status(Storage(finished))
    assert {path: path.lstat().st_mtime_ns for path in finished.rglob("*")} == before


def test_without_a_storage_there_is_a_clear_line(raykd: Any, tmp_path: Path) -> None:
    absent = raykd("status")
    assert absent.code == 0
    assert "does not exist yet" in absent.out
    assert not (tmp_path / "storage").exists()
    (tmp_path / "storage").mkdir()
    assert "holds no stages, and nothing is running" in raykd("status").out
    assert raykd("status", "--json").json["stages"] == []
    (tmp_path / "file").write_text("")
    refused = raykd("status", "--storage", str(tmp_path / "file"))
    assert refused.code == 2
    assert "is a file" in refused.err


BAD = "\x1b[2J\x1b]0;owned\x07 [red]x[/red] :skull: \u202e\ud800\n"


def garbage(root: Path) -> None:
    """A storage with whatever can lie where something else should."""
    for number, content in enumerate(
        [
            b"",
            b"\xff\xfe",
            b"[]",
            b"null",
            b"{" * 100_000,
            b"9" * 10_000,
            json.dumps({"label": BAD, "stage": 3}).encode(),
        ]
    ):
        folder = root / "stages" / f"{number:040x}"
        folder.mkdir(parents=True)
        for name in ("stage.json", "result.json", "metrics.jsonl"):
            (folder / name).write_bytes(content)
    odd = root / "stages" / f"{10:040x}"
    odd.mkdir()
    (odd / "result.json").mkdir()
    os.mkfifo(odd / "stage.json")
    (odd / "metrics.jsonl").symlink_to(odd / "metrics.jsonl")
    (root / "stages" / f"{11:040x}").write_text("a file")
    (root / "stages" / f"{12:040x}").mkdir()
    (root / "stages" / BAD.replace("\ud800", "").replace("/", "")).mkdir()
    text = {"label": BAD, "stage": {"of": {"budget": {"of": {"epochs": "9", "until": []}}}}}
    more = root / "stages" / f"{13:040x}"
    more.mkdir()
    (more / "stage.json").write_text(json.dumps(text))
    (more / "metrics.jsonl").write_text(json.dumps({"epoch": 1e400, "val_top1": "high"}))
    for number, log in enumerate(
        [
            [{"event": "plan", "stages": [3, {"stage": "../../x"}, {"stage": "a" * 40, "label": BAD}]}],
            [{"event": "run started", "target": BAD, "pid": "1", "host": None}, {"event": "plan", "stages": {"a": 1}}],
            [{"event": BAD, "stage": [], "label": {}, "epoch": -1, "epochs": 10**30, "teacher": [BAD]}],
            [
                {"event": "run ended", "outcome": BAD, "message": BAD},
                {"event": "labeling started", "entries": {"a": "b"}},
            ],
            [{"event": "stage failed", "stage": "b" * 40, "error": ["x"], "message": BAD}],
        ]
    ):
        path = root / "runs" / f"20260101T00000{number}.000Z-{number:08x}" / "events.jsonl"
        path.parent.mkdir(parents=True)
        path.write_text("".join(json.dumps(event) + "\n" for event in log) + '{"torn')
    (root / "runs" / "20260101T000009.000Z-00000009").mkdir()
    os.mkfifo(root / "runs" / "20260101T000009.000Z-00000009" / "events.jsonl")
    (root / "runs" / "not a run").mkdir()
    entry = root / "cache" / "v1" / "aa" / ("aa" * 20)
    entry.mkdir(parents=True)
    (entry / "entry.json").write_text("{}")
    (root / "leases").mkdir()
    (root / "leases" / f"{13:040x}").mkdir()
    (root / "leases" / "run-20260101T000001.000Z-00000001").write_bytes(b"\xff" * 9000)


def test_a_storage_full_of_garbage_is_told_line_by_line_and_takes_over_no_terminal(raykd: Any, tmp_path: Path) -> None:
    root = tmp_path / "storage"
    garbage(root)
    shutil.copytree(root / "stages" / f"{6:040x}", root / "stages" / fingerprint(tiny.teacher()))
    found = raykd("status", "--json")
    assert found.code == 0, found.err
    assert {character for character in found.out if not character.isprintable()} <= {"\n"}
    assert r"\x1b[2J" in found.out
    assert "[red]x[/red]" in found.out
    assert ":skull:" in found.out
    assert len(found.json["odd"]) >= 15
    for words in (
        "no regular file",
        "no JSON object",
        "no name that belongs there",
        "neither stage.json nor result.json",
    ):
        assert any(words in line for line in found.json["odd"]), words
    labels = {seen["stage"]: seen["state"] for seen in found.json["stages"]}
    assert labels[fingerprint(tiny.teacher())] == "done"
    assert labels["a" * 40] == "missing"
    assert "../../x" not in labels


def test_bytes_that_flip_never_end_it(finished: Path, tmp_path: Path) -> None:
    draw = random.Random(0)
    with pytest.raises(DivergedError):
        ran(finished, diverging())
    paths = [path for path in finished.rglob("*.json*") if path.is_file()]
    assert len(paths) > 8
    for path in paths:
        original = path.read_bytes()
        for _ in range(12):
            data = bytearray(original)
            for _ in range(draw.randint(1, 20)):
                data[draw.randrange(len(data))] = draw.choice(b'\x00\xff"{}[],:0\n\\')
            path.write_bytes(data[: draw.randint(0, len(data))] if draw.random() < 0.3 else data)
            found = status(Storage(finished))
            assert json.dumps(found.as_json(), allow_nan=False)
            list(shown(found))
        path.write_bytes(original)
    assert status(Storage(finished)).odd == []
