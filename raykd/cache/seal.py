"""A seal: a checksum that covers the whole file it stands in.

    ... "raykd-seal-xxh3-128:" digest ... rows ... "raykd-seal-xxh3-128:" digest ...
         in the schema at the head                  in the schema at the foot

The digest is the xxh3_128 of all the file's bytes with both digests blank (zeros). Arrow writes the schema, and so the seal,
twice; whatever lies between the first and the last mark is data, even if it looks like a mark. A flipped bit, a cut,
appended bytes, a zeroed or swapped page: no byte is outside the digest, so none goes unseen. It guards against accidents;
xxh3 is no defence against a forger, who is left to what reads the file next.
"""

from __future__ import annotations

import numpy as np
import xxhash
from numpy.typing import NDArray

Bytes = bytes | bytearray | NDArray[np.uint8]
MARK = b"raykd-seal-xxh3-128:"
BLANK = b"0" * 32
EDGE = 1 << 14  # bytes at either end among which a mark is looked for; the schema takes 1 kB


class CorruptShard(ValueError):  # noqa: N818
    """The bytes under a shard's name are not what was committed there."""


def seal(data: bytearray) -> None:
    """Puts the digest of `data` in place of its two blanks; they must be there."""
    with memoryview(data) as view:
        head, foot = _places(view)
        assert view[head] == BLANK, "seal a file once"
        assert view[foot] == BLANK, "seal a file once"
        view[head] = view[foot] = _digest(view, head, foot)


def check_seal(data: Bytes) -> None:
    """Raises `CorruptShard` unless `data` is, byte by byte, what was sealed."""
    with _view(data) as view:
        head, foot = _places(view)
        digest = _digest(view, head, foot)
        if not view[head] == view[foot] == digest:
            found = bytes(view[head]).decode("ascii", "replace")
            raise CorruptShard(f"its bytes have the checksum {digest.decode()}, its seal says {found!r}")


def _view(data: Bytes) -> memoryview:
    return data.data if isinstance(data, np.ndarray) else memoryview(data)


def _places(view: memoryview) -> tuple[slice, slice]:
    start = max(0, len(view) - EDGE)
    head, foot = bytes(view[:EDGE]).find(MARK), bytes(view[start:]).rfind(MARK)
    head, foot = head + len(MARK), start + foot + len(MARK)
    # a mark that is not found is at -1, so without marks head and foot coincide too, or the foot does not fit
    if head < len(MARK) or head + len(BLANK) > foot - len(MARK) or foot + len(BLANK) > len(view):
        raise CorruptShard(f"its {len(view)} bytes bear no seal at head and foot")
    return slice(head, head + len(BLANK)), slice(foot, foot + len(BLANK))


def _digest(view: memoryview, head: slice, foot: slice) -> bytes:
    state = xxhash.xxh3_128(view[: head.start])
    for part in (BLANK, view[head.stop : foot.start], BLANK, view[foot.stop :]):
        state.update(part)
    return state.hexdigest().encode()
