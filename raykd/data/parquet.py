"""Parquet files as a source: a column of inputs, a column of labels, perhaps a column of ids.

    Parquet("s3://bucket/train/", shape=(3, 224, 224), classes=1000, input="image")

Shapes: N rows, K numbers of an input
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, cast

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from raykd.data import decode
from raykd.data.digest import file_digest, joint_digest
from raykd.data.rows import Rows, held
from raykd.data.source import PLACE, Source
from raykd.places import check_address

Chunks = list[pa.Array]


@dataclass(frozen=True)
class Parquet(Source):
    """One Parquet file or a folder of them in sorted order, local or any URL that fsspec opens.

    Inputs are lists of numbers, as many as `shape` has, or encoded images (bytes, or a struct with a field `bytes`), which
    are decoded and resized when they are gathered. The columns are held in memory, images in their encoded form.
    A folder is listed once per process. Remote files are read once more for the revision, and taken not to change meanwhile.
    """

    path: str = field(compare=False, metadata=PLACE)
    input: str = "input"
    """The column of inputs."""
    label: str = "label"
    """The column of labels, integers."""
    id: str | None = None
    """The column of ids, integers; None: an id is the row's position over all files."""
    shape: tuple[int, ...] = field(kw_only=True)
    """Of one input: (C, H, W) of uint8 images, or of float32 vectors (D,)."""
    classes: int = field(kw_only=True)

    def __post_init__(self) -> None:
        check_address(self.path)
        if len(self.shape) not in (1, 3) or min(self.shape) < 1:
            raise ValueError(f"Parquet has shape={self.shape}: (C, H, W) for images or (D,) for vectors")

    @property
    def revision(self) -> str:
        """A digest of the files' bytes in their order."""
        return joint_digest(_digest(url) for url in _urls(self.path))

    def libraries(self) -> dict[str, str]:
        """The decoder's versions, as the column may hold encoded images."""
        return decode.libraries() if len(self.shape) == 3 else {}

    def read(self) -> Rows:
        """The rows of all files. Raises `ValueError` for a missing file or column, types that do not fit, empty cells, and
        a row whose length does not fit the shape.
        """
        columns = [self.input, self.label] + ([] if self.id is None else [self.id])
        table = pa.concat_tables([_table(url, columns) for url in _urls(self.path)])
        labels_N = _integers(table, self.label)
        ids_N = np.arange(len(labels_N)) if self.id is None else _integers(table, self.id)
        return self._rows(_chunks(table, self.input, ids_N), ids_N, labels_N)

    def _rows(self, chunks: Chunks, ids_N: NDArray[np.int64], labels_N: NDArray[np.int64]) -> Rows:
        kind = chunks[0].type if chunks else pa.null()
        if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            return self._encoded(chunks, ids_N, labels_N)
        if _is_list(kind) or not chunks:
            return held(_numbers(chunks, self.input, self.shape, ids_N), labels_N, ids_N)
        raise ValueError(f"column {self.input!r} is {kind}: inputs are lists of numbers or the bytes of images")

    def _encoded(self, chunks: Chunks, ids_N: NDArray[np.int64], labels_N: NDArray[np.int64]) -> Rows:
        decode.check_image_shape(f"Parquet column {self.input!r}", self.shape)
        column = pa.chunked_array(chunks)

        def gather(places_B: NDArray[np.int64]) -> Tensor:
            images = [(column[int(place)].as_py(), f"the image of row {ids_N[place]}") for place in places_B]
            return torch.stack([decode.decode(image, self.shape, name=name) for image, name in images])

        return Rows(ids_N, labels_N, gather)


@lru_cache(maxsize=64)  # listing a bucket takes a request, and a view asks for its rows at every batch
def _urls(path: str) -> tuple[str, ...]:
    system, root = fsspec.core.url_to_fs(path)
    if not system.exists(root):
        raise ValueError(f"no file or folder {path!r}: Parquet reads one file or a folder of *.parquet")
    files = sorted(file for file in system.find(root) if file.endswith(".parquet")) if system.isdir(root) else [root]
    if not files:
        raise ValueError(f"the folder {path!r} has no *.parquet: Parquet reads one file or a folder of them")
    return tuple(system.unstrip_protocol(file) for file in files)


