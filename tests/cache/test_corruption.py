"""No byte that differs from what was committed is ever served, whatever happened to the file."""

import os
import random
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from cache_examples import entry_of, everything, fill, read, shard_of

from raykd.cache import CorruptShard, IncompleteEntry, Slot
from raykd.cache.arrow import from_bytes, to_bytes
from raykd.cache.seal import BLANK, MARK, check_seal, seal

PAGE = 4096


@pytest.fixture
def entry(tmp_path):
    return fill(entry_of(tmp_path, rows=3, width=2, rows_per_shard=3), 1)


@pytest.fixture
def paged(tmp_path):
    return fill(entry_of(tmp_path, rows=64, width=300, rows_per_shard=64), 1)


def corrupt_copies(entry, copies, caplog):
    """Puts each copy under the name of the first shard: every one must be quarantined, reported and computed anew."""
    slot = Slot(0, 0)
    path = entry.path / slot.name
    good = path.read_bytes()
    for count, copy in enumerate(copies, start=len(entry.quarantined) + 1):
        assert copy != good
        path.write_bytes(copy)
        caplog.clear()
        assert entry.missing(1)[:1] == [slot]
        assert not path.exists()
        assert len(entry.quarantined) == count
        grave = Path(entry.quarantined[-1])
        assert grave.name.startswith("00000000.arrow.corrupt-")
        assert grave.read_bytes() == copy
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert str(path) in caplog.text
        grave.unlink()
    assert entry.commit(shard_of(entry, slot))
    assert path.read_bytes() == good


def test_a_flipped_bit_in_any_byte_is_found(entry, caplog):
    good = (entry.path / Slot(0, 0).name).read_bytes()
    copies = []
    for place in range(len(good)):
        bad = bytearray(good)
        bad[place] ^= 1 << (place % 8)
        copies.append(bytes(bad))
    corrupt_copies(entry, copies, caplog)


def test_every_bit_of_the_file_is_under_the_seal(entry):
    header, good = entry.shards.header(Slot(0, 0)), (entry.path / Slot(0, 0).name).read_bytes()
    assert from_bytes(header, good).columns["values"].shape == (3, 2)
    bad = bytearray(good)
    for place in range(len(bad)):
        for bit in range(8):
            bad[place] ^= 1 << bit
            with pytest.raises(CorruptShard):
                from_bytes(header, bad)
            bad[place] ^= 1 << bit
    assert bad == good


def test_a_cut_at_any_length_is_found(entry, caplog):
    good = (entry.path / Slot(0, 0).name).read_bytes()
    corrupt_copies(entry, [good[:length] for length in range(len(good))], caplog)


def test_appended_and_inserted_bytes_are_found(entry, caplog):
    good = (entry.path / Slot(0, 0).name).read_bytes()
    tails = [b"\0", b"\0" * 64, b"ARROW1", MARK + BLANK, good, good[-100:], bytes(PAGE), bytes(1 << 20)]
    inside = [good[:n] + b"\0" + good[n:] for n in range(0, len(good), 50)]
    corrupt_copies(entry, [*(good + tail for tail in tails), *(tail + good for tail in tails), *inside], caplog)


def test_zeroed_and_swapped_pages_are_found(paged, caplog):
    good = (paged.path / Slot(0, 0).name).read_bytes()
    pages = range(0, len(good), PAGE)
    assert len(pages) > 8
    copies = [good[:n] + bytes(len(good[n : n + PAGE])) + good[n + PAGE :] for n in pages]
    for a in pages[:-1]:
        for b in pages[:-1]:
            if a < b:
                copies.append(
                    good[:a] + good[b : b + PAGE] + good[a + PAGE : b] + good[a : a + PAGE] + good[b + PAGE :]
                )
    copies += [
        good[: -n * PAGE] + bytes(n * PAGE) for n in range(1, len(pages))
    ]  # a file whose end never reached the disk
    corrupt_copies(paged, copies, caplog)


def test_shards_swapped_between_slots_and_between_entries_are_found(tmp_path, caplog):
    entry = fill(entry_of(tmp_path, rows=8, rows_per_shard=4), 2)
    other = fill(entry_of(tmp_path, rows=8, rows_per_shard=4, key={"teacher": "another"}), 2)
    wider = fill(entry_of(tmp_path, rows=8, rows_per_shard=4, width=5), 2)
    longer = fill(entry_of(tmp_path / "longer", rows=8, rows_per_shard=8), 2)
    copies = [(entry.path / slot.name).read_bytes() for slot in entry.slots(2)[1:]]
    copies += [(foreign.path / slot.name).read_bytes() for foreign in (other, wider) for slot in foreign.slots(2)]
    copies.append((longer.path / Slot(0, 0).name).read_bytes())  # the same entry, cut otherwise
    corrupt_copies(entry, copies, caplog)
    assert "its replica is b'00001', under this name it must be b'00000'" in " ".join(
        str(reason) for reason in reasons(entry, copies)
    )


def reasons(entry, copies):
    for copy in copies:
        with pytest.raises(CorruptShard) as caught:
            from_bytes(entry.shards.header(Slot(0, 0)), copy)
        yield caught.value


def test_random_bytes_are_a_clean_refusal(entry, caplog):
    generator = random.Random(0)
    good = (entry.path / Slot(0, 0).name).read_bytes()
    copies = [generator.randbytes(generator.randrange(4000)) for _ in range(200)]
    copies += [b"ARROW1\0\0" + generator.randbytes(500) + b"ARROW1" for _ in range(50)]
    copies += [good[: generator.randrange(len(good))] + generator.randbytes(200) for _ in range(100)]
    corrupt_copies(entry, copies, caplog)


