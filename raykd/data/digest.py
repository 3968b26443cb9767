"""The content of a file as a digest: what a source is, wherever it lies.

A file is read once per process as long as its path, size and time of change stay the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path


def file_digest(path: Path) -> str:
    """Sha256 of the file's bytes, in hexadecimal. Raises `ValueError` if there is no such file."""
    if not path.is_file():
        raise ValueError(f"no file {str(path)!r}: put it there, or name the folder that holds it")
    place = path.absolute()
    stat = place.stat()
    return _sha256(place, stat.st_mtime_ns, stat.st_size)


def joint_digest(digests: Iterable[str]) -> str:
    """One digest for several, in their order."""
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


@cache
def _sha256(path: Path, mtime_ns: int, size: int) -> str:  # noqa: ARG001  # the time and size only tell versions apart
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
