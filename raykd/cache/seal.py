"""A seal: a checksum that covers the whole file it stands in.

    ... "raykd-seal-xxh3-128:" digest ... rows ... "raykd-seal-xxh3-128:" digest ...
         in the schema at the head                  in the schema at the foot

The digest is the xxh3_128 of all the file's bytes with both digests blank (zeros). Arrow writes the schema, and so the seal,
twice; whatever lies between the first and the last mark is data, even if it looks like a mark. A flipped bit, a cut,
appended bytes, a zeroed or swapped page: no byte is outside the digest, so none goes unseen. It guards against accidents;
xxh3 is no defence against a forger, who is left to what reads the file next.
"""

from __future__ import annotations

import xxhash

MARK = b"raykd-seal-xxh3-128:"
BLANK = b"0" * 32


class CorruptShard(ValueError):  # noqa: N818
    """The bytes under a shard's name are not what was committed there."""


def seal(data: bytearray) -> None:
    """Puts the digest of `data` in place of its two blanks; they must be there."""
    head, foot = _places(data)
    assert data[head] == BLANK, "seal a file once"
    assert data[foot] == BLANK, "seal a file once"
    data[head] = data[foot] = _digest(data, head, foot)


def check_seal(data: bytes | bytearray) -> None:
    """Raises `CorruptShard` unless `data` is, byte by byte, what was sealed."""
    head, foot = _places(data)
    digest = _digest(data, head, foot)
    if not data[head] == data[foot] == digest:
        found = data[head].decode("ascii", "replace")
        raise CorruptShard(f"its bytes have the checksum {digest.decode()}, its seal says {found!r}")


def _places(data: bytes | bytearray) -> tuple[slice, slice]:
    head, foot = data.find(MARK) + len(MARK), data.rfind(MARK) + len(MARK)
    # a mark that is not found is at -1, so without marks head and foot coincide too
    if head + len(BLANK) > foot - len(MARK) or foot + len(BLANK) > len(data):
        raise CorruptShard(f"its {len(data)} bytes bear no seal at head and foot")
    return slice(head, head + len(BLANK)), slice(foot, foot + len(BLANK))


def _digest(data: bytes | bytearray, head: slice, foot: slice) -> bytes:
    with memoryview(data) as view:
        state = xxhash.xxh3_128(view[: head.start])
        for part in (BLANK, view[head.stop : foot.start], BLANK, view[foot.stop :]):
            state.update(part)
    return state.hexdigest().encode()
