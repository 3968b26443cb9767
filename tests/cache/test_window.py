"""Many files as one array: it equals an array in RAM, whatever the layout, and lives as long as someone reads it."""

import gc
import math
import os
import random
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from cache_examples import entry_of, everything, fill, ids_of, read, shard_of
from hypothesis import given, settings
from hypothesis import strategies as st

from raykd.cache import Codec, Shard, SignalCache, Slot, shards, window
from raykd.cache.arrow import Header
from raykd.cache.codecs import CODECS, Column
from raykd.cache.window import HUGE, RANGE, Window, stride_for

DTYPES = [np.uint8, np.int8, np.float16, np.uint16, np.int32, np.float32, np.float64]


@dataclass(frozen=True)
class Columns(Codec):
    """Random bytes in columns of any widths, made of the row's id: what a layout may look like at worst."""

    widths: tuple[tuple[int, int], ...]
    name: ClassVar[str] = "columns"
    kind: ClassVar[str] = "dense"
    largest: ClassVar[float] = 1.0

    def columns(self, shape):
        return tuple(Column(f"c{i}", np.dtype(DTYPES[d]), width) for i, (d, width) in enumerate(self.widths))

    def encode(self, values_R, ids_R, replica):
        found = {}
        for column in self.columns(()):
            rows = [
                random.Random(f"{i} {replica} {column.name}").randbytes(column.dtype.itemsize * column.width)
                for i in ids_R
            ]
            found[column.name] = np.frombuffer(b"".join(rows), column.dtype).reshape(len(ids_R), column.width)
        return found

    def decode(self, columns, shape):
        raise NotImplementedError

    def kl_bound(self, values_R, temperature=1.0):
        raise NotImplementedError


def filled(folder, codec, rows, rows_per_shard, replicas):
    entry = SignalCache(folder).entry({}, ids_N=ids_of(rows), shape=(1,), codec=codec, rows_per_shard=rows_per_shard)
    for slot in entry.slots(replicas):
        ids_R = entry.shards.ids_R(slot)
        checksums_R = (ids_R * 5 + slot.replica).astype(np.uint64)
        assert entry.commit(Shard(slot, ids_R, checksums_R, np.zeros((len(ids_R), 1), np.float32)))
    return entry


@settings(max_examples=60, deadline=None)
@given(
    widths=st.lists(st.tuples(st.integers(0, len(DTYPES) - 1), st.integers(1, 90)), min_size=1, max_size=3),
    rows=st.integers(1, 60),
    rows_per_shard=st.integers(1, 25),
    replicas=st.integers(1, 2),
    copied=st.booleans(),
)
def test_rows_of_any_layout_are_those_that_were_stored(
    tmp_path_factory, widths, rows, rows_per_shard, replicas, copied
):
    codec = Columns(tuple(widths))
    entry = filled(tmp_path_factory.mktemp("cache"), codec, rows, rows_per_shard, replicas)
    with pytest.MonkeyPatch.context() as patch:
        if copied:  # as where no file can be mapped
            patch.setattr(window, "_map", lambda *arguments: None)
        opened = entry.open(replicas)
    order = np.random.default_rng(rows).permutation(replicas * rows).repeat(2)
    replicas_B, positions_B = np.divmod(order, rows)
    found = opened.take(replicas_B, positions_B)
    expected = [codec.encode(None, ids_of(rows), replica) for replica in range(replicas)]
    for name in expected[0]:
        both = np.stack([each[name] for each in expected])[replicas_B, positions_B]
        assert found[name].numpy().tobytes() == both.tobytes()
        assert found[name].numpy().dtype == both.dtype


@pytest.mark.parametrize("codec", CODECS, ids=str)
def test_every_codec_reads_the_same_mapped_and_copied(tmp_path, monkeypatch, codec):
    entry = SignalCache(tmp_path).entry({}, ids_N=ids_of(37), shape=(300,), codec=codec, rows_per_shard=8)
    generator = np.random.default_rng(0)
    for slot in entry.slots(2):
        ids_R = entry.shards.ids_R(slot)
        values_R = generator.normal(size=(len(ids_R), 300)).astype(np.float32)
        entry.commit(Shard(slot, ids_R, np.zeros(len(ids_R), np.uint64), values_R))
    mapped = entry.open(2)
    monkeypatch.setattr(window, "_map", lambda *arguments: None)
    copied = entry.open(2)
    rows = np.divmod(generator.integers(0, 74, 200), 37)
    for name, column in mapped.take(*rows).items():
        assert torch.equal(column, copied.take(*rows)[name])


def mappings(folder):
    return [line for line in Path("/proc/self/maps").read_text().splitlines() if str(folder) in line]


def test_full_shards_are_mapped_and_shorter_ones_copied(tmp_path):
    entry = fill(entry_of(tmp_path, rows=10, rows_per_shard=4), 2)
    opened = entry.open(2)
    assert sorted(line.split("/")[-1] for line in mappings(tmp_path)) == [
        "00000000.arrow", "00000000.arrow", "00000001.arrow", "00000001.arrow",
    ]  # fmt: skip
    assert opened.take([0], [0])["values"].shape == (1, 4)


