"""raykd cache: what it prints, how it ends, what it says to a mistake."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
from tiny_cache import VIEW, filled, teacher

from raykd.cache import SignalCache
from raykd.storage import Storage

JOBS = str(Path(__file__).with_name("tiny_jobs.py"))
DAY = 86400


@pytest.fixture
def names(tmp_path: Path) -> list[str]:
    """A storage whose cache has the entries of two teachers, one filled for one replica, the other for two."""
    storage = Storage(tmp_path / "storage")
    first = filled(storage, teacher(tmp_path, seed=0), view=replace(VIEW, replicas=1))
    return [first.key_digest, filled(storage, teacher(tmp_path, seed=1)).key_digest]


def given(tmp_path: Path, seed: int) -> list[str]:
    """The recipe that reads one of them."""
    return [f"{JOBS}:given", "--weights", str(tmp_path / f"teacher-{seed}.safetensors")]


def folder(tmp_path: Path, name: str) -> Path:
    return tmp_path / "storage" / "cache" / "v1" / name[:2] / name


def age(path: Path, days: float) -> None:
    for file in path.rglob("*"):
        os.utime(file, (time.time() - days * DAY,) * 2)


def test_ls_says_of_each_entry_what_it_is_how_large_how_old_and_whose(
    raykd: Any, names: list[str], tmp_path: Path
) -> None:
    raykd("cache", "pin", names[0], "--name", "paper")
    age(folder(tmp_path, names[1]), 3)
    shown = raykd("cache", "ls", "--json")
    mine, other = sorted(shown.json["entries"], key=lambda entry: entry["replicas"])
    assert mine["entry"] == names[0]
    assert (mine["rows"], mine["replicas"], mine["codec"], mine["signal"]) == (tiny.rows(), 1, "dense_f16", "logits")
    assert mine["teacher"] == "teacher (mlp32)"
    assert mine["dataset"] == "Digits, 640 rows"
    assert mine["view"].startswith("Affine(")
    assert mine["shards"] * 2 == other["shards"] * 1
    assert mine["bytes"] == sum(path.stat().st_size for path in folder(tmp_path, names[0]).rglob("*.arrow"))
    assert (mine["pinned"], other["pinned"]) == (["paper"], [])
    assert mine["last_used"] - other["last_used"] > 2.9 * DAY
    for word in (names[0][:8], names[1][:8], "dense_f16", "paper"):
        assert word in shown.out


def test_verify_with_a_probe_asks_the_teachers_again(raykd: Any, names: list[str], tmp_path: Path) -> None:
    done = raykd("cache", "verify", "--probe", "20", "--json")
    assert done.code == 0, done.out
    assert {probe["entry"]: probe["rows"] for probe in done.json["probes"]} == dict.fromkeys(names, 20)
    (tmp_path / "teacher-1.safetensors").unlink()
    gone = raykd("cache", "verify", "--probe", "20", "--json")
    assert gone.code == 0
    assert {probe["entry"]: probe["rows"] for probe in gone.json["probes"]} == {names[0]: 20, names[1]: 0}
    assert f"not probed: entry {names[1]}" in gone.out
    assert raykd("cache", "verify", "--json").json["probes"] == []


def test_verify_of_a_recipe_is_about_the_entries_that_it_reads(raykd: Any, names: list[str], tmp_path: Path) -> None:
    for seed in (0, 1):
        done = raykd("cache", "verify", *given(tmp_path, seed), "--probe", "20", "--json")
        assert (done.code, done.json["entries"], done.json["probes"][0]["entry"]) == (0, 1, names[seed])
    shown = raykd("cache", "verify", f"{JOBS}:given", "--help")
    assert "--probe" in shown.out
    assert "--weights" in shown.out


def test_a_probe_that_finds_another_teachers_answers_ends_with_1(raykd: Any, names: list[str], tmp_path: Path) -> None:
    other, storage = teacher(tmp_path, seed=2), Storage(tmp_path / "storage")
    made = filled(storage, other, answers=teacher(tmp_path, seed=0)).key_digest
    assert raykd("cache", "verify").code == 0
    done = raykd("cache", "verify", "--probe", "50", "--json")
    assert done.code == 1
    wrong = {probe["entry"]: len(probe["wrong"]) for probe in done.json["probes"]}
    assert wrong == {**dict.fromkeys(names, 0), made: 50}
    assert f"wrong: entry {made}, row " in done.out


def test_verify_ends_with_1_and_says_where_bad_shards_lie_now(raykd: Any, names: list[str], tmp_path: Path) -> None:
    shard = next(folder(tmp_path, names[0]).rglob("*.arrow"))
    shard.write_bytes(shard.read_bytes()[:-100])
    bad = raykd("cache", "verify", "--json", "--probe", "5")
    assert bad.code == 1
    (path,) = bad.json["corrupt"]
    assert Path(path).name.startswith(f"{shard.name}.corrupt-")
    assert f"corrupt: {path}" in bad.out
    assert raykd("cache", "verify").code == 0


def test_gc_says_what_went_what_waits_and_what_stays(raykd: Any, names: list[str], tmp_path: Path) -> None:
    for name in names:
        age(folder(tmp_path, name), 2)
    raykd("cache", "pin", names[0][:10], "--name", "paper")
    said = raykd("cache", "gc", "--max-bytes", "0", "--dry-run", "--json")
    assert f"would be moved aside: {names[1]}" in said.out
    assert len(raykd("cache", "ls", "--json").json["entries"]) == 2
    done = raykd("cache", "gc", "--max-bytes", "0", "--json")
    assert done.code == 0
    for word in (f"moved aside: {names[1]}", f"kept: {names[0]}, pinned by paper", "to be deleted", "cannot be met"):
        assert word in done.out
    assert (done.json["met"], said.json["met"]) == (False, False)
    assert [entry["entry"] for entry in raykd("cache", "ls", "--json").json["entries"]] == [names[0]]
    raykd("cache", "unpin", names[0][:10], "--name", "paper")
    last = raykd("cache", "gc", "--max-bytes", "0.5 kB", "--grace", "0", "--json")
    assert {held["entry"] for held in last.json["deleted"]} == set(names)
    assert last.json["met"]
    assert not list((tmp_path / "storage").rglob("*.arrow"))


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("17", 17),
        ("500MB", 500 * 10**6),
        ("10GB", 10**10),
        ("1TiB", 2**40),
        ("1.5 kib", 1536),
        ("2g", 2 * 10**9),
    ],
)
def test_sizes_are_written_as_people_write_them(raykd: Any, text: str, size: int) -> None:
    assert raykd("cache", "gc", "--max-bytes", text, "--dry-run", "--json").json["max_bytes"] == size


def test_what_was_exported_is_imported_elsewhere_and_read_there(raykd: Any, names: list[str], tmp_path: Path) -> None:
    for form in ("out", "out.tar"):
        done = raykd("cache", "export", names[1][:9], str(tmp_path / form), "--json")
        assert (done.code, done.json["rows"]) == (0, 2 * tiny.rows())
        there = ["--cache", str(tmp_path / f"cache of {form}")]
        got = raykd("cache", "import", str(tmp_path / form), *there, "--json")
        assert got.json == done.json
        assert raykd("cache", "import", str(tmp_path / form), *there, "--json").json["new"] == 0
        assert [entry["entry"] for entry in raykd("cache", "ls", *there, "--json").json["entries"]] == [names[1]]
        # a run with this cache finds all that it needs
        anew = ["--storage", str(tmp_path / f"storage of {form}")]
        found = raykd("plan", *given(tmp_path, 1), *anew, *there, "--json").json
        assert found["teacher_rows"] == {"teacher": 0}


def test_every_command_teaches_itself(raykd: Any) -> None:
    shown = raykd("cache", "--help").out
    for command in ("ls", "verify", "gc", "pin", "unpin", "export", "import"):
        assert command in shown
        own = raykd("cache", command, "--help")
        assert own.code == 0
        for option in ("--storage", "--cache", "--json"):
            assert option in own.out


NOBODYS = "ffffffffff"
MISTAKES = [
    (["gc"], ["--max-bytes"]),
    (["gc", "--max-bytes", "lots"], ["'lots'", "10GB"]),
    (["gc", "--max-bytes", "10 parsecs"], ["parsecs"]),
    (["gc", "--max-bytes", "-1"], ["-1"]),
    (["gc", "--max-bytes", "1GB", "--grace", "soon"], ["'soon'", "30m"]),
    (["pin", NOBODYS, "--name", "ann"], [NOBODYS, "there are"]),
    (["pin", "ENTRY", "--name", "../up"], ["'../up'", "letters"]),
    (["pin"], ["ENTRY"]),
    (["unpin", "ENTRY", "--name", "ann"], ["'ann'", "nobody pins it"]),
    (["export", NOBODYS, "x.tar"], [NOBODYS]),
    (["export", "ENTRY", "/proc"], ["/proc", "exists"]),
    (["import", "/no/such/file.tar"], ["/no/such/file.tar", "no such file"]),
    (["import", JOBS], ["tiny_jobs.py", "is not taken in"]),
    (["verify", "--probe", "-1"], ["--probe"]),
    (["verify", f"{JOBS}:kdd"], ["'kdd'"]),
    (["verify", f"{JOBS}:given", "--weights", "/no/such/weights"], ["/no/such/weights"]),
    (
        ["verify", f"{JOBS}:kd", "--replicas", "7", "--epochs", "7", "--cache", "/tmp/raykd-no-cache"],
        ["no entry", "tiny kd"],
    ),
    (["verify", "kd"], ["'kd'", "file.py:recipe"]),
    (["ls", "--storage", "s3://bucket/x"], ["s3://bucket/x", "folder"]),
    (["ls", "--cache", "nowhere://bucket"], ["nowhere"]),
    (["mend"], ["mend"]),
]


@pytest.fixture
def entry(tmp_path: Path) -> str:
    """The one entry of the storage, made without a run."""
    cache = SignalCache(tmp_path / "storage" / "cache")
    return cache.entry({"teacher": "someone's"}, ids_N=[1, 2, 3], shape=(4,)).key_digest


@pytest.mark.parametrize(("words", "named"), MISTAKES, ids=lambda value: " ".join(value)[-40:])
def test_a_mistake_is_one_line_and_exit_code_2(raykd: Any, entry: str, words: list[str], named: list[str]) -> None:
    done = raykd("cache", *(entry if word == "ENTRY" else word for word in words))
    assert done.code == 2, done.err
    assert len(done.err.strip().splitlines()) == 1, done.err
    assert done.out == ""
    for word in named:
        assert word in done.err