def _digest(url: str) -> str:
    return file_digest(Path(fsspec.core.url_to_fs(url)[1])) if url.startswith("file:") else _remote_digest(url)


@cache
def _remote_digest(url: str) -> str:
    with fsspec.open(url) as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _table(url: str, columns: Sequence[str]) -> pa.Table:
    with fsspec.open(url) as file:
        try:
            found = pq.ParquetFile(file)
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{url!r} is no Parquet file: {' '.join(str(error).split())[:200]}") from error
        for column in columns:
            if column not in found.schema_arrow.names:
                names = ", ".join(map(repr, found.schema_arrow.names))
                raise ValueError(f"{url!r} has no column {column!r}: its columns are {names}")
        try:
            return found.read(columns=list(columns))
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{url!r} is no whole Parquet file: {' '.join(str(error).split())[:200]}") from error


def _integers(table: pa.Table, column: str) -> NDArray[np.int64]:
    values = table.column(column)
    if not pa.types.is_integer(values.type):
        raise ValueError(f"column {column!r} is {values.type}: labels and ids are integers")
    if values.null_count:
        raise ValueError(f"column {column!r} has {values.null_count} empty cells: each row has a label and an id")
    return cast(NDArray[np.int64], values.cast(pa.int64()).to_numpy())


def _chunks(table: pa.Table, column: str, ids_N: NDArray[np.int64]) -> Chunks:
    chunks = table.column(column).chunks
    if chunks and pa.types.is_struct(chunks[0].type) and "bytes" in {inner.name for inner in chunks[0].type}:
        chunks = [chunk.field("bytes") for chunk in chunks]
    empty = np.flatnonzero(np.concatenate([chunk.is_null().to_numpy(zero_copy_only=False) for chunk in chunks] or [[]]))
    if len(empty):
        raise ValueError(f"row {ids_N[empty[0]]} has nothing in column {column!r}: each row has an input")
    return cast(Chunks, chunks)


def _numbers(chunks: Chunks, column: str, shape: tuple[int, ...], ids_N: NDArray[np.int64]) -> Tensor:
    """All inputs as one tensor: uint8 for a shape of an image, else float32. [N, *shape]"""
    kind, width = (pa.uint8() if len(shape) == 3 else pa.float32()), math.prod(shape)
    inputs_NK = np.empty((len(ids_N), width), kind.to_pandas_dtype())
    start = 0
    for chunk in chunks:
        lengths = _lengths(chunk)
        wrong = np.flatnonzero(lengths != width)
        if len(wrong):
            row = f"row {ids_N[start + wrong[0]]} has {lengths[wrong[0]]} numbers in column {column!r}"
            raise ValueError(f"{row}: the shape {shape} has {width}")
        inputs_NK[start : start + len(chunk)] = _cast(chunk.flatten(), kind, column).reshape(-1, width)
        start += len(chunk)
    return torch.from_numpy(inputs_NK).view(-1, *shape)


def _cast(values: pa.Array, kind: pa.DataType, column: str) -> NDArray[Any]:
    if values.null_count:
        raise ValueError(f"column {column!r} has {values.null_count} empty places inside its lists: inputs are numbers")
    try:
        return cast(NDArray[Any], values.cast(kind).to_numpy(zero_copy_only=False))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ValueError(f"column {column!r} does not hold {kind}, which its shape asks for: {error}") from error


def _lengths(chunk: pa.Array) -> NDArray[np.int64]:
    if pa.types.is_fixed_size_list(chunk.type):
        return np.full(len(chunk), chunk.type.list_size)
    return cast(NDArray[np.int64], np.diff(chunk.offsets.to_numpy()))


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))
