"""The law of views: a row in a replica is the same bits in any batch, in any order, in any process, on any threads."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from source_cases import image_folder, noise

from raykd.data import (
    Affine,
    Arrays,
    ColourJitter,
    Crop,
    Cutout,
    Dataset,
    Digits,
    Draws,
    Flip,
    Mixup,
    Operation,
    Parity,
    Sample,
    View,
)
from raykd.identity import fingerprint

COLOUR = Dataset(
    Arrays(noise(200, 3, 24, 21), np.arange(200) % 5, ids=np.arange(200) * 3 + 1000), validation=0.05, holdout=0.05
)
GREY = Dataset(Digits())
VECTORS = Dataset(Arrays(np.random.default_rng(0).normal(size=(90, 7)), np.arange(90) % 3))
SIGNS = Dataset(Parity(70, 3, rows=200))

OPERATIONS = (
    Crop(3),
    Crop(3, "reflect"),
    Flip(),
    Affine(15, 0.1, (0.8, 1.2)),
    Cutout(6, 0.7),
    ColourJitter(0.4, 0.4, 0.4),
    Mixup(0.5),
)
VIEWS = {
    **{f"{op} of colour images": View(COLOUR, (op,), replicas=6) for op in OPERATIONS},
    **{f"{op} of grey images": View(GREY, (op,), replicas=6) for op in OPERATIONS},
    "redrawn signs": View(SIGNS, (SIGNS.train.redrawn,), replicas=6),  # type: ignore[attr-defined]
    "mixed vectors": View(VECTORS, (Mixup(),), replicas=6),
    "all of them": View(COLOUR, OPERATIONS, replicas=6),
    "mixed early": View(COLOUR, (Flip(), Mixup(1.0), Crop(4), Affine(20)), replicas=6),
}
CLASSICAL = View(COLOUR, (Crop(4), Flip(), Affine(10, 0.1, (0.9, 1.1))), replicas=6)


@pytest.fixture(params=VIEWS.values(), ids=VIEWS.keys())
def view(request: pytest.FixtureRequest) -> View:
    made: View = request.param
    return made


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def rows_of(view: View, size: int = 64) -> tuple[np.ndarray, np.ndarray]:
    length = len(view.dataset.split("train"))
    positions = np.random.default_rng(1).permutation(length)[:size]
    return positions, np.arange(len(positions)) % 6


def bytes_of(sample: Sample) -> bytes:
    tensors = (sample.ids_B, sample.inputs_B, sample.labels_B, sample.partner_labels_B, sample.share_B)
    return b"|".join(tensor.numpy().tobytes() for tensor in tensors if tensor is not None)


def digest_of_all_views() -> str:
    return hashlib.sha256(b"".join(bytes_of(view.batch(*rows_of(view, 130))) for view in VIEWS.values())).hexdigest()


def taken(sample: Sample, chosen: np.ndarray | list[int]) -> Sample:
    fields = {field.name: getattr(sample, field.name) for field in dataclasses.fields(sample)}
    return Sample(**{name: tensor if tensor is None else tensor[chosen] for name, tensor in fields.items()})


def test_a_row_is_the_same_alone_in_a_batch_and_in_another_order(view: View) -> None:
    positions, replicas = rows_of(view)
    batch = view.batch(positions, replicas)
    order = np.random.default_rng(2).permutation(len(positions))
    assert bytes_of(view.batch(positions[order], replicas[order])) == bytes_of(taken(batch, order))
    for row in (0, 17, 63):
        alone = view.batch(positions[row : row + 1], replicas[row : row + 1])
        assert bytes_of(alone) == bytes_of(taken(batch, [row]))


@cache
def everything() -> Sample:
    return VIEWS["all of them"].batch(np.repeat(np.arange(180), 6), np.tile(np.arange(6), 180))


@settings(max_examples=40, deadline=None)
@given(pairs=st.lists(st.tuples(st.integers(0, 179), st.integers(0, 5)), min_size=1, max_size=30))
def test_any_batch_is_made_of_the_rows_it_names(pairs: list[tuple[int, int]]) -> None:
    positions, replicas = np.array(pairs).T
    batch = VIEWS["all of them"].batch(positions, replicas)
    assert bytes_of(batch) == bytes_of(taken(everything(), positions * 6 + replicas))


def test_two_threads_give_the_same_bits(view: View) -> None:
    one = bytes_of(view.batch(*rows_of(view, 160)))
    torch.set_num_threads(2)
    assert bytes_of(view.batch(*rows_of(view, 160))) == one


def test_another_process_with_another_hash_seed_and_no_vector_units_gives_the_same_bits() -> None:
    program = "import test_view; print(test_view.digest_of_all_views())"
    other = {"PYTHONHASHSEED": "12345", "OMP_NUM_THREADS": "2", "ATEN_CPU_CAPABILITY": "default"}
    environment = {**os.environ, **other, "PYTHONPATH": str(Path(__file__).parent)}
    run = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert run.stdout.strip() == digest_of_all_views(), run.stderr


def test_replicas_and_seeds_differ(view: View) -> None:
    positions, _ = rows_of(view)
    zeros = np.zeros_like(positions)
    first = view.batch(positions, zeros).inputs_B
    others = [view.batch(positions, zeros + 1), dataclasses.replace(view, seed=1).batch(positions, zeros)]
    for other in others:
        differ = (other.inputs_B != first).flatten(1).any(1).double().mean()
        assert differ > 0.25  # two flips differ half of the time


def test_inputs_keep_their_type_and_shape(view: View) -> None:
    sample, plain = view.batch(*rows_of(view)), view.plain().batch(*rows_of(view))
    assert (sample.inputs_B.dtype, sample.inputs_B.shape) == (plain.inputs_B.dtype, plain.inputs_B.shape)
    assert sample.inputs_B.is_contiguous()
    assert torch.equal(sample.ids_B, plain.ids_B)
    assert torch.equal(sample.labels_B, plain.labels_B)
    assert (sample.ids_B.dtype, sample.labels_B.dtype) == (torch.int64, torch.int64)


def test_a_plain_view_shows_the_rows_of_each_split_as_they_are() -> None:
    for split in ("train", "validation", "test"):
        rows, positions = COLOUR.split(split), np.array([3, 0, 2])
        sample = CLASSICAL.plain().batch(positions, np.zeros(3, int), split)
        assert torch.equal(sample.inputs_B, rows.inputs(positions))
        assert sample.ids_B.tolist() == rows.ids[positions].tolist()
        assert sample.labels_B.tolist() == rows.labels[positions].tolist()
        assert sample.partner_labels_B is None
        assert sample.share_B is None


def test_operations_follow_each_other_each_with_its_own_draws() -> None:
    positions, replicas = rows_of(COLOUR_TWICE)
    rows = COLOUR.split("train")
    images, ids = rows.inputs(positions), rows.ids[positions]
    for place, op in enumerate(COLOUR_TWICE.ops):
        assert isinstance(op, Operation)
        images = op(images, Draws(4, ids, replicas, place))
    assert torch.equal(COLOUR_TWICE.batch(positions, replicas).inputs_B, images)
    assert not torch.equal(Draws(4, ids, replicas, 0).uniform(2), Draws(4, ids, replicas, 1).uniform(2))


COLOUR_TWICE = View(COLOUR, (Crop(2), Crop(2), Flip()), seed=4)


def test_a_mixed_image_is_its_share_of_the_row_and_the_rest_of_the_partner() -> None:
    labels = np.arange(60) % 6
    flat = np.broadcast_to((labels * 50).astype(np.uint8)[:, None, None, None], (60, 1, 4, 4))
    sample = View(Dataset(Arrays(flat, labels)), (Flip(), Mixup(1.0))).batch(np.arange(40), np.zeros(40, int))
    assert sample.share_B is not None
    assert sample.partner_labels_B is not None
    share, own, other = sample.share_B.double(), sample.labels_B * 50, sample.partner_labels_B * 50
    expected = share * own + (1 - share) * other
    assert (sample.inputs_B[:, 0, 0, 0] - expected).abs().max() <= 0.5
    assert sample.inputs_B.flatten(1).float().std(1).max() == 0
    assert (sample.labels_B != sample.partner_labels_B).double().mean() > 0.5
    assert (sample.share_B.dtype, sample.partner_labels_B.dtype) == (torch.float32, torch.int64)


def test_a_partner_is_seen_through_the_operations_before_with_its_own_draws() -> None:
    before, mix = (Crop(4), Flip()), Mixup(1.0)
    positions, replicas = rows_of(CLASSICAL)
    alone, mixed = View(COLOUR, before, 6), View(COLOUR, (*before, mix), 6)
    draws = Draws(0, COLOUR.split("train").ids[positions], replicas, len(before))
    partners = mix.partners(draws, len(COLOUR.split("train"))).numpy()
    share = (mix.shares(draws).double() / 256)[:, None, None, None]
    expected = (
        share * alone.batch(positions, replicas).inputs_B + (1 - share) * alone.batch(partners, replicas).inputs_B
    )
    assert (mixed.batch(positions, replicas).inputs_B - expected).abs().max() <= 0.5
    assert mixed.batch(positions, replicas).partner_labels_B.tolist() == COLOUR.split("train").labels[partners].tolist()


def test_a_mixed_vector_is_its_share_of_the_row_and_the_rest_of_the_partner() -> None:
    view, (positions, replicas) = VIEWS["mixed vectors"], rows_of(VIEWS["mixed vectors"], 50)
    draws = Draws(0, VECTORS.split("train").ids[positions], replicas, 0)
    partners, share = Mixup().partners(draws, 65).numpy(), (Mixup().shares(draws) / 256)[:, None]
    rows = VECTORS.split("train")
    assert len(rows) == 65
    expected = share * rows.inputs(positions) + (1 - share) * rows.inputs(partners)
    torch.testing.assert_close(view.batch(positions, replicas).inputs_B, expected)


def test_the_number_of_replicas_is_in_the_fingerprint_but_not_in_the_content() -> None:
    more = dataclasses.replace(CLASSICAL, replicas=50)
    assert fingerprint(more) != fingerprint(CLASSICAL)
    assert fingerprint(more.content()) == fingerprint(CLASSICAL.content())


def test_the_content_changes_with_dataset_operations_and_seed() -> None:
    changed = [
        dataclasses.replace(CLASSICAL, seed=1),
        dataclasses.replace(CLASSICAL, ops=(Crop(4), Flip())),
        dataclasses.replace(CLASSICAL, ops=CLASSICAL.ops[::-1]),
        dataclasses.replace(CLASSICAL, dataset=GREY),
    ]
    assert len({fingerprint(view.content()) for view in (CLASSICAL, *changed)}) == 5
    assert fingerprint(View(GREY, seed=1).content()) == fingerprint(View(GREY).content())


def test_the_content_of_encoded_images_holds_the_decoders_version(tmp_path: Path) -> None:
    import PIL

    content = View(Dataset(image_folder(tmp_path))).content()
    assert isinstance(content, dict)
    assert content["libraries"]["pillow"] == PIL.__version__
