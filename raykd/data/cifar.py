"""CIFAR-10 and CIFAR-100, from the binary version or from the python version of the downloads.

    CIFAR-10    cifar-10-batches-bin/*.bin    1 label byte, 3,072 pixel bytes             cifar-10-batches-py/*    pickled
    CIFAR-100   cifar-100-binary/*.bin        coarse, fine label bytes, 3,072 pixel bytes cifar-100-python/*       pickled

Loading runs no code from the data: pickles are looked through first (pickles.py) and read by an unpickler that builds plain
values, and arrays of whole numbers from bytes. It makes no array by numpy's own way, whose state a pickle can forge.

Source: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009; formats: cs.toronto.edu/~kriz/cifar.html.

Shapes: N rows, P = 3,072 pixel bytes
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from raykd.data.digest import file_digest, joint_digest
from raykd.data.rows import Rows, held
from raykd.data.source import PLACE, Source
from raykd.pickles import check_pickle
from raykd.places import open_regular

PIXELS = 3072
NUMBERS = ("u1", "i1", "i4", "i8")
"""Types of the arrays that a pickle may hold."""


@dataclass(frozen=True)
class CIFAR10(Source):
    """Ten kinds of things, uint8 [3, 32, 32]: 50,000 rows to train and 10,000 to test. An id is the row's position."""

    split: Literal["train", "test"]
    folder: str = field(compare=False, metadata=PLACE)
    """Holds the files, or the folder that the download unpacks to."""

    classes = 10
    shape = (3, 32, 32)

    def __post_init__(self) -> None:
        _check_split("CIFAR10", self.split)

    @property
    def revision(self) -> str:
        """A digest of the files' bytes, so the binary and the python version differ."""
        return joint_digest(map(file_digest, self.files()))

    def read(self) -> Rows:
        """The rows in the files' order."""
        return _rows(self.files(), _Label(column=0, columns=1, key=b"labels"))

    def files(self) -> list[Path]:
        """The files of this split. Raises `ValueError` if the folder holds neither version."""
        names = [f"data_batch_{i}" for i in range(1, 6)] if self.split == "train" else ["test_batch"]
        return _files(self.folder, names, binary="cifar-10-batches-bin", python="cifar-10-batches-py")


@dataclass(frozen=True)
class CIFAR100(Source):
    """A hundred kinds of things in twenty groups, uint8 [3, 32, 32]: 50,000 and 10,000 rows. An id is the row's position."""

    split: Literal["train", "test"]
    folder: str = field(compare=False, metadata=PLACE)
    """Holds the files, or the folder that the download unpacks to."""
    labels: Literal["fine", "coarse"] = "fine"
    """The 100 kinds, or the 20 groups."""

    shape = (3, 32, 32)

    def __post_init__(self) -> None:
        _check_split("CIFAR100", self.split)
        if self.labels not in ("fine", "coarse"):
            raise ValueError(f"CIFAR100 has no labels {self.labels!r}: 'fine' or 'coarse'")

    @property
    def classes(self) -> int:
        """100 fine or 20 coarse ones."""
        return 100 if self.labels == "fine" else 20

    @property
    def revision(self) -> str:
        """A digest of the file's bytes, so the binary and the python version differ."""
        return joint_digest(map(file_digest, self.files()))

    def read(self) -> Rows:
        """The rows in the file's order."""
        label = _Label(column=("coarse", "fine").index(self.labels), columns=2, key=f"{self.labels}_labels".encode())
        return _rows(self.files(), label)

    def files(self) -> list[Path]:
        """The file of this split. Raises `ValueError` if the folder holds neither version."""
        return _files(self.folder, [self.split], binary="cifar-100-binary", python="cifar-100-python")


@dataclass(frozen=True)
class _Label:
    """Where a label stands: which of the label bytes of a record, or under which key of a pickle."""

    column: int
    columns: int
    key: bytes


def _check_split(name: str, split: str) -> None:
    if split not in ("train", "test"):
        raise ValueError(f"{name} has no split {split!r}: 'train' or 'test'")


def _files(folder: str, names: Sequence[str], *, binary: str, python: str) -> list[Path]:
    root = Path(folder)
    versions = [(place, ".bin") for place in (root, root / binary)] + [(place, "") for place in (root, root / python)]
    for place, end in versions:
        files = [place / f"{name}{end}" for name in names]
        if all(file.is_file() for file in files):
            return files
    wanted = f"{binary}/ ({', '.join(f'{name}.bin' for name in names)}) or {python}/ ({', '.join(names)})"
    raise ValueError(f"no CIFAR files in {folder!r}: unpack the download there, so that it holds {wanted}")


