"""What an Arrow file says of its record batches, read from its own bytes before Arrow acts on any of it.

    "ARROW1" ... message, body, message, body ... footer, its length, "ARROW1"
    footer   {version, schema, dictionaries [Block], record batches [Block], metadata}      Block = offset, head, body
    message  {version, kind, record batch {rows, nodes, buffers, compression, ...}, body}

Arrow unpacks a batch that says it is compressed: a gigabyte from a megabyte. No shard is, so one that says so is refused here.
Both tables are flatbuffers: a table begins with the distance back to its list of fields, and that has the place of each field.

Source: the formats, arrow.apache.org/docs/format/Columnar.html (File.fbs, Message.fbs) and flatbuffers.dev (internals).
"""

from __future__ import annotations

import struct

from raykd.cache.seal import Bytes, CorruptShard

MAGIC = b"ARROW1"
DICTIONARIES, BATCHES = 2, 3  # fields of a footer
HEADER = 2  # of a message
COMPRESSION = 3  # of a record batch
LONGEST = 1 << 16  # bytes of a footer or of a message's head; they take 1 kB
CONTINUED = b"\xff\xff\xff\xff"


def check_framing(data: Bytes) -> None:
    """Raise `CorruptShard` unless it is an Arrow file of one record batch that is not compressed, and of no dictionaries.

    Raises `struct.error` or `IndexError` for what ends too early.
    """
    view = memoryview(data)  # type: ignore[arg-type]  # numpy's arrays are buffers
    if bytes(view[:6]) != MAGIC or bytes(view[-6:]) != MAGIC:
        raise CorruptShard("it does not begin and end as an Arrow file")
    (length,) = struct.unpack_from("<i", view, len(view) - 10)
    start = len(view) - 10 - length
    if not 0 < length <= LONGEST or start < 8:
        raise CorruptShard(f"its footer has {length} bytes")
    footer = _Table.root(bytes(view[start : len(view) - 10]))
    if footer.count(DICTIONARIES) or footer.count(BATCHES) != 1:
        found = f"{footer.count(BATCHES)} record batches and {footer.count(DICTIONARIES)} dictionaries"
        raise CorruptShard(f"it has {found}, not one batch alone")
    offset, head, _, _ = struct.unpack_from("<qiiq", footer.data, footer.vector(BATCHES) + 4)
    if not (0 < head <= LONGEST and 8 <= offset <= start - head):
        raise CorruptShard(f"its record batch has a head of {head} bytes at byte {offset}")
    message = bytes(view[offset : offset + head])
    batch = _Table.root(message[8:] if message[:4] == CONTINUED else message[4:]).table(HEADER)
    if batch is None or batch.field(COMPRESSION):
        raise CorruptShard("its record batch is compressed, that of a shard is not")


class _Table:
    """A table of a flatbuffer."""

    def __init__(self, data: bytes, start: int) -> None:
        self.data, self.start = data, start
        self.fields = start - struct.unpack_from("<i", data, start)[0]
        if self.fields < 0 or start < 0:
            raise CorruptShard("its framing points outside of itself")

    @staticmethod
    def root(data: bytes) -> _Table:
        """The table that a buffer begins with."""
        return _Table(data, struct.unpack_from("<I", data, 0)[0])

    def field(self, number: int) -> int:
        """Where a field lies; 0 if it is not there."""
        (size,) = struct.unpack_from("<H", self.data, self.fields)
        place = 4 + 2 * number
        offset = struct.unpack_from("<H", self.data, self.fields + place)[0] if place < size else 0
        return self.start + int(offset) if offset else 0

    def table(self, number: int) -> _Table | None:
        """The table in a field."""
        place = self.field(number)
        return _Table(self.data, place + struct.unpack_from("<I", self.data, place)[0]) if place else None

    def vector(self, number: int) -> int:
        """Where the length of a vector stands; its elements follow."""
        place = self.field(number)
        return place + int(struct.unpack_from("<I", self.data, place)[0])

    def count(self, number: int) -> int:
        """Elements of a vector; 0 if it is not there."""
        return int(struct.unpack_from("<I", self.data, self.vector(number))[0]) if self.field(number) else 0