def test_crafted_bytes_under_a_valid_seal_are_a_refusal_or_an_array_of_the_right_size(entry):
    header, good = entry.shards.header(Slot(0, 0)), (entry.path / Slot(0, 0).name).read_bytes()
    blank = good.replace(good[good.find(MARK) :][: len(MARK + BLANK)], MARK + BLANK)
    generator = random.Random(0)
    refused = 0
    for number in range(3 * len(blank)):
        bad = bytearray(blank)
        for _ in range(1 + number % 3):
            bad[generator.randrange(len(bad))] = generator.choice([0, 1, 2, 3, 8, 0x7F, 0x80, 0xFF])
        if bad.count(MARK + BLANK) != 2:
            continue
        seal(bad)
        try:
            rows = from_bytes(header, bad)
        except CorruptShard:
            refused += 1
        else:
            assert (rows.ids_R.shape, rows.checksums_R.shape) == ((3,), (3,))
            assert rows.columns["values"].shape == (3, 2)
    assert refused > 500


def test_sealed_files_of_another_make_are_refused_with_the_reason(entry):
    header = entry.shards.header(Slot(0, 0))
    good = pa.ipc.open_file(pa.py_buffer((entry.path / Slot(0, 0).name).read_bytes())).get_batch(0)
    schema = header.schema().with_metadata(header.metadata())
    batch = pa.record_batch(good.columns, schema=schema)
    wrong = {
        "2 record batches": (schema, [batch, batch]),
        "0 record batches": (schema, []),
        "2 rows": (schema, [batch.slice(0, 2)]),
        "its columns are": (batch.select([0, 1]).schema, [batch.select([0, 1])]),
        "its codec is": (schema.with_metadata({**schema.metadata, b"codec": b"other/1"}), []),
        "its shape is None": (schema.with_metadata({k: v for k, v in schema.metadata.items() if k != b"shape"}), []),
    }
    for reason, (other, batches) in wrong.items():
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, other) as file:
            for each in batches:
                file.write_batch(each.replace_schema_metadata(other.metadata))
        data = bytearray(sink.getvalue())
        seal(data)
        with pytest.raises(CorruptShard, match=reason):
            from_bytes(header, data)


def test_marks_in_the_data_are_data(tmp_path):
    # values whose float16 bytes spell marks; seen by a reader that looks for the first and the last one only
    text = np.frombuffer((MARK + BLANK) * 4, np.float16)
    entry = entry_of(tmp_path, rows=2, width=len(text), rows_per_shard=2)
    shard = shard_of(entry, Slot(0, 0))
    shard.values_R[:] = text.astype(np.float32)
    assert entry.commit(shard)
    data = (entry.path / Slot(0, 0).name).read_bytes()
    assert data.count(MARK) == 10
    check_seal(data)
    assert (read(entry, 1) == text.astype(np.float32)).all()


def test_what_is_no_file_counts_as_corrupt(entry):
    path = entry.path / Slot(0, 0).name
    for make in (path.mkdir, lambda: os.mkfifo(path), lambda: path.symlink_to("/dev/zero")):
        path.unlink(missing_ok=True)
        make()
        assert entry.missing(1) == [Slot(0, 0)]
        assert not path.is_symlink()
        assert not path.exists()
        assert fill(entry, 1).missing(1) == []


def test_a_file_far_too_long_is_refused_unread(entry):
    path = entry.path / Slot(0, 0).name
    os.truncate(path, 1 << 40)  # sparse: reading it would take the memory of the machine
    assert entry.missing(1) == [Slot(0, 0)]


def test_opening_quarantines_and_never_serves(tmp_path):
    entry = fill(entry_of(tmp_path), 2)
    for slot in (Slot(0, 1), Slot(1, 2)):
        path = entry.path / slot.name
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 4
        path.write_bytes(data)
    assert entry.absent(2) == []
    with pytest.raises(IncompleteEntry, match="2 of 6 shards are missing, first Slot"):
        entry.open(2)
    assert entry.missing(2) == [Slot(0, 1), Slot(1, 2)]
    assert (read(fill(entry, 2), 2) == everything(entry, 2)).all()


def test_verify_reports_and_quarantines_bad_shards_of_any_replica(tmp_path):
    entry = fill(entry_of(tmp_path), 3)
    (entry.path / Slot(2, 1).name).write_bytes(b"")
    report = entry.verify()
    assert (report.shards, report.rows) == (8, 26)
    assert report.corrupt == entry.quarantined
    assert [Path(path).parent.name for path in report.corrupt] == ["00002"]
    assert entry.verify().corrupt == []


def test_a_shard_with_ids_of_another_order_is_refused_even_if_its_file_is_whole(tmp_path):
    # the seal and the header hold, so only the ids can tell: what a writer with a bug in its check would leave
    entry = entry_of(tmp_path, rows=3, width=2, rows_per_shard=3)
    fill(entry, 1)
    path = entry.path / Slot(0, 0).name
    header = entry.shards.header(Slot(0, 0))
    rows = from_bytes(header, path.read_bytes())
    path.write_bytes(to_bytes(header, type(rows)(rows.ids_R[::-1].copy(), rows.checksums_R, rows.columns)))
    assert entry.missing(1) == [Slot(0, 0)]


def test_a_copied_entry_folder_stays_whole(tmp_path):
    entry = fill(entry_of(tmp_path / "a"), 1)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert entry_of(tmp_path / "b").missing(1) == []
    assert entry_of(tmp_path / "b").key_digest == entry.key_digest
