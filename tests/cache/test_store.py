import json
import pickle
import time

import numpy as np
import pytest
from cache_examples import KEY, entry_of, fill, ids_of, shard_of

from raykd.cache import SignalCache, Slot
from raykd.identity import digest


def entry_with(cache, **changes):
    arguments = {"key": KEY, "ids_N": ids_of(6), "shape": (4,), **changes}
    return cache.entry(arguments.pop("key"), **arguments)


def test_equal_content_is_one_entry_whatever_its_key_order_and_number_type(tmp_path):
    cache = SignalCache(tmp_path)
    first = entry_with(cache, key={"a": 1, "b": [1, 2.5]})
    for key in ({"b": (1.0, 2.5), "a": 1}, {"a": np.int64(1), "b": [1, np.float64(2.5)]}):
        assert entry_with(cache, key=key).path == first.path
    assert entry_with(cache, key={"a": 1, "b": [1, 2.5]}, ids_N=ids_of(6).tolist()).path == first.path


def test_key_ids_their_order_and_shape_make_another_entry(tmp_path):
    cache = SignalCache(tmp_path)
    changes = [
        {},
        {"key": {**KEY, "teacher": "another"}},
        {"key": {**KEY, "more": None}},
        {"ids_N": ids_of(6)[::-1]},
        {"ids_N": ids_of(7)},
        {"shape": (2, 2)},
        {"shape": (4, 1)},
    ]
    assert len({entry_with(cache, **change).path for change in changes}) == len(changes)


def test_the_name_is_the_fingerprint_of_the_full_key(tmp_path):
    entry = entry_of(tmp_path)
    assert entry.key_digest == entry.path.name == digest(entry.key)
    assert set(entry.key) == {"content", "ids", "shape", "codec"}


@pytest.mark.parametrize("ids_N", [[], [1.0], [[1]], 3, ["a"], np.array([2**63], np.uint64)])
def test_ids_are_one_or_more_integers(tmp_path, ids_N):
    with pytest.raises(ValueError, match="ids_N is"):
        entry_with(SignalCache(tmp_path), ids_N=ids_N)


@pytest.mark.parametrize(
    "change",
    [
        {"shape": (0,)},
        {"shape": (-1, -1)},
        {"shape": (2.5,)},
        {"rows_per_shard": 0},
        {"rows_per_shard": 2.5},
        {"about": {"a": 1}},
    ],
)
def test_impossible_arguments_are_refused_and_nothing_is_written(tmp_path, change):
    with pytest.raises(ValueError, match=next(iter(change))):
        entry_with(SignalCache(tmp_path), **change)
    assert list(tmp_path.iterdir()) == []


def test_a_key_without_content_is_refused_by_place(tmp_path):
    with pytest.raises(ValueError, match="crop"):
        entry_with(SignalCache(tmp_path), key={"crop": lambda x: x})


def test_a_root_where_nothing_can_be_written_once_is_refused_and_not_taken_for_a_folder(tmp_path):
    with pytest.raises(ValueError, match="ftp://bucket/cache"):
        SignalCache("ftp://bucket/cache")


def test_the_callers_ids_may_change_afterwards(tmp_path):
    ids = ids_of(10)
    entry = SignalCache(tmp_path).entry(KEY, ids_N=ids, shape=(4,), rows_per_shard=4)
    ids[:] = 0
    assert entry.commit(shard_of(entry, Slot(0, 0)))


def test_an_entry_travels_to_another_process(tmp_path):
    entry = fill(entry_of(tmp_path), 1)
    twin = pickle.loads(pickle.dumps(entry))
    assert twin.missing(2) == entry.missing(2)
    assert twin.key_digest == entry.key_digest


def test_entries_are_listed_from_their_records_alone(tmp_path):
    cache = SignalCache(tmp_path)
    assert cache.entries() == []
    before = time.time() - 5
    full = fill(entry_of(tmp_path), 2)
    full.commit(shard_of(full, Slot(4, 1)))
    empty = cache.entry({"teacher": "another"}, ids_N=[1], shape=(1,), about={"teacher": "small"})
    listed = {entry.key_digest: entry for entry in cache.entries()}
    assert listed.keys() == {full.key_digest, empty.key_digest}
    assert list(listed) == sorted(listed)
    assert listed[empty.key_digest].about == {"teacher": "small"}
    assert listed[empty.key_digest].holdings().shards == {}
    found = listed[full.key_digest]
    assert (found.key, found.rows, found.rows_per_shard, found.shape) == (full.key, 10, 4, (4,))
    holdings = found.holdings()
    assert holdings.shards == {0: 3, 1: 3, 4: 1}
    assert holdings.complete == [0, 1]
    assert holdings.bytes == sum(path.stat().st_size for path in full.path.rglob("*.arrow"))
    assert before < holdings.last_used < time.time() + 5


def test_a_listed_entry_is_verified_but_not_filled_or_read(tmp_path):
    fill(entry_of(tmp_path), 2)
    (entry,) = SignalCache(tmp_path).entries()
    assert entry.verify().shards == 6
    for call in (lambda: entry.open(1), lambda: entry.commit(shard_of(entry, Slot(0, 0)))):
        with pytest.raises(ValueError, match="was listed, not opened"):
            call()
    path = entry.path / Slot(1, 0).name
    path.write_bytes(path.read_bytes()[:-1])
    assert len(entry.verify().corrupt) == 1
    assert entry.holdings().shards == {0: 3, 1: 2}


def test_names_that_are_no_shards_are_passed_over(tmp_path):
    entry = fill(entry_of(tmp_path), 1)
    folder = entry.path / "views" / "00000"
    for name in (
        "x.arrow",
        "00000009.arrow",
        "1.arrow",
        ".00000000.arrow.1-a.tmp",
        "COMPLETE.json",
        "\u06600000000.arrow",
    ):
        (folder / name).write_bytes(b"?")
    (entry.path / "views" / "0").mkdir()
    (entry.path / "views" / "0" / "00000000.arrow").write_bytes(b"?")
    assert entry.holdings().shards == {0: 3}
    assert entry.verify().shards == 3
    assert entry.quarantined == []


def test_an_entry_with_a_codec_of_the_future_is_listed_and_named_when_read(tmp_path):
    entry = entry_of(tmp_path)
    body = json.loads((entry.path / "entry.json").read_bytes())
    body["key"]["codec"]["version"] = 3
    del body["checksum"]
    name = digest(body["key"])
    folder = tmp_path / "v1" / name[:2] / name
    folder.mkdir(parents=True)
    (folder / "entry.json").write_text(json.dumps({**body, "checksum": digest(body)}))
    (folder / "views" / "00000").mkdir(parents=True)
    (folder / Slot(0, 0).name).write_bytes(b"?")
    (listed,) = [each for each in SignalCache(tmp_path).entries() if each.key_digest == name]
    assert listed.holdings().shards == {0: 1}
    with pytest.raises(ValueError, match=r"DenseF16.*does not know"):
        listed.verify()


def test_a_foreign_folder_is_named_and_hides_no_other(tmp_path, caplog):
    good, bad = entry_of(tmp_path), entry_of(tmp_path, width=5)
    (bad.path / "entry.json").write_bytes(b"{")
    assert [entry.key_digest for entry in SignalCache(tmp_path).entries()] == [good.key_digest]
    assert str(bad.path) in caplog.text
