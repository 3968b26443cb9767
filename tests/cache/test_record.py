import json
import random
import shutil
from dataclasses import replace

import pytest
from cache_examples import KEY, entry_of, fill, ids_of

from raykd.cache import ForeignEntry, SignalCache
from raykd.cache.codecs import DENSE_F16
from raykd.cache.record import adopt, read_record
from raykd.identity import canonical, digest


@pytest.fixture
def entry(tmp_path):
    return entry_of(tmp_path)


def test_the_record_says_what_the_entry_is_and_how_it_lies(entry):
    stored = json.loads((entry.path / "entry.json").read_bytes())
    assert stored["format"] == "raykd-cache-v1"
    assert stored["key"]["content"] == KEY
    assert stored["key"]["shape"] == [4]
    assert stored["key"]["codec"] == canonical(DENSE_F16)
    assert stored["layout"] == {"rows": 10, "rows_per_shard": 4}


def test_every_damaged_record_is_refused_or_says_the_same(entry):
    path = entry.path / "entry.json"
    good = path.read_bytes()
    damaged = [good[:n] for n in range(len(good) - 1)]
    for place in range(len(good)):
        for bit in range(8):
            bad = bytearray(good)
            bad[place] ^= 1 << bit
            damaged.append(bytes(bad))
    refused = 0
    for data in damaged:
        path.write_bytes(data)
        try:
            record = read_record(entry.place)
        except ForeignEntry:
            refused += 1
        else:  # a space that became another kind of space
            assert record == entry.record
    assert refused > 0.95 * len(damaged)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"1",
        b'"text"',
        b"\xff\xfe{",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"checksum": 1}',
        b"9" * 10_000,
        b'{"format": NaN, "checksum": Infinity}',
        b'{"format":"raykd-cache-v1","key":[],"layout":{},"about":3,"checksum":""}',
        b'{"format":"raykd-cache-v1","key":{"shape":7},"layout":{"rows":true,"rows_per_shard":-1},"about":{},"checksum":""}',
    ],
    ids=lambda data: repr(data[:24]),
)
def test_bytes_of_any_kind_are_a_clean_refusal_and_stay(entry, tmp_path, data):
    path = entry.path / "entry.json"
    path.write_bytes(data)
    with pytest.raises(ForeignEntry, match=str(entry.path)):
        entry_of(tmp_path)
    assert path.read_bytes() == data


def test_random_bytes_and_random_json_are_a_clean_refusal(entry):
    generator = random.Random(0)
    good = (entry.path / "entry.json").read_bytes()
    for _ in range(400):
        if generator.random() < 0.5:
            data = generator.randbytes(generator.randrange(300))
        else:
            start, stop = sorted(generator.choices(range(len(good)), k=2))
            data = good[:start] + generator.choice([b"", b"1e999", b"{}", b"\\u0000", b'"', good]) + good[stop + 1 :]
        (entry.path / "entry.json").write_bytes(data)
        with pytest.raises(ForeignEntry):
            read_record(entry.place)


@pytest.mark.parametrize("field", ["rows", "rows_per_shard", "shape", "about"])
@pytest.mark.parametrize("value", [0, -1, True, 2.5, None, "4", [0], {"a": 1}])
def test_a_well_formed_record_with_impossible_values_is_refused(entry, field, value):
    body = json.loads((entry.path / "entry.json").read_bytes())
    del body["checksum"]
    (body["layout"] if "rows" in field else body["key"] if field == "shape" else body)[field] = value
    text = json.dumps({**body, "checksum": digest(body)})
    (entry.path / "entry.json").write_text(text)
    with pytest.raises(ForeignEntry):
        read_record(entry.place)


def test_the_record_of_another_entry_is_refused_and_stays(entry, tmp_path):
    other = entry_of(tmp_path, key={"teacher": "another"})
    shutil.copy(other.path / "entry.json", entry.path / "entry.json")
    with pytest.raises(ForeignEntry, match=other.key_digest):
        entry_of(tmp_path)
    assert (entry.path / "entry.json").read_bytes() == (other.path / "entry.json").read_bytes()


def test_a_record_that_is_no_file_is_refused(entry, tmp_path):
    (entry.path / "entry.json").unlink()
    (entry.path / "entry.json").mkdir()
    with pytest.raises(ForeignEntry, match="regular file"):
        entry_of(tmp_path)


def test_a_forged_record_with_other_rows_is_refused(entry):
    (entry.path / "entry.json").write_bytes(replace(entry.record, rows=11).to_bytes())
    with pytest.raises(ForeignEntry, match="11 rows"):
        adopt(entry.place, entry.record)


def test_the_first_opener_decides_the_layout_and_later_ones_adopt_it(tmp_path):
    first = fill(entry_of(tmp_path, rows_per_shard=4), 1)
    second = entry_of(tmp_path, rows_per_shard=1000)
    assert second.path == first.path
    assert second.rows_per_shard == 4
    assert second.missing(1) == []


def test_the_first_opener_decides_the_words_and_they_are_no_identity(tmp_path):
    cache = SignalCache(tmp_path)
    first = cache.entry(KEY, ids_N=ids_of(3), shape=(2,), about={"teacher": "the big one"})
    second = cache.entry(KEY, ids_N=ids_of(3), shape=(2,), about={"teacher": "renamed"})
    assert second.path == first.path
    assert second.about == {"teacher": "the big one"}
