import itertools
import random
import re
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from cache_examples import KEY, entry_of, everything, fill, ids_of, read, said, shard_of

from raykd.cache import IncompleteEntry, SignalCache, Slot


@pytest.fixture
def entry(tmp_path):
    return entry_of(tmp_path)


def test_nothing_is_written_before_the_first_entry(tmp_path):
    SignalCache(tmp_path / "root").entries()
    assert list(tmp_path.iterdir()) == []
    entry = SignalCache(str(tmp_path / "root")).entry(KEY, ids_N=ids_of(3), shape=(2,))
    assert [path.name for path in entry.path.iterdir()] == ["entry.json"]
    assert entry.path == tmp_path / "root" / "v1" / entry.key_digest[:2] / entry.key_digest


def test_slots_cover_every_row_of_every_replica_once(tmp_path):
    for rows, rows_per_shard in itertools.product([1, 4, 5, 8], [1, 3, 4, 100]):
        entry = entry_of(tmp_path / f"{rows}-{rows_per_shard}", rows=rows, rows_per_shard=rows_per_shard)
        covered = [(slot.replica, row) for slot in entry.slots(3) for row in entry.positions(slot)]
        assert covered == list(itertools.product(range(3), range(rows)))


def test_a_filled_entry_reads_back_what_was_said_rounded_to_float16(entry):
    fill(entry, 3)
    found = entry.open(3).gather(*np.divmod(np.arange(30), 10))
    assert found.dtype == torch.float32
    assert (found.numpy() == everything(entry, 3)).all()


def test_the_files_lie_where_the_design_says(entry):
    fill(entry, 2)
    names = sorted(str(path.relative_to(entry.path)) for path in entry.path.rglob("*") if path.is_file())
    shards = [f"views/{replica:05d}/{index:08d}.arrow" for replica in range(2) for index in range(3)]
    assert names == ["entry.json", *shards]


def test_a_slot_is_written_once(entry):
    slot = Slot(0, 1)
    assert entry.commit(shard_of(entry, slot))
    first = (entry.path / slot.name).read_bytes()
    assert not entry.commit(shard_of(entry, slot, shift=1.0))
    assert (entry.path / slot.name).read_bytes() == first


def test_an_entry_is_complete_or_absent(entry):
    slots = entry.slots(2)
    for committed, slot in enumerate(slots):
        assert entry.missing(2) == entry.absent(2) == slots[committed:]
        with pytest.raises(IncompleteEntry, match=re.escape(f"{6 - committed} of 6 shards are missing, first {slot}")):
            entry.open(2)
        entry.commit(shard_of(entry, slot))
    assert entry.missing(2) == []
    assert entry.open(2).replicas == 2
    assert entry.open(1).replicas == 1
    with pytest.raises(LookupError, match="3 of 9"):
        entry.open(3)


def test_the_order_of_commits_leaves_no_trace(tmp_path):
    files = []
    for seed in range(4):
        entry = entry_of(tmp_path / str(seed))
        slots = entry.slots(2)
        random.Random(seed).shuffle(slots)
        for slot in slots:
            entry.commit(shard_of(entry, slot))
        files.append({path.name: path.read_bytes() for path in (entry.path / "views").rglob("*.arrow")})
        assert (read(entry, 2) == everything(entry, 2)).all()
    assert all(each == files[0] for each in files)


def test_more_replicas_extend_an_entry(entry):
    fill(entry, 1)
    assert entry.missing(3) == entry.slots(3)[3:]
    fill(entry, 3)
    assert entry.missing(3) == []


def test_rows_of_any_shape_are_stored(tmp_path):
    for shape in [(), (1,), (3, 2)]:
        entry = SignalCache(tmp_path).entry(KEY, ids_N=ids_of(5), shape=shape, rows_per_shard=2)
        for slot in entry.slots(1):
            part = entry.positions(slot)
            values_R = said(ids_of(5), 0, 6)[part.start : part.stop, : int(np.prod(shape))].reshape(-1, *shape)
            ids_R = ids_of(5)[part.start : part.stop]
            shard = replace(
                shard_of(entry_of(tmp_path / "other"), Slot(0, 0)), slot=slot, ids_R=ids_R, values_R=values_R
            )
            assert entry.commit(replace(shard, checksums_R=np.zeros(len(ids_R), np.uint64)))
        assert entry.open(1).gather([0, 0], [4, 1]).shape == (2, *shape)


