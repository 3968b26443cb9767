"""The IDX format of MNIST, and Fashion-MNIST in it.

    magic (0, 0, 8 = uint8, number of dimensions), each dimension as big-endian int32, then the bytes

Source: LeCun, Cortes, Burges, "The MNIST database", 1998 (the format);
Xiao, Rasul, Vollgraf, "Fashion-MNIST: a novel image dataset for benchmarking machine learning algorithms", 2017.

Shapes: N rows, H height, W width
"""

from __future__ import annotations

import gzip
import math
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from raykd.data.digest import file_digest, joint_digest
from raykd.data.rows import Rows, held
from raykd.data.source import PLACE, Source
from raykd.identity import aside

UINT8 = 8
BLOCK = 1 << 20


@dataclass(frozen=True)
class IDX(Source):
    """Grey images and labels in two IDX files, plain or ending in `.gz`: MNIST, KMNIST, EMNIST. An id is the row's position."""

    images: str = field(compare=False, metadata=PLACE)
    labels: str = field(compare=False, metadata=PLACE)
    classes: int = 10
    shape: tuple[int, ...] = (1, 28, 28)

    @property
    def revision(self) -> str:
        """A digest of the bytes of both files."""
        return joint_digest(file_digest(Path(file)) for file in (self.images, self.labels))

    def read(self) -> Rows:
        """The rows in the files' order. Raises `ValueError` for a file in another format or files of different lengths."""
        images_NHW, labels_N = _array(Path(self.images), 3), _array(Path(self.labels), 1)
        if len(images_NHW) != len(labels_N):
            found = f"{len(images_NHW)} images in {self.images!r} and {len(labels_N)} labels in {self.labels!r}"
            raise ValueError(f"{found}: each image has one label")
        return held(torch.from_numpy(images_NHW)[:, None], labels_N.astype(np.int64))


@dataclass(frozen=True)
class FashionMNIST(Source):
    """Ten kinds of clothing, uint8 [1, 28, 28]: 60,000 rows to train and 10,000 to test."""

    split: Literal["train", "test"] = "train"
    folder: str = aside("/usr/share/datasets/fashion-mnist")
    """The four files of the dataset, gzipped or not. The default is where Debian's package puts them."""

    classes = 10
    shape = (1, 28, 28)

    def __post_init__(self) -> None:
        if self.split not in ("train", "test"):
            raise ValueError(f"FashionMNIST has no split {self.split!r}: 'train' or 'test'")

    @property
    def revision(self) -> str:
        """A digest of the bytes of both files."""
        return self.files().revision

    def read(self) -> Rows:
        """The rows in the files' order."""
        return self.files().read()

    def files(self) -> IDX:
        """The two files of this split. Raises `ValueError` if the folder does not hold them."""
        part = {"train": "train", "test": "t10k"}[self.split]
        for end in (".gz", ""):
            images = Path(self.folder) / f"{part}-images-idx3-ubyte{end}"
            labels = Path(self.folder) / f"{part}-labels-idx1-ubyte{end}"
            if images.is_file() and labels.is_file():
                return IDX(str(images), str(labels))
        found = f"no Fashion-MNIST ({part}-images-idx3-ubyte.gz and labels) in {self.folder!r}"
        raise ValueError(f"{found}: install the Debian package dataset-fashion-mnist, or pass folder=")


def _array(path: Path, dimensions: int) -> NDArray[np.uint8]:
    content = _bytes(path, dimensions)
    if len(content) < 4 + 4 * dimensions or content[:4] != bytes((0, 0, UINT8, dimensions)):
        wanted = f"IDX file of uint8 with {dimensions} dimensions"
        raise ValueError(f"{str(path)!r} starts with {content[:4]!r}, not as an {wanted} does")
    shape = [int(size) for size in np.frombuffer(content, ">i4", count=dimensions, offset=4)]
    found = len(content) - 4 - 4 * dimensions
    if min(shape) < 0 or found != math.prod(shape):
        raise ValueError(f"{str(path)!r} holds {found} bytes after its header, which says {shape}: download it again")
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def _bytes(path: Path, dimensions: int) -> bytearray:
    """The file's bytes, in memory that tensors may share."""
    if path.suffix != ".gz":
        return bytearray(path.read_bytes())
    try:
        with gzip.open(path) as file:
            content = bytearray(file.read(4 + 4 * dimensions))
            sizes = np.frombuffer(content[4 : len(content) // 4 * 4], ">u4")
            end = len(content) + math.prod(map(int, sizes))
            while len(content) <= end and (block := file.read(BLOCK)):  # a bomb has more than its header says
                content += block
            return content
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{str(path)!r} is no whole gzip file ({error}): download it again") from error
