"""A table that only grows: whatever is appended is read by all, and whatever is no table of ours by nobody."""

from __future__ import annotations

import io
import json
import math
import os
import random
import signal
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from search_examples import history

from raykd.places import Lease
from raykd.search import memory as module
from raykd.search.memory import LEASE, Memory
from raykd.search.record import Record

NUMBERS = st.dictionaries(st.text(max_size=5), st.floats(), max_size=4)
KNOBS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
RECORDS = st.builds(
    Record,
    fingerprint=st.integers(0, 40).map("{:040x}".format),
    recipe=st.sampled_from(["kd", "dkd"]),
    configuration=st.dictionaries(st.text(max_size=5), KNOBS, max_size=4),
    features=NUMBERS,
    curve=st.lists(st.floats(), max_size=4).map(tuple),
    results=NUMBERS,
    cost=st.floats(0, 1e9),
    time=st.floats(0, 1e10),
    status=st.sampled_from(["done", "failed", "stopped"]),
    error=st.text(),
)
A, B, C = history(1, 3)


def contents(records: list[Record]) -> list[str]:
    return [each.content for each in records]


@given(each=RECORDS)
@settings(max_examples=60, deadline=None)
def test_a_record_is_read_as_it_was_written(each: Record, tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("memory")
    Memory(root).append([each])
    (found,) = Memory(root).read()
    assert found.content == each.content
    for name in (field.name for field in fields(Record)):
        assert repr(getattr(found, name)) == repr(getattr(each, name))  # by their words, because NaN is not NaN


def test_what_was_unknown_stays_unknown(tmp_path: Path) -> None:
    Memory(tmp_path).append([replace(A, features={"rows": 3, "probe_top1": math.nan})])
    (found,) = Memory(tmp_path).read()
    assert found.features["rows"] == 3
    assert math.isnan(found.features["probe_top1"])


def test_nothing_is_written_before_the_first_record(tmp_path: Path) -> None:
    memory = Memory(tmp_path / "none")
    assert memory.read() == []
    memory.append([])
    assert memory.compact() == 0
    assert not (tmp_path / "none" / "memory").exists()


def test_the_order_of_writing_does_not_matter(tmp_path: Path) -> None:
    records = history(3, 4)
    for place, seed in enumerate((1, 2)):
        shuffled = random.Random(seed).sample(records, len(records))
        memory = Memory(tmp_path / str(place))
        for start in range(0, len(shuffled), 5):
            memory.append(shuffled[start : start + 5])
    assert (
        Memory(tmp_path / "0").read() == Memory(tmp_path / "1").read() == sorted(records, key=lambda r: r.fingerprint)
    )


def test_the_same_records_are_one_file(tmp_path: Path) -> None:
    Memory(tmp_path).append([A, B])
    Memory(tmp_path).append([B, A])
    assert len(list((tmp_path / "memory/v1").iterdir())) == 1


def test_of_several_records_of_a_training_the_finished_one_is_read_then_the_latest(tmp_path: Path) -> None:
    done, later = replace(A, time=1.0), replace(A, time=2.0, cost=7.0)
    failed = replace(A, time=9.0, status="failed", error="OSError: disk full")
    stopped = replace(A, time=9.0, status="stopped")
    other = replace(A, time=0.0, recipe="another")
    for order in ([failed, stopped, done, later, other], [other, later, done, stopped, failed]):
        memory = Memory(tmp_path / str(len(list(tmp_path.iterdir()))))
        for each in order:
            memory.append([each])
        assert memory.read("toy") == [later]
        assert memory.read("another") == [other]
        assert memory.read() == [other, later]
    memory = Memory(tmp_path / "failures")
    memory.append([failed, stopped])
    assert memory.read() == [stopped]


def test_a_look_sees_what_others_have_written_since(tmp_path: Path) -> None:
    mine, others = Memory(tmp_path), Memory(tmp_path)
    mine.append([A])
    assert mine.read() == [A]
    others.append([B])
    assert mine.read() == [A, B]


def test_a_bucket_holds_a_memory_too() -> None:
    memory = Memory("memory://memories/s1")
    memory.append([A])
    memory.append([B, C])
    assert Memory("memory://memories/s1").read() == [A, B, C]
    assert memory.compact() == 2
    assert Memory("memory://memories/s1").read() == [A, B, C]


def write(root: Path, number: int, barrier: Any) -> None:
    memory = Memory(root)
    barrier.wait()
    for each in history(4, 8)[number::3]:  # the writers share nothing
        memory.append([each])
    memory.append(history(1, 4))  # and this is everyone's


def merge(root: Path, barrier: Any) -> None:
    memory = Memory(root)
    barrier.wait()
    for _ in range(12):
        memory.compact()


def look(root: Path, barrier: Any, results: Any) -> None:
    memory = Memory(root)
    barrier.wait()
    sizes = [len(memory.read()) for _ in range(25)]
    results.put((sizes == sorted(sizes), memory.look().skipped))


def test_writers_readers_and_those_who_merge_get_along(tmp_path: Path, processes: Any) -> None:
    barrier, results = processes.Barrier(7), processes.SimpleQueue()
    workers = [processes.Process(target=write, args=(tmp_path, number, barrier)) for number in range(3)]
    workers += [processes.Process(target=merge, args=(tmp_path, barrier)) for _ in range(2)]
    workers += [processes.Process(target=look, args=(tmp_path, barrier, results)) for _ in range(2)]
    for worker in workers:
        worker.start()
    seen = [results.get() for _ in range(2)]
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert seen == [(True, {})] * 2  # nothing vanished in between, nothing was half there
    expected = sorted(history(4, 8), key=lambda each: each.fingerprint)
    assert Memory(tmp_path).read() == expected
    Memory(tmp_path).compact()
    assert Memory(tmp_path).read() == expected


def die_while_writing(root: Path, step: str) -> None:
    def die(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    link = os.link
    if step == "before link":
        os.link = die  # type: ignore[assignment]
    if step == "after link":
        os.link = lambda *names: (link(*names), die())  # type: ignore[assignment, func-returns-value]
    Memory(root).append([B])


@pytest.mark.parametrize(("step", "there"), [("before link", [A]), ("after link", [A, B])])
def test_a_killed_writer_leaves_all_or_nothing(tmp_path: Path, processes: Any, step: str, there: list[Record]) -> None:
    Memory(tmp_path).append([A])
    writer = processes.Process(target=die_while_writing, args=(tmp_path, step))
    writer.start()
    writer.join()
    assert writer.exitcode == -signal.SIGKILL
    found = Memory(tmp_path).look()
    assert (found.records, found.skipped) == (there, {})


def test_merging_keeps_every_record_in_one_file(tmp_path: Path) -> None:
    for each in [*history(3, 5), replace(A, time=5.0)]:
        Memory(tmp_path).append([each])
    before = Memory(tmp_path).read()
    assert Memory(tmp_path).compact() == 16
    assert len(list((tmp_path / "memory/v1").iterdir())) == 1
    assert Memory(tmp_path).read() == before
    assert Memory(tmp_path).compact() == 0
    assert Memory(tmp_path).read() == before


def test_only_one_merges_at_a_time(tmp_path: Path) -> None:
    Memory(tmp_path).append([A])
    Memory(tmp_path).append([B])
    memory = Memory(tmp_path)
    lease = Lease.acquire(memory._root, LEASE)
    assert lease is not None
    with lease:
        assert memory.compact() == 0
    assert memory.compact() == 2


def test_of_two_files_of_the_same_records_one_stays_whoever_merges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when two versions of Arrow write them with other bytes: the first name stays, whoever comes to remove it."""
    for each in (A, B):
        Memory(tmp_path).append([each])
    Memory(tmp_path).compact()
    write_table = pq.write_table
    monkeypatch.setattr(module.pq, "write_table", lambda table, sink: write_table(table, sink, compression="gzip"))
    other = Memory(tmp_path)
    other._write(other.read())
    names = sorted(path.name for path in (tmp_path / "memory/v1").iterdir())
    assert len(names) == 2
    for _ in range(2):  # one by gzip, one as usual
        Memory(tmp_path).compact()
        assert names[0] in {path.name for path in (tmp_path / "memory/v1").iterdir()}
        assert contents(Memory(tmp_path).read()) == contents([A, B])
        monkeypatch.undo()


def committed(root: Path, data: bytes) -> Path:
    path = root / "memory/v1" / f"{module._name(data)}.parquet"
    path.write_bytes(data)
    return path


def parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def foreign_tables() -> dict[str, bytes]:
    good = pq.read_table(io.BytesIO(module._to_bytes([A, B])))
    at = good.schema.get_field_index

    def changed(name: str, values: list[Any]) -> bytes:
        return parquet(
            good.set_column(at(name), good.schema.field(name), pa.array(values, good.schema.field(name).type))
        )

    return {
        "empty": b"",
        "no parquet": b"PAR1 but not really PAR1",
        "other columns": parquet(pa.table({"a": [1, 2]})),
        "no format": parquet(good.replace_schema_metadata({})),
        "another version": parquet(good.replace_schema_metadata({"format": "raykd-memory-v2"})),
        "one column more": parquet(good.append_column("more", pa.array([1, 2]))),
        "no fingerprint": changed("fingerprint", [A.fingerprint, None]),
        "no digits": changed("fingerprint", ["../../etc/passwd", A.fingerprint]),
        "no json": changed("configuration", ["{", "{}"]),
        "no object": changed("configuration", ["[1]", "{}"]),
        "nested": changed("configuration", [json.dumps({"tau": [1, 2]}), "{}"]),
        "deep": changed("configuration", ["[" * 100_000, "{}"]),
        "not a number": changed("configuration", ['{"tau": NaN}', "{}"]),
        "a status of its own": changed("status", ["perfect", "done"]),
        "null in a map": changed("features", [[("rows", None)], []]),
        "null in a list": changed("curve", [[None], []]),
        "null": changed("results", [None, []]),
        "endless cost": changed("cost", [math.inf, 0.0]),
    }


@pytest.mark.parametrize("what", foreign_tables())
def test_what_is_no_table_of_records_is_skipped_counted_and_left_alone(tmp_path: Path, what: str) -> None:
    memory = Memory(tmp_path)
    memory.append([C])
    path = committed(tmp_path, foreign_tables()[what])
    found = memory.look()
    assert found.records == [C]
    assert list(found.skipped) == [path.name]
    assert "\n" not in found.skipped[path.name]
    memory.append([A])
    memory.compact()
    assert path.exists()
    assert memory.read() == [A, C]


def test_other_names_are_skipped_and_unfinished_ones_not_even_seen(tmp_path: Path) -> None:
    memory = Memory(tmp_path)
    memory.append([A])
    folder = tmp_path / "memory/v1"
    (name,) = (path.name for path in folder.iterdir())
    (folder / "notes.txt").write_text("mine")
    (folder / f"{'0' * 40}.parquet").mkdir()
    (folder / f"{'1' * 40}.parquet").symlink_to(folder / name)
    (folder / f".{name}.1-2.tmp").write_bytes(b"half")
    os.mkfifo(folder / f"{'2' * 40}.parquet")  # to open it would wait forever
    assert set(memory.look().skipped) == {"notes.txt", *(f"{digit * 40}.parquet" for digit in "012")}
    assert memory.read() == [A]


def test_bytes_that_are_not_those_of_the_name_never_reach_a_parser(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Memory(tmp_path).append([A, B])
    (path,) = (tmp_path / "memory/v1").iterdir()
    good = path.read_bytes()

    def refuse(*_: object) -> None:
        raise AssertionError("it was parsed")

    monkeypatch.setattr(module.pq, "ParquetFile", refuse)
    draws = random.Random(0)
    torn = [good[: draws.randrange(len(good))] for _ in range(20)] + [good + b"\0", bytes(len(good))]
    for _ in range(200):
        flipped = bytearray(good)
        flipped[draws.randrange(len(good))] ^= 1 << draws.randrange(8)
        torn.append(bytes(flipped))
    for bad in torn:
        path.write_bytes(bad)
        found = Memory(tmp_path).look()
        assert found.records == []
        assert "not those that it is named for" in found.skipped[path.name]


def test_a_file_too_large_to_be_one_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Memory(tmp_path)
    memory.append([A])
    monkeypatch.setattr(module, "LIMIT", 100)
    assert "more than the 100" in next(iter(Memory(tmp_path).look().skipped.values()))


def test_a_listing_that_missed_both_the_merged_and_the_merging_is_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder is listed while it changes: what is removed is gone already, what was added stood before the place reached."""
    memory = Memory(tmp_path)
    memory.append([A])
    memory.append([B])
    before = memory.place.names()
    memory.compact()
    after = memory.place.names()
    for first in (set(), {min(before)}, before):
        listings = iter([first, after, after])
        monkeypatch.setattr(type(memory.place), "names", lambda *_, listings=listings: next(listings))
        assert Memory(tmp_path).read() == [A, B]


def test_a_name_without_a_file_is_looked_for_now_and_then_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = Memory(tmp_path)
    memory.append([A])
    names = memory.place.names() | {f"{'0' * 40}.parquet"}
    monkeypatch.setattr(type(memory.place), "names", lambda *_: names)
    assert memory.look().records == [A]