def _rows(files: Sequence[Path], label: _Label) -> Rows:
    parts = [_binary(file, label) if file.suffix == ".bin" else _python(file, label) for file in files]
    labels_N = np.concatenate([labels for labels, _ in parts])
    pixels_NP = np.concatenate([pixels for _, pixels in parts])
    return held(torch.from_numpy(pixels_NP).view(-1, 3, 32, 32), labels_N)


def _binary(file: Path, label: _Label) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    content = np.fromfile(file, np.uint8)
    record = label.columns + PIXELS
    if len(content) % record:
        raise ValueError(
            f"{str(file)!r} has {len(content)} bytes, no multiple of {record} bytes a row: download it again"
        )
    records = content.reshape(-1, record)
    return records[:, label.column].astype(np.int64), records[:, label.columns :]


def _python(file: Path, label: _Label) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    batch = _unpickle(file)
    if not isinstance(batch, dict) or not {b"data", label.key} <= batch.keys():
        raise ValueError(f"{str(file)!r} is no CIFAR batch: it should be a dict with b'data' and {label.key!r}")
    labels_N, pixels_NP = _labels(file, batch[label.key]), _pixels(batch[b"data"])
    if pixels_NP.dtype != np.uint8 or labels_N.dtype.kind not in "iu" or pixels_NP.shape != (len(labels_N), PIXELS):
        found = f"{pixels_NP.dtype} {list(pixels_NP.shape)} for {len(labels_N)} labels of {labels_N.dtype}"
        raise ValueError(f"{str(file)!r} holds {found}: it should be uint8 [N, {PIXELS}] for N integer labels")
    return labels_N.astype(np.int64), pixels_NP


def _labels(file: Path, labels: Any) -> NDArray[Any]:
    if isinstance(labels, _Array):
        return labels.made()
    if not isinstance(labels, list) or not all(type(label) is int and abs(label) < 1 << 62 for label in labels):
        raise ValueError(f"{str(file)!r} has labels that are no list of integers: download it again")
    return np.array(labels, np.int64)


def _pixels(pixels: Any) -> NDArray[Any]:
    return pixels.made() if isinstance(pixels, _Array) else np.empty(0)


def _unpickle(file: Path) -> Any:
    with open_regular(file) as stream:
        try:
            check_pickle(stream)
            stream.seek(0)
            return _ArraysOnly(stream, encoding="bytes").load()
        except (
            Exception
        ) as error:  # a broken pickle raises of all kinds: EOFError, KeyError, TypeError, UnpicklingError
            raise ValueError(f"{str(file)!r} is no CIFAR batch: {error}") from error


class _ArraysOnly(pickle.Unpickler):
    """Reads pickles of plain values and numpy arrays; refuses whatever else a pickle may ask to be called."""

    def find_class(self, module: str, name: str) -> Any:
        # a function made here each time: a pickle may set attributes of what it is given
        if name == "_reconstruct" and module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            return lambda *_: _Array()
        if module == "numpy" and name in ("ndarray", "dtype"):
            return lambda *arguments: _Type(*arguments)
        if (module, name) == ("_codecs", "encode"):  # how Python 3 writes bytes for Python 2
            return lambda text, *_: text.encode("latin1")
        raise pickle.UnpicklingError(
            f"it asks for {module}.{name}, but a file may build numpy arrays only and runs no code"
        )


class _Type:
    """A dtype, by the name that it was pickled with."""

    __slots__ = ("name", "order")

    def __init__(self, name: Any, *_: Any) -> None:
        self.name, self.order = name.decode("ascii") if isinstance(name, bytes) else name, "<"

    def __setstate__(self, state: Any) -> None:
        order = state[1]
        self.order = order.decode("ascii") if isinstance(order, bytes) else order


class _Array:
    """An array as it was pickled: its shape, its dtype, its bytes."""

    __slots__ = ("state",)

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def made(self) -> NDArray[Any]:
        """Raises `ValueError` for anything but whole numbers in rows."""
        try:
            _, shape, kind, by_columns, data = self.state
            order = {"|": "", "<": "<", ">": ">", "=": "="}[kind.order]
            if by_columns:
                raise ValueError("it lies by columns")
            sizes = [size for size in shape if type(size) is int and size >= 0]
            if len(sizes) != len(shape) or len(sizes) > 2:
                raise ValueError(f"its shape is {str(shape)[:60]}")
            return np.frombuffer(bytearray(data), order + NUMBERS[NUMBERS.index(kind.name)]).reshape(sizes)
        except Exception as error:  # of a crafted state anything may be missing
            raise ValueError(f"an array in it is none of whole numbers ({type(error).__name__}: {error})") from error
