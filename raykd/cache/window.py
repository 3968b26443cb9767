"""A window: one range of addresses onto many files, so that the rows of all of them are one array and nothing is copied.

    reserve   mmap(parts x stride, nothing behind it)           part p begins at  base + p * stride
    show      mmap(file, over part p)                           its row r is at   base + p * stride + offset + r * bytes
    array     [n, width] over base + offset                     and row           p * (stride / bytes) + r  of the array

With a stride that is a multiple of a page and of the bytes of a row, one `np.take` gathers rows of any parts, and opening
copies nothing. Files of 2 MB and more begin at multiples of 2 MB: what a file system keeps in large folios (ext4 since Linux
6.16, xfs) is then shown by huge pages. Beside one array in RAM a take of [256, 1000] float16 from 120,000 rows in 59 files
runs at .96, from pages of 4 kB at .80-.94, from pages not entered into the table at once at .85; a Python loop over the
mappings of 16 files runs at .08-.33.

A mapping is only as good as its file: one that shrinks under it ends the process with a SIGBUS. Files of a cache never
shrink: a committed shard is immutable, and a bad one is renamed, which leaves the mapped file as it is. A disk that fails
while a page is read from it ends the process too.

Where files cannot be mapped (not Linux, too many mappings) they are copied to the same place.
"""

from __future__ import annotations

import ctypes
import functools
import math
import mmap
import os
import sys
import weakref
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESERVE = 0x4022  # MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE
SHOW = 0x11  # MAP_SHARED | MAP_FIXED
EMPTY = RESERVE | 0x10  # ... | MAP_FIXED
FAILED = ctypes.c_void_p(-1).value
HUGE = 1 << 21  # bytes of a huge page
RANGE = 1 << 43  # bytes of addresses that a window may take for the sake of huge pages; a process has 2^47
POPULATE_READ = 22  # MADV_POPULATE_READ; a kernel before 5.14 refuses it, and pages come one by one


class Window:
    """A range of `parts` times `stride` bytes. It lives as long as any array made of it."""

    def __init__(self, parts: int, stride: int) -> None:
        assert stride % mmap.PAGESIZE == 0, "a file is shown from the beginning of a page"
        size = parts * stride
        self.parts, self.stride = parts, stride
        self._shown: set[int] = set()
        start = _map(None, size + HUGE, mmap.PROT_READ | mmap.PROT_WRITE, RESERVE, -1)
        self._base = None if start is None else -(-start // HUGE) * HUGE
        if self._base is None:
            self._bytes = np.empty(size, np.uint8)
        else:
            memory = (ctypes.c_ubyte * size).from_address(self._base)
            # every array refers to `memory`; at exit the system does it, when no thread reads any more
            weakref.finalize(memory, _libc().munmap, start, size + HUGE).atexit = False
            self._bytes = np.frombuffer(memoryview(memory), np.uint8)

    def show(self, part: int, file: int, size: int) -> NDArray[np.uint8]:
        """The bytes of an open file, now in this part. At most `stride`, and as many as the file has."""
        assert size <= self.stride, "a part has room for a file"
        # as long as the part, beyond the file's end: a mapping for each file, none for the gaps, for a process may have 65,530
        if self._base is None or _map(self._base + part * self.stride, self.stride, mmap.PROT_READ, SHOW, file) is None:
            found = self.clear(part)[:size]
            with os.fdopen(file, "rb", closefd=False) as source:
                source.readinto(found.data)
            return found
        self._shown.add(part)
        _libc().madvise(self._base + part * self.stride, -(-size // mmap.PAGESIZE) * mmap.PAGESIZE, POPULATE_READ)
        found = self._part(part)[:size]
        found.flags.writeable = False
        return found

    def clear(self, part: int) -> NDArray[np.uint8]:
        """The part as memory of this process, to be written. Raises `OSError` if the system has no mapping left for it."""
        if part in self._shown:
            assert self._base is not None, "files are shown in a range that was reserved"
            writable = mmap.PROT_READ | mmap.PROT_WRITE
            if _map(self._base + part * self.stride, self.stride, writable, EMPTY, -1) is None:
                raise OSError("a shard cannot be mapped: raise vm.max_map_count, or take more rows per shard")
            self._shown.remove(part)
        return self._part(part)

    def write(self, rows: NDArray[Any], values: NDArray[Any]) -> None:
        """Puts values in the place of `rows`, which are some of an array over this window in a part that was cleared."""
        start = rows.ctypes.data - self._bytes.ctypes.data
        self._bytes[start : start + values.nbytes] = values.reshape(-1).view(np.uint8)

    def array(self, offset: int, dtype: np.dtype[Any], width: int) -> NDArray[Any]:
        """Rows of `width` numbers: the first of part p, `offset` bytes from its beginning, is row p * stride / bytes of a row.

        Only rows that lie in a file or were written may be read.
        """
        size = dtype.itemsize * width
        assert self.stride % size == 0, "rows lie at the same places in all parts"
        rows = (self.parts * self.stride - offset) // size
        array = self._bytes[offset : offset + rows * size].view(dtype).reshape(rows, width)
        array.flags.writeable = False
        return array

    def _part(self, part: int) -> NDArray[np.uint8]:
        return self._bytes[part * self.stride : (part + 1) * self.stride]


def stride_for(parts: int, size: int, rows: Iterable[int]) -> int:
    """The stride of a window for `parts` files of up to `size` bytes with columns of these bytes a row."""
    rows = list(rows)
    small, huge = (-(-size // step) * step for step in (math.lcm(page, *rows) for page in (mmap.PAGESIZE, HUGE)))
    return huge if size >= HUGE and parts * huge <= RANGE and sys.platform == "linux" else small


def _map(address: int | None, size: int, protection: int, flags: int, file: int) -> int | None:
    """Where the mapping is; None if there can be none."""
    if sys.platform != "linux":
        return None
    found: int | None = _libc().mmap(address, size, protection, flags, file, 0)
    return None if found == FAILED else found


@functools.cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None)
    libc.mmap.restype = ctypes.c_void_p
    numbers = [ctypes.c_int] * 3
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *numbers, ctypes.c_long]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return libc
