"""Laws of every source, then what is particular to each family."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from source_cases import (
    FASHION,
    SOURCES,
    arrays_of_images,
    arrays_of_vectors,
    cifar10_binary,
    cifar10_python,
    cifar100_binary,
    cifar100_python,
    idx,
    image_folder,
    noise,
    parquet_elsewhere,
    parquet_of_images,
    parquet_of_lists,
    parquet_of_vectors,
    torchvision_fake,
    torchvision_kmnist,
)

from raykd.data import CIFAR10, CIFAR100, Arrays, Dataset, Digits, FashionMNIST, ImageFolder, Source, View
from raykd.identity import fingerprint

DRAWN = ("parity", "parity_tokens", "pcfg", "masked")
IN_FILES = [
    make
    for make in SOURCES
    if make.__name__ not in ("digits", *DRAWN, "torchvision_fake") and "arrays" not in make.__name__
]


@pytest.fixture(params=SOURCES, ids=lambda make: make.__name__)
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Source:
    made: Source = request.param(tmp_path)
    return made


def test_a_source_passes_its_own_check_and_has_the_shape_and_type_it_says(source: Source) -> None:
    source.check()
    rows = source.load()
    inputs = rows.inputs(np.arange(len(rows)))
    assert inputs.shape == (len(rows), *source.shape)
    assert inputs.dtype == {1: torch.float32, 2: torch.int64, 3: torch.uint8}[len(source.shape)]
    assert (rows.ids.dtype, rows.labels.dtype) == (np.int64, np.int64)
    assert rows.labels.max() < source.classes


def test_inputs_gathered_alone_in_any_order_and_through_subsets_are_the_same(source: Source) -> None:
    rows = source.load()
    everything = rows.inputs(np.arange(len(rows)))
    order = np.random.default_rng(0).permutation(len(rows))[:9]
    assert torch.equal(rows.inputs(order), everything[order])
    assert torch.equal(torch.cat([rows.inputs(order[i : i + 1]) for i in range(len(order))]), everything[order])
    labels = rows.labels_at(np.arange(len(rows)))
    assert labels.shape == ((len(rows), source.shape[1]) if source.vocabulary else (len(rows),))
    assert torch.equal(rows.labels_at(order), labels[order])
    subset = rows.take(order).take(np.array([1, 0]))
    assert torch.equal(subset.labels_at(np.array([0, 1])), labels[order[[1, 0]]])
    assert torch.equal(subset.inputs(np.array([0, 1])), everything[order[[1, 0]]])
    assert subset.ids.tolist() == rows.ids[order[[1, 0]]].tolist()
    assert subset.labels.tolist() == rows.labels[order[[1, 0]]].tolist()


def test_rows_are_read_once_per_process(source: Source) -> None:
    assert source.load() is pickle.loads(pickle.dumps(source)).load()


def test_a_source_that_travelled_or_was_stored_is_the_same(source: Source, tmp_path: Path) -> None:
    stored = source.stored(str(tmp_path / "store"))
    for twin in (pickle.loads(pickle.dumps(source)), stored, pickle.loads(pickle.dumps(stored))):
        assert fingerprint(twin) == fingerprint(source)
        assert twin == source
        assert hash(twin) == hash(source)
        assert torch.equal(twin.read().inputs(np.arange(2)), source.load().inputs(np.arange(2)))
        assert twin.read().ids.tolist() == source.load().ids.tolist()


@pytest.mark.parametrize("make", SOURCES, ids=lambda make: make.__name__)
def test_the_same_content_elsewhere_is_the_same_source(make, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    assert fingerprint(make(here)) == fingerprint(make(there))


@pytest.mark.parametrize("make", IN_FILES, ids=lambda make: make.__name__)
def test_another_content_is_another_source(make, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    one, other = make(here), make(there)
    for file in [file for file in there.rglob("*") if file.is_file()]:
        # of images in a folder the size is looked at, elsewhere every byte
        file.write_bytes(file.read_bytes() + b"\0" if make is image_folder else flipped(file.read_bytes()))
    if make is parquet_elsewhere:
        other = dataclasses.replace(other, path="memory://changed/a.parquet")
        with fsspec.open(other.path, "wb") as file:
            file.write((there / "a.parquet").read_bytes())
    assert fingerprint(one) != fingerprint(other)


def flipped(content: bytes) -> bytes:
    """One bit near the end changed, behind any header."""
    return content[:-2] + bytes([content[-2] ^ 1]) + content[-1:]


def test_a_file_that_changes_is_read_anew(tmp_path: Path) -> None:
    source = cifar100_binary(tmp_path)
    before, content = fingerprint(source), source.load()
    (tmp_path / "train.bin").write_bytes(bytes(3 * 3074))
    assert fingerprint(source) != before
    assert (len(content), len(source.load())) == (2, 3)


def test_digits_are_scikit_learns_scaled_to_bytes() -> None:
    from sklearn.datasets import load_digits

    rows = Digits().load()
    ink = load_digits().images
    assert len(rows) == 1797
    assert rows.labels.tolist() == load_digits().target.tolist()
    assert np.abs(rows.inputs(np.arange(1797))[:, 0].numpy() - ink / 16 * 255).max() <= 0.5


@pytest.mark.skipif(
    not FASHION.is_dir(), reason=f"{FASHION} is absent: install the Debian package dataset-fashion-mnist"
)
def test_fashion_mnist_has_60000_and_10000_rows_balanced_over_ten_classes() -> None:
    for split, size in (("train", 60_000), ("test", 10_000)):
        source = FashionMNIST(split)
        rows = source.load()
        assert len(rows) == size
        assert np.bincount(rows.labels).tolist() == [size // 10] * 10
    assert rows.labels[:4].tolist() == [9, 2, 1, 1]  # ankle boot, pullover, trouser, trouser: known to everyone
    FashionMNIST("train").check()
    mean = FashionMNIST("train").load().inputs(np.arange(60_000)).double().mean().item()
    assert mean / 255 == pytest.approx(0.2860, abs=1e-4)  # the mean that every recipe normalises by


def test_idx_files_read_the_same_gzipped_or_not(tmp_path: Path) -> None:
    zipped, plain = idx(tmp_path).load(), idx(tmp_path, end="").load()
    assert torch.equal(zipped.inputs(np.arange(12)), torch.from_numpy(noise(12, 5, 6))[:, None])
    assert torch.equal(zipped.inputs(np.arange(12)), plain.inputs(np.arange(12)))
    assert plain.labels.tolist() == [0, 1, 2] * 4


@pytest.mark.parametrize("write", [cifar10_binary, cifar10_python])
def test_cifar10_reads_the_five_training_batches_in_order_and_the_test_batch(write, tmp_path: Path) -> None:
    train = write(tmp_path)
    test = CIFAR10("test", str(tmp_path))
    assert train.load().labels.tolist() == [0, 1, 1, 2, 2, 3, 3, 4, 4, 5]
    expected = noise(2, 3072, seed=2)[1].reshape(3, 32, 32)  # planes of red, green, blue, each row by row
    assert torch.equal(train.load().inputs(np.array([5]))[0], torch.from_numpy(expected))
    assert test.load().labels.tolist() == [5, 6]
    assert fingerprint(test) != fingerprint(train)


def test_cifar10_reads_the_folder_that_holds_the_files_themselves(tmp_path: Path) -> None:
    train = cifar10_binary(tmp_path)
    assert fingerprint(CIFAR10("train", str(tmp_path / "cifar-10-batches-bin"))) == fingerprint(train)


@pytest.mark.parametrize("write", [cifar100_binary, cifar100_python])
def test_cifar100_has_fine_and_coarse_labels(write, tmp_path: Path) -> None:
    write(tmp_path)
    fine, coarse = (CIFAR100("train", str(tmp_path), labels=labels) for labels in ("fine", "coarse"))
    assert (fine.classes, coarse.classes) == (100, 20)
    assert fine.load().labels.tolist() == [7, 99]
    assert coarse.load().labels.tolist() == [3, 19]
    assert fingerprint(fine) != fingerprint(coarse)
    assert torch.equal(fine.load().inputs(np.arange(2)), torch.from_numpy(noise(2, 3072)).view(-1, 3, 32, 32))


def test_a_cifar_batch_pickled_by_python_2_is_read(tmp_path: Path) -> None:
    # assembled by hand: Python 3 writes no byte strings of Python 2 (U and T), and numpy 2 another module name
    pixels = noise(2, 3072)
    dtype = b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR"
    state = b"(K\x01K\x02M\x00\x0c\x86" + dtype + b"\x89T" + (6144).to_bytes(4, "little") + pixels.tobytes() + b"tb"
    batch = b"\x80\x02}(U\x04data" + array + state + b"U\x06labels](K\x03K\x07eu."
    (tmp_path / "test_batch").write_bytes(batch)
    rows = CIFAR10("test", str(tmp_path)).load()
    assert rows.labels.tolist() == [3, 7]
    assert torch.equal(rows.inputs(np.arange(2)).flatten(1), torch.from_numpy(pixels))


def test_images_of_a_folder_are_rgb_resized_and_labelled_by_sorted_subfolders(tmp_path: Path) -> None:
    source = image_folder(tmp_path)
    rows = source.load()
    assert (source.classes, rows.labels.tolist()) == (3, [0, 0, 0, 1, 1, 1, 2, 2, 2])
    from PIL import Image

    expected = np.asarray(Image.open(tmp_path / "dog" / "1.png").resize((6, 6), Image.Resampling.BILINEAR))
    assert np.array_equal(rows.inputs(np.array([4]))[0].permute(1, 2, 0).numpy(), expected)


def test_an_image_added_to_a_folder_changes_no_other_id(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    image_folder(here)
    (here / "cat" / "00.png").write_bytes((here / "cat" / "0.png").read_bytes())
    more, fewer = ImageFolder(str(here), 6).load(), image_folder(there).load()
    assert set(fewer.ids) < set(more.ids)
    assert len(more) == len(fewer) + 1


def test_a_grey_dataset_of_torchvision_stays_grey_and_is_what_its_files_hold(tmp_path: Path) -> None:
    source = torchvision_kmnist(tmp_path)
    assert (source.shape, source.classes) == ((1, 28, 28), 10)
    assert torch.equal(source.load().inputs(np.arange(4))[:, 0], torch.from_numpy(noise(4, 28, 28)))


def test_torchvisions_images_are_resized_when_a_size_is_given(tmp_path: Path) -> None:
    assert torchvision_fake(tmp_path).shape == (3, 5, 5)
    assert dataclasses.replace(torchvision_fake(tmp_path), size=None).shape == (3, 10, 8)


def test_parquet_rows_are_those_written_over_all_files_and_row_groups(tmp_path: Path) -> None:
    rows = parquet_of_lists(tmp_path).load()
    expected = np.concatenate([noise(5, 1, 4, 3, seed=i) for i in range(2)])
    assert torch.equal(rows.inputs(np.arange(10)), torch.from_numpy(expected))
    assert (rows.ids.tolist(), rows.labels.tolist()) == (list(range(10)), [0, 1, 2, 3, 4] * 2)


def test_parquet_vectors_and_ids_are_those_written_here_and_at_a_url(tmp_path: Path) -> None:
    for source in (parquet_of_vectors(tmp_path), parquet_elsewhere(tmp_path)):
        rows = source.load()
        expected = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)
        assert np.array_equal(rows.inputs(np.arange(7)).numpy(), expected)
        assert rows.ids.tolist() == list(range(50, 57))


def test_parquet_decodes_images_to_its_shape(tmp_path: Path) -> None:
    source = parquet_of_images(tmp_path)
    exact = dataclasses.replace(source, shape=(3, 6, 5)).load().inputs(np.array([2]))[0]
    assert np.array_equal(exact.permute(1, 2, 0).numpy(), noise(6, 5, 3, seed=2))
    assert dataclasses.replace(source, shape=(1, 2, 2)).load().inputs(np.array([2])).shape == (1, 1, 2, 2)


def test_sources_of_encoded_images_tell_the_decoders_version(tmp_path: Path) -> None:
    import PIL

    assert image_folder(tmp_path).libraries()["pillow"] == PIL.__version__
    assert Digits().libraries() == {}


def test_arrays_of_numpy_and_torch_lists_and_read_only_arrays_are_one_source() -> None:
    images, labels = noise(6, 1, 2, 2), np.arange(6) % 2
    frozen = images.copy()
    frozen.setflags(write=False)
    same = [
        Arrays(images, labels),
        Arrays(torch.from_numpy(images), torch.from_numpy(labels)),
        Arrays(frozen, labels.tolist()),
    ]
    assert len({fingerprint(source) for source in same}) == 1
    assert len(set(same)) == 1
    changed = images.copy()
    changed[0, 0, 0, 0] ^= 1
    others = [Arrays(changed, labels), Arrays(images, 1 - labels), Arrays(images, labels, ids=range(1, 7))]
    others.append(Arrays(images, labels, classes=3))
    assert len({fingerprint(source) for source in [*same, *others]}) == 5


@pytest.mark.parametrize("make", [arrays_of_images, arrays_of_vectors])
def test_stored_arrays_travel_as_a_path_and_are_written_once(make, tmp_path: Path) -> None:
    source = Arrays(noise(100, 3, 8, 8), np.arange(100) % 4) if make is arrays_of_images else make(tmp_path)
    stored = source.stored(str(tmp_path / "store"))
    files = list((tmp_path / "store").iterdir())
    assert [file.name for file in files] == [f"{source.revision}.safetensors"]
    written = files[0].stat().st_mtime_ns
    again = stored.stored(str(tmp_path / "store"))
    assert files[0].stat().st_mtime_ns == written
    assert len(pickle.dumps(again)) < 1000
    moved = pickle.loads(pickle.dumps(again)).stored(str(tmp_path / "elsewhere"))
    assert torch.equal(moved.read().inputs(np.arange(3)), source.load().inputs(np.arange(3)))


def test_stored_datasets_and_views_are_equal_and_tiny(tmp_path: Path) -> None:
    big = Arrays(noise(100, 3, 8, 8), np.arange(100) % 4)
    for whole in (Dataset(big), Dataset(big, test=big), View(Dataset(big))):
        stored = whole.stored(str(tmp_path))
        assert fingerprint(stored) == fingerprint(whole)
        assert len(pickle.dumps(stored)) < 2500


def test_a_stored_source_whose_file_is_gone_says_which(tmp_path: Path) -> None:
    stored = pickle.loads(pickle.dumps(arrays_of_vectors(tmp_path).stored(str(tmp_path))))
    Path(stored.file).unlink()
    with pytest.raises(ValueError, match=r"no file .*safetensors"):
        stored.read()
