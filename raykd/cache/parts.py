"""The files of an archive of an entry, of which nothing is believed: neither a name, nor a size, nor a checksum.

opened(path) -> {name: Part}      a folder or a tar file, of which every file may be there
stated(parts) -> {name: sha256}   what SHA256SUMS says, of exactly these files
read(parts, sums, name)           bytes that have the stated checksum
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import tarfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from raykd.cache.record import NAME as RECORD
from raykd.cache.shards import SHARD_NAME

SUMS = "SHA256SUMS"
SUMS_LIMIT = 1 << 28  # bytes; a line takes 97
LINE = re.compile(r"([0-9a-f]{64})  (\S+)")
KEY = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Part:
    """A file of an archive that was not read yet."""

    size: int
    read: Callable[[], bytes]


@contextmanager
def opened(path: Path) -> Iterator[Mapping[str, Part]]:
    """The files of an archive by name, of which every one may be there."""
    if path.is_dir():
        yield _named(_folder_parts(path))
    elif path.is_file():
        with tarfile.open(path, "r:") as tar:
            yield _named(_tar_parts(tar))
    else:
        raise ValueError("there is no such file or folder")


def _folder_parts(root: Path) -> Iterator[tuple[str, Part]]:
    for base, folders, names in os.walk(root):
        for each in (*names, *folders):
            path = Path(base, each)
            status = path.lstat()
            if stat.S_ISREG(status.st_mode):
                yield path.relative_to(root).as_posix(), Part(status.st_size, path.read_bytes)
            elif not stat.S_ISDIR(status.st_mode):
                raise ValueError(f"{path.relative_to(root)} is no regular file: an archive has no links or devices")


def _tar_parts(tar: tarfile.TarFile) -> Iterator[tuple[str, Part]]:
    top = None
    for member in tar:
        if member.type != tarfile.REGTYPE or member.sparse is not None:
            raise ValueError(f"{member.name!r} is no regular file: an archive has no folders, links or devices")
        folder, _, name = member.name.partition("/")
        if top not in (None, folder) or not KEY.fullmatch(folder):
            raise ValueError(f"{member.name!r} does not lie in the one folder that is named by the entry's key")
        top = folder
        yield name, Part(member.size, partial(_extract, tar, member))


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None, "it is a regular file"
    return file.read()


def _named(parts: Iterator[tuple[str, Part]]) -> dict[str, Part]:
    found: dict[str, Part] = {}
    for name, part in parts:
        if name not in (RECORD, SUMS) and not SHARD_NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no file of an entry: {RECORD}, {SUMS} and views/<replica>/<shard>.arrow are")
        if name in found:
            raise ValueError(f"it has {name} twice")
        found[name] = part
    return found


def stated(parts: Mapping[str, Part]) -> dict[str, str]:
    """Checksum of each file but the sums; all of them are there, and no other."""
    text = _limited(parts, SUMS, SUMS_LIMIT).decode("ascii")
    sums: dict[str, str] = {}
    for line in text.splitlines():
        match = LINE.fullmatch(line)
        if match is None or match[2] in sums:
            raise ValueError(f"{SUMS} has the line {line[:120]!r}: 64 digits and a name, each once, would be right")
        sums[match[2]] = match[1]
    if odd := sorted(sums.keys() ^ (parts.keys() - {SUMS})):
        where = "in the archive and not" if odd[0] in parts else "not in the archive and"
        raise ValueError(f"{odd[0]} is {where} in {SUMS}")
    return sums


def _limited(parts: Mapping[str, Part], name: str, limit: int) -> bytes:
    if name not in parts:
        raise ValueError(f"it has no {name}")
    if parts[name].size > limit:
        raise ValueError(f"{name} has {parts[name].size} bytes, more than the {limit} that it could have")
    return parts[name].read()


def read(parts: Mapping[str, Part], sums: Mapping[str, str], name: str, limit: int) -> bytes:
    """The bytes of a file, with the checksum that was stated."""
    data = _limited(parts, name, limit)
    found = hashlib.sha256(data).hexdigest()
    if found != sums[name]:
        raise ValueError(f"{name} has the checksum {found}, {SUMS} says {sums[name]}")
    return data