def test_the_mapping_lives_as_long_as_anyone_reads_it_and_no_longer(tmp_path):
    entry = fill(entry_of(tmp_path, rows=8), 1)
    opened = entry.open(1)
    array = opened._arrays["values"]
    view = array[:4]
    del opened, array
    gc.collect()
    assert len(mappings(tmp_path)) == 2
    assert (view.astype(np.float32) == everything(entry, 1)[:4]).all()
    del view
    gc.collect()
    assert mappings(tmp_path) == []


def test_what_is_read_cannot_be_written(tmp_path):
    opened = fill(entry_of(tmp_path, rows=8), 1).open(1)
    with pytest.raises(ValueError, match="read-only"):
        opened._arrays["values"][0] = 1


def test_a_shard_quarantined_and_made_anew_under_a_reader_changes_nothing_for_it(tmp_path):
    entry = fill(entry_of(tmp_path, rows=8), 1)
    opened = entry.open(1)
    path = entry.path / Slot(0, 0).name
    path.rename(path.with_name("00000000.arrow.corrupt-1"))
    assert entry.commit(shard_of(entry, Slot(0, 0), shift=1))
    (path.parent / "00000000.arrow.corrupt-1").unlink()
    assert (opened.gather([0] * 8, range(8)).numpy() == everything(entry, 1)).all()


def test_files_that_another_version_laid_out_otherwise_are_copied(tmp_path, monkeypatch):
    metadata = Header.metadata
    for number, extra in enumerate((10, 6000)):  # beyond a page the files do not even fit into a part
        entry = entry_of(tmp_path / str(number), rows=10)
        with monkeypatch.context() as patch:
            patch.setattr(Header, "metadata", lambda self, extra=extra: {**metadata(self), b"note": bytes(extra)})
            entry.commit(shard_of(entry, Slot(0, 0)))
            entry.commit(shard_of(entry, Slot(1, 2)))
        assert (read(fill(entry, 2), 2) == everything(entry, 2)).all()
        assert entry.quarantined == []


def test_a_part_is_shown_cleared_and_shown_again(tmp_path):
    page = os.sysconf("SC_PAGESIZE")
    view = Window(3, page)
    (tmp_path / "file").write_bytes(b"abcdefgh")
    with (tmp_path / "file").open("rb") as file:
        for _ in range(2):
            assert view.show(1, file.fileno(), 8).tobytes() == b"abcdefgh"
            assert view.array(0, np.dtype(np.uint8), 8)[page // 8].tobytes() == b"abcdefgh"
            cleared = view.clear(1)
            assert not cleared.any()
            view.write(view.array(8, np.dtype(np.int32), 2)[page // 8 : page // 8 + 1], np.array([[1, 2]], np.int32))
            assert cleared[8:16].view(np.int32).tolist() == [1, 2]


@settings(max_examples=300)
@given(
    parts=st.integers(1, 100_000),
    size=st.integers(1, 1 << 26),
    rows=st.lists(st.integers(1, 20_000), min_size=1, max_size=3),
)
def test_a_stride_holds_a_file_and_whole_rows_and_pages_and_huge_ones_where_they_pay(parts, size, rows):
    stride = stride_for(parts, size, rows)
    assert stride >= size
    assert all(stride % each == 0 for each in [*rows, os.sysconf("SC_PAGESIZE")])
    assert (
        size < HUGE or stride % HUGE == 0 or parts * math.lcm(HUGE, *rows) * -(-size // math.lcm(HUGE, *rows)) > RANGE
    )


def test_large_files_begin_where_a_huge_page_does(tmp_path):
    entry = fill(entry_of(tmp_path, rows=400, width=4000, rows_per_shard=300), 2)
    assert (read(entry, 2) == everything(entry, 2)).all()
    opened = entry.open(2)
    starts = [int(line.partition("-")[0], 16) for line in mappings(tmp_path)]
    assert len(starts) == 2
    assert all(start % HUGE == 0 for start in starts)
    assert opened.replicas == 2


def test_more_shards_than_a_process_may_map_are_copied(tmp_path, monkeypatch):
    entry = fill(entry_of(tmp_path, rows=40, rows_per_shard=1), 1)
    real, calls = window._map, []

    def limited(address, size, protection, flags, file):
        calls.append(file)
        return None if file >= 0 and len(calls) > 20 else real(address, size, protection, flags, file)

    monkeypatch.setattr(window, "_map", limited)
    assert (read(entry, 1) == everything(entry, 1)).all()


def test_missing_and_then_open_check_each_byte_once(tmp_path, monkeypatch):
    entry = fill(entry_of(tmp_path), 2)
    seen = []
    check = shards.check_seal
    monkeypatch.setattr(shards, "check_seal", lambda data: (seen.append(len(data)), check(data))[1])
    assert entry.missing(2) == []
    opened = entry.open(2)
    assert len(seen) == 6
    assert (opened.gather([0] * 10, range(10)).numpy() == everything(entry, 1)).all()
    entry.verify()
    assert len(seen) == 12


def test_a_shard_that_was_written_to_since_is_checked_again(tmp_path):
    entry = fill(entry_of(tmp_path), 1)
    assert entry.missing(1) == []
    path = entry.path / Slot(0, 1).name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert entry.missing(1) == [Slot(0, 1)]
