"""Sources of every family, written by us with a few rows: laws are tested over this list."""

from __future__ import annotations

import gzip
import io
import pickle
from collections.abc import Callable
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from raykd.data import (
    CFG3B,
    CIFAR10,
    CIFAR100,
    IDX,
    PCFG,
    Arrays,
    Digits,
    ImageFolder,
    Masked,
    Parity,
    ParityTokens,
    Parquet,
    Source,
    Text,
    TorchVisionData,
)

FASHION = Path("/usr/share/datasets/fashion-mnist")


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def write_idx(path: Path, array: np.ndarray) -> str:
    header = bytes((0, 0, 8, array.ndim)) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    content = header + array.tobytes()
    path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)
    return str(path)


def idx(folder: Path, end: str = ".gz") -> Source:
    images = write_idx(folder / f"images{end}", noise(12, 5, 6))
    labels = write_idx(folder / f"labels{end}", np.arange(12, dtype=np.uint8) % 3)
    return IDX(images, labels, classes=3, shape=(1, 5, 6))


CIFAR10_FILES = ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"]


def cifar10_binary(folder: Path) -> Source:
    (folder / "cifar-10-batches-bin").mkdir()
    for i, name in enumerate(CIFAR10_FILES):
        labels, pixels = np.array([[i], [i + 1]], np.uint8), noise(2, 3072, seed=i)
        (folder / "cifar-10-batches-bin" / f"{name}.bin").write_bytes(np.hstack([labels, pixels]).tobytes())
    return CIFAR10("train", str(folder))


def cifar10_python(folder: Path) -> Source:
    (folder / "cifar-10-batches-py").mkdir()
    for i, name in enumerate(CIFAR10_FILES):
        batch = {b"data": noise(2, 3072, seed=i), b"labels": [i, i + 1]}
        (folder / "cifar-10-batches-py" / name).write_bytes(pickle.dumps(batch, protocol=2))
    return CIFAR10("train", str(folder))


def cifar100_binary(folder: Path) -> Source:
    for name in ("train", "test"):
        rows = np.hstack([np.array([[3, 7], [19, 99]], np.uint8), noise(2, 3072)])
        (folder / f"{name}.bin").write_bytes(rows.tobytes())
    return CIFAR100("train", str(folder))


def cifar100_python(folder: Path) -> Source:
    (folder / "cifar-100-python").mkdir()
    batch = {b"data": noise(2, 3072), b"coarse_labels": [3, 19], b"fine_labels": [7, 99]}
    (folder / "cifar-100-python" / "train").write_bytes(pickle.dumps(batch, protocol=2))
    return CIFAR100("train", str(folder), labels="coarse")


def png(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()


def image_folder(folder: Path) -> Source:
    for name in ("cat", "dog", "eel"):
        (folder / name).mkdir()
        for i in range(3):
            (folder / name / f"{i}.png").write_bytes(png(noise(9, 7 + i, 3, seed=i)))
    (folder / "cat" / "notes.txt").write_text("not an image")
    return ImageFolder(str(folder), size=6)


def torchvision_fake(folder: Path) -> Source:
    return TorchVisionData("FakeData", str(folder), {"size": 6, "image_size": (3, 10, 8), "num_classes": 4}, size=5)


def torchvision_kmnist(folder: Path) -> Source:
    raw = folder / "KMNIST" / "raw"
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):
        write_idx(raw / f"{part}-images-idx3-ubyte", noise(4, 28, 28))
        write_idx(raw / f"{part}-labels-idx1-ubyte", np.arange(4, dtype=np.uint8))
    return TorchVisionData("KMNIST", str(folder), {"train": True})


def arrays_of_images(folder: Path) -> Source:
    return Arrays(noise(20, 3, 8, 8), np.arange(20) % 4, ids=np.arange(20) * 7 - 30)


def arrays_of_vectors(folder: Path) -> Source:
    return Arrays(np.random.default_rng(0).normal(size=(20, 5)), np.arange(20) % 4, classes=6)


def write_parquet(path: Path, **columns: object) -> str:
    pq.write_table(pa.table(columns), path, row_group_size=3)
    return str(path)


def lists(array: np.ndarray, kind: pa.DataType) -> pa.Array:
    return pa.array(list(array.reshape(len(array), np.prod(array.shape[1:]))), kind)


def parquet_of_lists(folder: Path) -> Source:
    for i in range(2):
        images = lists(noise(5, 1, 4, 3, seed=i), pa.list_(pa.uint8()))
        write_parquet(folder / f"{i}.parquet", input=images, label=pa.array(range(5)), extra=pa.array("abcde"))
    return Parquet(str(folder), shape=(1, 4, 3), classes=5)


def parquet_of_vectors(folder: Path) -> Source:
    vectors = lists(np.random.default_rng(0).normal(size=(7, 4)), pa.list_(pa.float64(), 4))
    path = write_parquet(folder / "a.parquet", x=vectors, y=pa.array(range(7), pa.int8()), key=pa.array(range(50, 57)))
    return Parquet(path, input="x", label="y", id="key", shape=(4,), classes=7)


def parquet_of_images(folder: Path) -> Source:
    images = [{"bytes": png(noise(6, 5, 3, seed=i)), "path": None} for i in range(4)]
    path = write_parquet(folder / "a.parquet", input=pa.array(images), label=pa.array([0, 1, 0, 1]))
    return Parquet(path, shape=(3, 4, 4), classes=2)


def parquet_elsewhere(folder: Path) -> Source:
    source = parquet_of_vectors(folder)
    url = f"memory://{folder.name}/a.parquet"
    with fsspec.open(url, "wb") as file:
        file.write(Path(source.path).read_bytes())
    return Parquet(url, input="x", label="y", id="key", shape=(4,), classes=7)


def digits(folder: Path) -> Source:
    return Digits()


def parity(folder: Path) -> Source:
    return Parity(70, 3, rows=40, first=5)


def parity_tokens(folder: Path) -> Source:
    return ParityTokens(Parity(70, 3, rows=40, first=5))


def pcfg(folder: Path) -> Source:
    return PCFG(CFG3B.starting("j"), rows=40, first=5)


def masked(folder: Path) -> Source:
    return Masked(PCFG(CFG3B.starting("m"), rows=40, seed=1), seed=2)


def text_of_bytes(folder: Path) -> Source:
    for i in range(3):
        (folder / f"{i}.txt").write_bytes(noise(30 + i, seed=i).tobytes())
    return Text(str(folder), length=4)


def text_of_characters(folder: Path) -> Source:
    (folder / "a.py").write_text("def f(x):\n    return x + 1  # one more\n")
    return Text(str(folder / "*.py"), length=5, tokenizer="characters")


SOURCES: list[Callable[[Path], Source]] = [
    digits,
    parity,
    parity_tokens,
    pcfg,
    masked,
    text_of_bytes,
    text_of_characters,
    idx,
    cifar10_binary,
    cifar10_python,
    cifar100_binary,
    cifar100_python,
    image_folder,
    torchvision_fake,
    torchvision_kmnist,
    arrays_of_images,
    arrays_of_vectors,
    parquet_of_lists,
    parquet_of_vectors,
    parquet_of_images,
    parquet_elsewhere,
]