def test_a_shard_of_other_rows_is_refused_before_anything_is_written(entry):
    shard = shard_of(entry, Slot(0, 0))
    swapped, other = shard.ids_R[[1, 0, 2, 3]], shard.ids_R + 1
    with pytest.raises(ValueError, match=r"row id 1007 at 0 where the entry has 1000 \(2 of 4 differ\)"):
        entry.commit(replace(shard, ids_R=swapped))
    with pytest.raises(ValueError, match=r"4 of 4 differ"):
        entry.commit(replace(shard, ids_R=other))
    with pytest.raises(ValueError, match="row id"):
        entry.commit(replace(shard, slot=Slot(0, 1)))
    assert [path.name for path in entry.path.iterdir()] == ["entry.json"]


@pytest.mark.parametrize(
    ("field", "array"),
    [
        ("ids_R", np.arange(3)),
        ("ids_R", ids_of(4).astype(np.int32)),
        ("checksums_R", np.zeros(4, np.int64)),
        ("checksums_R", np.zeros(5, np.uint64)),
        ("values_R", np.zeros((4, 4), np.float64)),
        ("values_R", np.zeros((4, 5), np.float32)),
        ("values_R", np.zeros((16,), np.float32)),
    ],
)
def test_arrays_of_another_shape_or_dtype_are_refused_by_name(entry, field, array):
    with pytest.raises(ValueError, match=f"{field} of Slot"):
        entry.commit(replace(shard_of(entry, Slot(0, 0)), **{field: array}))
    assert [path.name for path in entry.path.iterdir()] == ["entry.json"]


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e6])
def test_a_value_that_cannot_be_stored_is_refused_by_row_id(entry, value):
    shard = shard_of(entry, Slot(1, 0))
    shard.values_R[2, 1] = value
    with pytest.raises(ValueError, match="row 1014 holds"):
        entry.commit(shard)
    assert entry.missing(2) == entry.slots(2)


@pytest.mark.parametrize("slot", [Slot(0, 3), Slot(-1, 0), Slot(0, -1), Slot(100_000, 0)])
def test_a_slot_outside_the_entry_is_refused(entry, slot):
    with pytest.raises(ValueError, match=re.escape(str(slot))):
        entry.commit(replace(shard_of(entry, Slot(0, 0)), slot=slot))


def test_replicas_are_counted_from_one(entry):
    for call in (entry.slots, entry.missing, entry.open):
        for replicas in (0, -1, 10**9):
            with pytest.raises(ValueError, match="replicas"):
                call(replicas)


def test_values_need_not_be_contiguous(entry):
    shard = shard_of(entry, Slot(0, 0))
    scattered = np.asfortranarray(shard.values_R)
    assert entry.commit(replace(shard, values_R=scattered, ids_R=np.repeat(shard.ids_R, 2)[::2]))
    (entry.path / Slot(0, 0).name).rename(entry.path / "scattered")
    assert entry.commit(shard)
    assert (entry.path / "scattered").read_bytes() == (entry.path / Slot(0, 0).name).read_bytes()


def test_plain_pyarrow_reads_a_shard(entry):
    fill(entry, 1)
    with pa.memory_map(str(entry.path / Slot(0, 1).name)) as source:
        table = pa.ipc.open_file(source).read_all()
    assert table.column_names == ["id", "checksum", "values"]
    assert table["id"].to_pylist() == ids_of(10)[4:8].tolist()
    assert np.array_equal(np.array(table["values"].to_pylist(), np.float32), everything(entry, 1)[4:8])
    metadata = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    assert metadata.pop("seal").startswith("raykd-seal-xxh3-128:")
    assert metadata == {
        "entry": entry.key_digest, "replica": "00000", "shard": "00000001", "rows": "0000000004",
        "shape": "4", "codec": "dense_f16/1",
    }  # fmt: skip


def test_verify_counts_what_it_read(entry):
    fill(entry, 2)
    report = entry.verify()
    size = sum(path.stat().st_size for path in entry.path.rglob("*.arrow"))
    assert (report.shards, report.rows, report.bytes, report.corrupt) == (6, 20, size, [])
