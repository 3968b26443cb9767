"""A probe passes for the teacher that filled the entry, in every codec, and finds whatever else lies there."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tiny
from tiny_cache import CPU, NETWORK, VIEW, filled, teacher
from torch import Tensor

from raykd.cache import Entry, Slot
from raykd.cache.arrow import to_bytes
from raykd.cache.codecs import DENSE_F16, Codec, DenseU8, Sampled, TopKF16, TopKU8
from raykd.data import Arrays, Dataset, Draws, Operation, View
from raykd.kept import Kept
from raykd.labeling.predictor import Predictor
from raykd.models import weights
from raykd.origin import from_key, from_stage
from raykd.probe import Probe, probe
from raykd.signals import LOGITS, Signal
from raykd.stage import Pretrained
from raykd.storage import Storage

CODECS: list[Codec] = [DENSE_F16, DenseU8(), TopKF16(4), TopKU8(4), Sampled(18)]


def probed(storage: Storage, rows: int = 64) -> Probe:
    """What a probe without any recipe says about the one entry."""
    (entry,) = storage.cache.entries()
    return probe(entry, partial(from_key, entry, storage), rows)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(tmp_path)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("codec", CODECS, ids=str)
def test_the_teacher_that_filled_an_entry_passes(tmp_path, codec, precision):
    storage = Storage(tmp_path, precision)
    entry = filled(storage, teacher(tmp_path), codec)
    assert probed(storage) == Probe(entry.key_digest, 64)
    assert probed(storage, rows=10**6).rows == 2 * tiny.rows()


@pytest.mark.parametrize("codec", [DENSE_F16, DenseU8()], ids=str)
@pytest.mark.parametrize("tap", ["pooled", "layer1", "input"])
def test_so_it_does_for_features(storage, tmp_path, tap, codec):
    filled(storage, teacher(tmp_path), codec, signal=Signal(tap))
    found = probed(storage)
    assert (found.rows, found.wrong) == (64, ())


@pytest.mark.parametrize("codec", CODECS, ids=str)
def test_another_teachers_answers_are_found_and_name_entry_row_and_replica(storage, tmp_path, codec):
    entry = filled(storage, teacher(tmp_path), codec, answers=teacher(tmp_path, seed=1))
    found = probed(storage)
    assert len(found.wrong) > 32
    ids = {int(line.split("row ")[1].split()[0]) for line in found.wrong}
    assert ids <= set(VIEW.dataset.split("train").ids.tolist())
    assert all(line.startswith(f"entry {entry.key_digest}, row ") for line in found.wrong)
    assert {line.split("replica ")[1][0] for line in found.wrong} == {"0", "1"}


def test_a_teacher_whose_weights_are_a_twentieth_larger_is_another_one(storage, tmp_path):
    right = teacher(tmp_path)
    state = {name: tensor * 1.05 for name, tensor in weights.load(right.weights, NETWORK).items()}
    weights.save(str(tmp_path / "later.safetensors"), state, {})
    filled(storage, right, answers=Pretrained(NETWORK, str(tmp_path / "later.safetensors")))
    assert len(probed(storage).wrong) == 64


@pytest.mark.parametrize("sees", [replace(VIEW, seed=4), replace(VIEW, ops=())], ids=["another seed", "no operation"])
def test_another_view_is_found(storage, tmp_path, sees):
    filled(storage, teacher(tmp_path), sees=sees)
    found = probed(storage)
    assert len(found.wrong) > 32
    assert all("another input" in line for line in found.wrong)


@pytest.mark.parametrize("whole", [True, False], ids=["checksums too", "values only"])
@pytest.mark.parametrize("codec", CODECS, ids=str)
def test_two_swapped_rows_under_a_good_seal_are_found(storage, tmp_path, codec, whole):
    entry = filled(storage, teacher(tmp_path), codec)
    slot = Slot(1, 0)
    rows = entry.shards.read(slot)
    a, b = _two_unlike(entry, slot)
    order = np.arange(len(rows.ids_R))
    order[[a, b]] = b, a
    swapped = replace(
        rows,
        columns={name: column[order] for name, column in rows.columns.items()},
        checksums_R=rows.checksums_R[order] if whole else rows.checksums_R,
    )
    data = to_bytes(entry.shards.header(slot), swapped)
    (entry.path / slot.name).unlink()
    entry.place.create(slot.name, data)
    assert entry.verify().corrupt == []
    found = probed(storage, rows=10**6)
    assert {line.split(":")[0] for line in found.wrong} == {
        f"entry {entry.key_digest}, row {rows.ids_R[row]} in replica 1" for row in (a, b)
    }


def _two_unlike(entry: Entry, slot: Slot) -> tuple[int, int]:
    """Two rows that the network takes for different digits."""
    positions = np.asarray(entry.positions(slot))
    inputs_B = VIEW.batch(positions, np.full(len(positions), slot.replica)).inputs_B
    predictor = Predictor(NETWORK, entry.about["weights"], (LOGITS,), device=CPU)
    best_B = predictor(inputs_B)[LOGITS].argmax(1)
    return 0, int(np.flatnonzero(best_B != best_B[0])[0])


def test_a_corrupt_shard_is_set_aside_and_the_others_are_probed(storage, tmp_path):
    entry = filled(storage, teacher(tmp_path))
    shard = entry.path / Slot(1, 0).name
    shard.write_bytes(shard.read_bytes()[:-9])
    listed = storage.cache.entries()[0]
    found = probe(listed, partial(from_key, listed, storage), 10**6)
    assert (found.rows, found.wrong) == (tiny.rows(), ())
    assert len(listed.quarantined) == 1


def test_a_probe_leaves_no_trace_in_the_cache(storage, tmp_path):
    entry = filled(storage, teacher(tmp_path))
    before = entry.place.files()
    probed(storage)
    assert entry.place.files() == before


def test_weights_that_moved_are_found_by_their_digest_among_the_stages(storage, tmp_path):
    asked = teacher(tmp_path)
    digest = asked.digest
    filled(storage, asked)
    folder = tmp_path / "stages" / "a"
    folder.mkdir(parents=True)
    Path(asked.weights).rename(folder / "best.safetensors")
    assert "no file with the teacher's weights" in probed(storage).skipped
    (folder / "result.json").write_text(json.dumps({"weights": digest}))
    assert probed(storage).rows == 64


def test_other_weights_under_the_same_path_are_not_asked(storage, tmp_path):
    asked = teacher(tmp_path)
    filled(storage, asked)
    Path(teacher(tmp_path, seed=1).weights).replace(asked.weights)
    found = probed(storage)
    assert "no file with the teacher's weights" in found.skipped
    assert found.wrong == ()


def test_rows_given_as_arrays_are_probed_once_they_are_stored(storage, tmp_path):
    inputs = np.random.default_rng(0).integers(0, 256, (100, 1, 8, 8)).astype(np.uint8)
    view = View(Dataset(Arrays(inputs, np.arange(100) % 10)))
    filled(storage, teacher(tmp_path), view=view)
    assert "are not at" in probed(storage).skipped
    view.stored(str(tmp_path / "data"))
    assert probed(storage).rows == 64


@dataclass(frozen=True)
class Mine(Operation):
    def __call__(self, images_BCHW: Tensor, draws: Draws) -> Tensor:
        return images_BCHW.flip(2)


def test_what_a_key_is_not_enough_for_is_no_failure_and_a_recipes_stage_is(storage, tmp_path):
    mine = replace(VIEW, ops=(Mine(),))
    entry = filled(storage, teacher(tmp_path), view=mine)
    assert probed(storage) == Probe(
        entry.key_digest, 0, skipped="'Mine' is no class of raykd that can be made from data"
    )
    stage = replace(tiny.student(), view=mine, teachers={"teacher": teacher(tmp_path)})
    ((found, origin),) = from_stage(stage, storage)
    assert probe(found, lambda: origin, 64) == Probe(entry.key_digest, 64)
    assert list(from_stage(replace(stage, view=replace(mine, seed=9)), storage)) == []


def test_a_stage_finds_its_entries_in_any_precision_and_codec(tmp_path):
    asked = teacher(tmp_path)
    names = {filled(Storage(tmp_path, p), asked, c).key_digest for p in ("float32", "float16") for c in CODECS[:2]}
    filled(Storage(tmp_path), teacher(tmp_path, seed=1))
    stage = replace(tiny.student(), view=VIEW, teachers={"teacher": asked})
    found = dict(from_stage(stage, Storage(tmp_path)))
    assert {entry.key_digest for entry in found} == names
    assert {origin.precision for origin in found.values()} == {"float32", "float16"}


def test_libraries_and_data_that_changed_are_told(storage, tmp_path, monkeypatch):
    filled(storage, teacher(tmp_path))
    with monkeypatch.context() as later:
        later.setattr(Dataset, "libraries", lambda self: {"pillow": "99"})
        assert "libraries was {} and now is {'pillow': '99'}" in probed(storage).skipped
    with monkeypatch.context() as later:
        later.setattr("raykd.data.digits.Digits.revision", "0" * 40)
        assert "changed since the key was written" in probed(storage).skipped


def test_entries_of_others_and_empty_ones_are_skipped(storage, tmp_path):
    entry = storage.cache.entry({"teacher": "someone's"}, ids_N=np.arange(5), shape=(3,))
    assert "not one that raykd writes" in probe(entry, partial(from_key, entry, storage), 8).skipped
    empty = storage.entry("teacher", teacher(tmp_path), VIEW, Kept(LOGITS, LOGITS, DENSE_F16))
    assert probe(empty, partial(from_key, empty, storage), 8).skipped == "it has no rows yet"


def test_a_teacher_that_says_what_cannot_be_stored_is_wrong(storage, tmp_path):
    asked = teacher(tmp_path)
    state = {name: tensor * 1e5 for name, tensor in weights.load(asked.weights, NETWORK).items()}
    weights.save(str(tmp_path / "loud.safetensors"), state, {})
    filled(storage, Pretrained(NETWORK, str(tmp_path / "loud.safetensors")), answers=asked)
    (line, *_) = probed(storage).wrong
    assert "says what cannot be stored now" in line
