"""The file of a shard: Arrow IPC, one record batch, columns of fixed width without nulls, sealed.

    id int64 | checksum uint64 | the codec's columns, each FixedSizeList<number>[width]
    schema metadata: entry, replica, shard, rows, shape, codec, seal

Its numbers have a fixed width, so that in all shards of as many rows a column begins at the same byte. Any Arrow reader can
open it. Ours believes nothing: the seal covers every byte, and then the schema, its metadata included, must be the one that
the file's name demands. So another slot's or entry's shard under this name is corrupt as well.

R rows of the shard.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raykd.cache.codecs import Codec
from raykd.cache.framing import check_framing
from raykd.cache.seal import BLANK, MARK, Bytes, CorruptShard, check_seal, seal
from raykd.cache.shard import Rows, Slot

SEAL = b"seal"
FRAMING = 1 << 16  # bytes beside the rows: twice the schema and a few paddings, 1.5 kB in practice


@dataclass(frozen=True)
class Header:
    """What a shard's file says of itself, and what it must say under its name."""

    entry: str
    slot: Slot
    rows: int
    shape: tuple[int, ...]
    codec: Codec

    @property
    def limit(self) -> int:
        """Bytes that the file cannot exceed."""
        return self.rows * (16 + self.codec.bytes_per_row(self.shape)) + FRAMING

    def metadata(self) -> dict[bytes, bytes]:
        """The schema's metadata, its seal still blank."""
        texts = {
            "entry": self.entry,
            "replica": f"{self.slot.replica:05d}",
            "shard": f"{self.slot.index:08d}",
            "rows": f"{self.rows:010d}",
            "shape": " ".join(map(str, self.shape)),
            "codec": f"{self.codec.name}/{self.codec.version}",
        }
        return {**{key.encode(): text.encode() for key, text in texts.items()}, SEAL: MARK + BLANK}

    def schema(self) -> Any:
        """The `pyarrow.Schema` of the file, without metadata."""
        fields = [pa.field("id", pa.int64(), nullable=False), pa.field("checksum", pa.uint64(), nullable=False)]
        for column in self.codec.columns(self.shape):
            item = pa.field("item", pa.from_numpy_dtype(column.dtype), nullable=False)
            fields.append(pa.field(column.name, pa.list_(item, column.width), nullable=False))
        return pa.schema(fields)


def to_bytes(header: Header, rows: Rows) -> bytearray:
    """The sealed file. Takes twice its size in memory."""
    schema = header.schema().with_metadata(header.metadata())
    arrays = [pa.array(rows.ids_R), pa.array(rows.checksums_R)]
    for field in list(schema)[2:]:
        numbers = pa.array(np.ascontiguousarray(rows.columns[field.name]).reshape(-1))
        arrays.append(pa.FixedSizeListArray.from_arrays(numbers, type=field.type))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema) as file:
        file.write_batch(pa.record_batch(arrays, schema=schema))
    data = bytearray(sink.getvalue())
    seal(data)
    return data


def from_bytes(header: Header, data: Bytes, check: Callable[[Bytes], None] = check_seal) -> Rows:
    """The rows of a file, as views of `data`. A caller that knows the seal to be good passes another `check`.

    Raises `CorruptShard`, and nothing else, for any bytes that are not a sealed file with this header.
    """
    try:
        check(data)
        return _rows(header, data)
    except CorruptShard:
        raise
    except Exception as error:  # on crafted bytes Arrow raises a dozen types; to a reader they are all one
        raise CorruptShard(f"it is no Arrow file of a shard: {type(error).__name__}: {error}") from error


def layout(header: Header) -> tuple[int, dict[str, int]]:
    """Bytes of a file with this header, and the byte at which each column but `id` begins, found in one of zeros."""
    count = header.rows
    columns = {c.name: np.zeros((count, c.width), c.dtype) for c in header.codec.columns(header.shape)}
    file = np.frombuffer(
        to_bytes(header, Rows(np.zeros(count, np.int64), np.zeros(count, np.uint64), columns)), np.uint8
    )
    rows = from_bytes(header, file)
    found = {"checksum": rows.checksums_R, **rows.columns}
    return len(file), {name: array.ctypes.data - file.ctypes.data for name, array in found.items()}


def _rows(header: Header, data: Bytes) -> Rows:
    file = pa.ipc.open_file(pa.py_buffer(data))
    _check_schema(header, file.schema)
    check_framing(data)
    if file.num_record_batches != 1:
        raise CorruptShard(f"it has {file.num_record_batches} record batches, not one")
    batch = file.get_batch(0)
    batch.validate(full=True)
    if batch.num_rows != header.rows:
        raise CorruptShard(f"it has {batch.num_rows} rows, the slot has {header.rows}")
    columns = {
        column.name: _numbers(batch.column(column.name).flatten()).reshape(header.rows, column.width)
        for column in header.codec.columns(header.shape)
    }
    return Rows(_numbers(batch.column("id")), _numbers(batch.column("checksum")), columns)


def _check_schema(header: Header, schema: Any) -> None:
    expected, found = header.metadata(), dict(schema.metadata or {})
    for key in expected.keys() - {SEAL}:
        if found.get(key) != expected[key]:
            raise CorruptShard(
                f"its {key.decode()} is {found.get(key)!r}, under this name it must be {expected[key]!r}"
            )
    if not schema.remove_metadata().equals(header.schema(), check_metadata=True):
        columns = ", ".join(f"{field.name} {field.type}" for field in schema)
        raise CorruptShard(f"its columns are {columns}, not those of {header.codec.name} for rows {list(header.shape)}")


def _numbers(array: Any) -> NDArray[Any]:
    if array.null_count:
        raise CorruptShard(f"it has {array.null_count} nulls, a shard has none")
    numbers: NDArray[Any] = array.to_numpy(zero_copy_only=True)
    return numbers
