"""Every mistake is one line that names the thing, what was found, and what would be right."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from source_cases import cifar10_binary, cifar10_python, image_folder, lists, noise, png, write_idx, write_parquet

from raykd.data import (
    CIFAR10,
    CIFAR100,
    IDX,
    Affine,
    Arrays,
    ColourJitter,
    Crop,
    Cutout,
    Dataset,
    Digits,
    FashionMNIST,
    Flip,
    ImageFolder,
    Mixup,
    Parquet,
    Rows,
    Source,
    TorchVisionData,
    View,
)

IMAGES, LABELS = noise(20, 1, 4, 4), np.arange(20) % 4
VECTORS = np.arange(60, dtype=np.float32).reshape(20, 3)


def spoiled(value: float) -> np.ndarray:
    vectors = VECTORS.copy()
    vectors[13, 1] = value
    return vectors


def parquet(folder: Path, **change: object) -> Parquet:
    columns = {"input": lists(VECTORS[:4], pa.list_(pa.float32())), "label": pa.array(range(4))} | change
    kept = {name: column for name, column in columns.items() if column is not None}
    return Parquet(write_parquet(folder / "a.parquet", **kept), shape=(3,), classes=4)


def ragged(folder: Path) -> Parquet:
    return parquet(folder, input=pa.array([[1.0, 2, 3], [1, 2, 3], [1, 2], [1, 2, 3]], pa.list_(pa.float32())))


def with_ids(folder: Path, ids: pa.Array) -> Parquet:
    path = parquet(folder, key=ids).path
    return Parquet(path, id="key", shape=(3,), classes=4)


def idx_files(folder: Path, images: bytes | np.ndarray, labels: np.ndarray) -> IDX:
    if isinstance(images, bytes):
        (folder / "images").write_bytes(images)
    else:
        write_idx(folder / "images", images)
    return IDX(str(folder / "images"), write_idx(folder / "labels", labels), classes=4, shape=(1, 4, 4))


def cut_short(folder: Path) -> CIFAR10:
    source = cifar10_binary(folder)
    with (folder / "cifar-10-batches-bin" / "data_batch_3.bin").open("ab") as file:
        file.write(b"\0")
    return source


def no_batch(folder: Path, content: object) -> CIFAR10:
    (folder / "test_batch").write_bytes(pickle.dumps(content, protocol=2))
    return CIFAR10("test", str(folder))


def broken_gzip(folder: Path) -> IDX:
    source = idx_files(folder, IMAGES[:, 0], LABELS.astype(np.uint8))
    (folder / "images.gz").write_bytes(b"\x1f\x8b\x08nonsense")
    return IDX(str(folder / "images.gz"), source.labels, classes=4, shape=(1, 4, 4))


def broken_image(folder: Path) -> ImageFolder:
    source = image_folder(folder)
    (folder / "cat" / "0.png").write_bytes(png(noise(9, 9, 3))[:90])
    return source


def no_images(folder: Path) -> ImageFolder:
    (folder / "cat").mkdir()
    return ImageFolder(str(folder), size=4)


class _Listed(Source):
    """A source that a user wrote, with mistakes."""

    classes, shape, revision = 4, (1, 4, 4), "1"

    def __init__(self, ids: np.ndarray, images: np.ndarray = IMAGES) -> None:
        self.rows = Rows(ids, LABELS, lambda places: torch.from_numpy(images[places]))

    def read(self) -> Rows:
        return self.rows


MISTAKES: list[tuple[Callable[[Path], object], list[str]]] = [
    # missing files and folders
    (lambda at: FashionMNIST(folder=str(at)), ["Fashion-MNIST", "train-images", "dataset-fashion-mnist"]),
    (lambda at: FashionMNIST("test", str(at / "no")), ["t10k-images", "no'", "dataset-fashion-mnist"]),
    (lambda at: IDX(str(at / "nope"), str(at / "nope")), ["no file", "nope"]),
    (
        lambda at: CIFAR10("train", str(at)),
        ["no CIFAR files", "cifar-10-batches-bin", "data_batch_5", "cifar-10-batches-py"],
    ),
    (lambda at: CIFAR100("test", str(at)), ["no CIFAR files", "cifar-100-binary", "test.bin"]),
    (lambda at: ImageFolder(str(at / "nope"), 4), ["no folder", "nope", "subfolder"]),
    (lambda at: Parquet(str(at / "nope"), shape=(3,), classes=4), ["no file or folder", "nope"]),
    (lambda at: Parquet(str(at), shape=(3,), classes=4), ["has no *.parquet"]),
    (lambda at: TorchVisionData("MNIST", str(at)), ["MNIST does not open", "not found"]),
    # broken files
    (lambda at: idx_files(at, b"GIF89a", LABELS.astype(np.uint8)), ["images'", "GIF8", "IDX"]),
    (
        lambda at: idx_files(at, bytes((0, 0, 8, 3)) + bytes(12) + b"more", LABELS.astype(np.uint8)),
        ["4 bytes", "[0, 0, 0]"],
    ),
    (broken_gzip, ["images.gz", "gzip"]),
    (cut_short, ["data_batch_3.bin", "6147 bytes", "3073"]),
    (lambda at: no_batch(at, [1]), ["test_batch", "b'labels'"]),
    (lambda at: no_batch(at, {b"data": noise(2, 7), b"labels": [1, 2]}), ["test_batch", "[2, 7]", "3072"]),
    (broken_image, ["cat/0.png", "no whole image"]),
    # empty
    (lambda at: Arrays(IMAGES[:0], LABELS[:0]), ["no rows"]),
    (
        lambda at: parquet(at, input=lists(VECTORS[:0], pa.list_(pa.float32())), label=pa.array([], pa.int64())),
        ["no rows"],
    ),
    (lambda at: idx_files(at, IMAGES[:0, 0], LABELS[:0].astype(np.uint8)), ["IDX has no rows"]),
    (no_images, ["has no images", ".png"]),
    (lambda at: TorchVisionData("FakeData", str(at), {"size": 0}), ["FakeData", "no rows"]),
    # labels, ids, lengths and numbers
    (lambda at: Arrays(IMAGES, LABELS, classes=3), ["row 3", "label 3", "3 classes", "0..2"]),
    (lambda at: Arrays(IMAGES, LABELS - 1), ["row 0", "label -1"]),
    (lambda at: Arrays(IMAGES, LABELS, ids=[*range(19), 4]), ["id 4", "2 rows", "unique"]),
    (lambda at: Arrays(IMAGES, LABELS, ids=np.arange(20) / 2), ["ids", "float64", "integers"]),
    (lambda at: Arrays(IMAGES, LABELS, ids=[f"{i}" for i in range(20)]), ["<U2", "numbers"]),
    (lambda at: Arrays(IMAGES, LABELS / 2), ["labels", "float64", "integers"]),
    (lambda at: Arrays(IMAGES, np.eye(4)[LABELS].astype(int)), ["labels", "[20, 4]", "integers [N]"]),
    (lambda at: Arrays(IMAGES, LABELS[:19]), ["20 inputs", "19 labels"]),
    (lambda at: Arrays(IMAGES, LABELS, ids=range(7)), ["20 inputs", "7 ids"]),
    (lambda at: Arrays(IMAGES / 255, LABELS), ["float64 [20, 1, 4, 4]", "uint8 [N, C, H, W]"]),
    (lambda at: Arrays(spoiled(float("nan")), LABELS), ["row 13", "nan", "finite"]),
    (lambda at: Arrays(spoiled(float("-inf")), LABELS, ids=np.arange(20) + 100), ["row 113", "-inf", "finite"]),
    (lambda at: idx_files(at, IMAGES[:, 0], LABELS[:5].astype(np.uint8)), ["20 images", "5 labels"]),
    (lambda at: idx_files(at, noise(20, 5, 4), LABELS.astype(np.uint8)), ["row 0", "(1, 5, 4)", "(1, 4, 4)"]),
    (lambda at: _Listed(np.arange(20) / 2), ["ids", "float64", "int64"]),
    (lambda at: _Listed(np.arange(20), noise(20, 1, 4, 5)), ["(1, 4, 5)", "(1, 4, 4)"]),
    # Parquet
    (lambda at: parquet(at, label=None, target=pa.array(range(4))), ["no column 'label'", "'input', 'target'"]),
    (lambda at: parquet(at, label=pa.array("abcd")), ["'label' is string", "integers"]),
    (lambda at: parquet(at, label=pa.array([1, 2, None, 3])), ["'label'", "1 empty"]),
    (lambda at: with_ids(at, pa.array("abcd")), ["'key' is string", "integers"]),
    (lambda at: with_ids(at, pa.array([1, 2, 1, 3])), ["id 1", "unique"]),
    (ragged, ["row 2", "2 numbers", "(3,) has 3"]),
    (lambda at: Parquet(parquet(at).path, shape=(5,), classes=4), ["row 0", "3 numbers", "(5,) has 5"]),
    (lambda at: Parquet(parquet(at).path, shape=(5, 5), classes=4), ["(5, 5)", "(C, H, W)"]),
    (lambda at: parquet(at, input=pa.array("abcd")), ["'input' is string", "lists"]),
    (lambda at: parquet(at, input=pa.array([[1, 2, 3], None, [1, 2, 3], [1, 2, 3]])), ["row 1", "nothing"]),
    (lambda at: parquet(at, input=pa.array([[1, 2, 3], [1, None, 3], [1, 2, 3], [1, 2, 3]])), ["1 empty"]),
    (
        lambda at: Parquet(parquet(at, input=pa.array([b"a"] * 4)).path, shape=(3, 2, 2), classes=4),
        ["row 0", "image format"],
    ),
    (lambda at: Parquet(parquet(at, input=pa.array([b"a"] * 4)).path, shape=(3,), classes=4), ["(3,)", "(3, H, W)"]),
    (lambda at: Parquet(write_idx(at / "a.parquet", IMAGES), shape=(3,), classes=4), ["a.parquet", "no Parquet file"]),
    # names
    (lambda at: CIFAR10("valid", str(at)), ["'valid'", "'train' or 'test'"]),
    (lambda at: CIFAR100("train", str(at), labels="rough"), ["'rough'", "'fine' or 'coarse'"]),
    (lambda at: FashionMNIST("valid"), ["'valid'", "'train' or 'test'"]),
    (lambda at: TorchVisionData("SVNH", str(at)), ["'SVNH'", "did you mean SVHN"]),
    (lambda at: TorchVisionData("SVHN", str(at), {"part": "train"}), ["no option 'part'", "split"]),
    (lambda at: ImageFolder(str(at), 0), ["size=0", "at least 1"]),
    # sizes that differ
    (lambda at: TorchVisionData("ImageFolder", image_folder(at).folder), ["row 1", "(3, 9, 8)", "size="]),
]


@pytest.mark.parametrize("number", range(len(MISTAKES)), ids=lambda n: f"{n} {MISTAKES[n][1][0]}")
def test_a_mistake_in_a_source_is_one_line_that_says_what_and_where(number: int, tmp_path: Path) -> None:
    make, words = MISTAKES[number]
    assert_refused(lambda: Dataset(make(tmp_path)).check(), words)


def assert_refused(make: Callable[[], object], words: list[str]) -> None:
    with pytest.raises(ValueError, match=r".") as error:
        make()
    message = str(error.value)
    assert all(word in message for word in words), message
    assert "\n" not in message


DATASET_MISTAKES: list[tuple[Callable[[], object], list[str]]] = [
    *((lambda v=v: Dataset(Digits(), validation=v), [f"validation={v}", "(0, 1)"]) for v in (0, 1, -0.1, float("nan"))),
    *((lambda v=v: Dataset(Digits(), holdout=v), [f"holdout={v}", "(0, 1)"]) for v in (0, 1.5)),
    (lambda: Dataset(Digits(), limit=0), ["limit=0", "at least 1"]),
    (lambda: Dataset(Digits(), limit=5000).check(), ["limit=5000", "1294 rows"]),
    (lambda: Dataset(Digits()).split("valid"), ["'valid'", "'validation'"]),
    (lambda: Dataset(Arrays(IMAGES[:3], LABELS[:3])).check(), ["validation split has no row of 3"]),
    (
        lambda: Dataset(Arrays(IMAGES[:2], LABELS[:2]), validation=0.4, holdout=0.1).check(),
        ["test split has no row of 2"],
    ),
    (lambda: Dataset(Arrays(IMAGES[:4], LABELS[:4]), validation=0.99).check(), ["train split has no row of 4"]),
    (
        lambda: Dataset(Digits(), Arrays(noise(4, 1, 8, 9), LABELS[:4])).check(),
        ["test source", "(1, 8, 9)", "(1, 8, 8)"],
    ),
    (
        lambda: Dataset(Digits(), Arrays(noise(4, 1, 8, 8), LABELS[:4] + 9)).check(),
        ["test source", "label 10", "10 classes"],
    ),
]


@pytest.mark.parametrize("number", range(len(DATASET_MISTAKES)), ids=lambda n: f"{n} {DATASET_MISTAKES[n][1][0]}")
def test_a_mistake_in_a_dataset_is_one_line_that_says_what_and_where(number: int) -> None:
    assert_refused(*DATASET_MISTAKES[number])


FLAT = Dataset(Arrays(VECTORS, LABELS))

VIEW_MISTAKES: list[tuple[Callable[[], object], list[str]]] = [
    (lambda: View(FLAT, replicas=0), ["replicas=0", "at least 1"]),
    *(
        (lambda op=op: View(FLAT, (op,)), [type(op).__name__, "(3,)", "images"])
        for op in (Crop(), Flip(), Affine(), Cutout(3))
    ),
    (lambda: View(FLAT, (ColourJitter(),)), ["ColourJitter", "(3,)"]),
    (
        lambda: View(Dataset(Arrays(noise(20, 2, 4, 4), LABELS)), (ColourJitter(),)),
        ["ColourJitter", "(2, 4, 4)", "RGB"],
    ),
    (lambda: View(Dataset(Digits()), (Crop(8, "reflect"),)), ["Crop", "8 pixels", "(1, 8, 8)"]),
    (lambda: View(FLAT, (Mixup(), Mixup())), ["more than once", "mix once"]),
    (lambda: View(FLAT, (abs,)), ["builtin_function_or_method", "operation 0", "Operation"]),
    (lambda: View(FLAT).batch(np.arange(3), np.arange(2)), ["3 positions", "2 replicas"]),
    (lambda: Crop(-1), ["padding=-1"]),
    (lambda: Crop(1, "wrap"), ["'wrap'", "'reflect'"]),
    (lambda: Flip(1.2), ["probability=1.2", "[0, 1]"]),
    (lambda: Affine(degrees=200), ["degrees=200", "[0, 180]"]),
    (lambda: Affine(translate=-0.1), ["translate=-0.1"]),
    (lambda: Affine(scale=(1.2, 0.8)), ["scale=(1.2, 0.8)"]),
    (lambda: Affine(scale=(0.0, 0.8)), ["scale=(0.0, 0.8)"]),
    (lambda: Cutout(0), ["size=0"]),
    (lambda: Cutout(2, probability=2), ["probability=2"]),
    (lambda: ColourJitter(saturation=3), ["saturation=3"]),
    (lambda: Mixup(0), ["alpha=0"]),
]


@pytest.mark.parametrize("number", range(len(VIEW_MISTAKES)), ids=lambda n: f"{n} {VIEW_MISTAKES[n][1][0]}")
def test_a_mistake_in_a_view_is_one_line_that_says_what_and_where(number: int) -> None:
    assert_refused(*VIEW_MISTAKES[number])


def test_an_image_broken_in_the_middle_of_a_folder_is_named_when_it_is_decoded(tmp_path: Path) -> None:
    rows = image_folder(tmp_path).load()
    (tmp_path / "eel" / "1.png").write_bytes(b"GIF89a")
    with pytest.raises(ValueError, match=r"eel/1\.png' is no whole image"):
        rows.inputs(np.arange(9))


class _Call:
    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


@pytest.mark.parametrize("function", [os.system, eval, exec, getattr, np.load], ids=lambda f: f.__name__)
def test_a_malicious_pickle_is_refused_and_never_run(function: Callable[..., object], tmp_path: Path) -> None:
    cifar10_python(tmp_path)
    trace = tmp_path / "trace"
    command = f"touch {trace}" if function is os.system else f"open({str(trace)!r}, 'w')"
    file = tmp_path / "cifar-10-batches-py" / "data_batch_2"
    file.write_bytes(pickle.dumps({b"data": _Call(function, command, "x"), b"labels": []}, protocol=2))
    assert_refused(Dataset(CIFAR10("train", str(tmp_path))).check, ["data_batch_2", function.__name__, "runs no code"])
    assert not trace.exists()
