"""An entry as a folder or a tar file, to publish and to take in.

    entry.json                        the record, which has the key
    views/<replica>/<shard>.arrow     Arrow files that any reader opens
    SHA256SUMS                        of all the others, for `sha256sum -c`             and nothing else

In a tar file all of it lies in a folder named by the key. Whoever takes one in believes nothing: every name, size, checksum,
seal and row id is checked before the first byte is committed. Then shards are committed one by one, as by anybody who fills the
entry: what is there already stays.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np

from raykd.cache.arrow import from_bytes
from raykd.cache.codecs import codec_of
from raykd.cache.entry import Entry
from raykd.cache.parts import SUMS, Part, opened, read, stated
from raykd.cache.record import LIMIT, Record, adopt, parse, read_record
from raykd.cache.record import NAME as RECORD
from raykd.cache.seal import CorruptShard
from raykd.cache.shard import Slot
from raykd.cache.shards import SHARD_NAME, Shards
from raykd.cache.store import SignalCache
from raykd.printable import printable

Put = Callable[[str, bytes], None]


@dataclass(frozen=True)
class Moved:
    """What an export wrote, or what an archive held."""

    entry: str
    shards: int
    rows: int
    bytes: int
    """Of the shards."""
    new: int
    """Shards that were not there before."""


def export_entry(entry: Entry, path: Path, *, incomplete: bool = False) -> Moved:
    """Write an entry to `path`: one tar file if it ends in .tar, else a folder. It is there whole or not at all.

    Raises `ValueError` if something is at `path`, for a shard that is corrupt, for an entry without shards, and, unless
    `incomplete` ones are welcome, for one that lacks shards of a replica.
    """
    if os.path.lexists(path):
        raise ValueError(f"{path} exists, and nothing is written over: name another path")
    slots = _slots(entry, incomplete)
    sums, size = [], 0
    with _written(path, entry.key_digest) as put:
        for name, data in _files(entry, slots):
            put(name, data)
            sums.append(f"{hashlib.sha256(data).hexdigest()}  {name}\n")
            size += len(data) if name != RECORD else 0
        put(SUMS, "".join(sums).encode())
    rows = sum(len(entry.positions(slot)) for slot in slots)
    return Moved(entry.key_digest, len(slots), rows, size, len(slots))


def import_entry(cache: SignalCache, path: Path) -> Moved:
    """Take in what `export_entry` wrote. Shards that the cache has already stay as they are, so twice is once.

    Raises `ValueError`, and has committed nothing, for anything that `export_entry` would not have written, and where the
    cache has the same entry cut into other shards.
    """
    try:
        with opened(path) as parts:
            sums = stated(parts)
            record = _record(read(parts, sums, RECORD, LIMIT))
            shards = Shards(cache.folder(record.name), record, codec_of(record.key.get("codec")), None)
            slots = _shards(parts)
            _check_shards(parts, sums, shards, slots)
            _check_layout(shards)
            adopt(shards.place, record)
            # read once more, because all of them need not fit in memory
            files = ((slot.name, read(parts, sums, slot.name, shards.header(slot).limit)) for slot in slots)
            new = sum(shards.place.create(name, data) for name, data in files)
    except OSError:
        raise
    except Exception as error:  # of crafted bytes tarfile raises half a dozen types, RecursionError among them
        raise ValueError(f"{path} is not taken in: {printable(str(error))}") from error
    rows = sum(len(shards.positions(slot)) for slot in slots)
    return Moved(record.name, len(slots), rows, sum(parts[slot.name].size for slot in slots), new)


def _slots(entry: Entry, incomplete: bool) -> list[Slot]:
    """The shards to export."""
    slots = list(entry.shards.committed())
    replicas = max((slot.replica + 1 for slot in slots), default=0)
    if not slots:
        raise ValueError(f"the entry {entry.key_digest} has no shard yet: there is nothing to export")
    lacking = entry.shards.per_replica * replicas - len(slots)
    if lacking and not incomplete:
        raise ValueError(
            f"the entry {entry.key_digest} lacks {lacking} shards of its {replicas} replicas: fill it first, or --partial"
        )
    return slots


def _files(entry: Entry, slots: list[Slot]) -> Iterator[tuple[str, bytes]]:
    """The files of an export but the sums, checked."""
    yield RECORD, entry.record.to_bytes()
    for slot in slots:
        header = entry.shards.header(slot)
        try:
            data = entry.place.read(slot.name, limit=header.limit)
            from_bytes(header, data)
        except ValueError as error:
            raise ValueError(f"{entry.place}/{slot.name}: {error}; `raykd cache verify` sets it aside") from error
        yield slot.name, data


@contextmanager
def _written(path: Path, key: str) -> Iterator[Put]:
    """Takes the files of an export, and gives them their place at the end."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        if path.suffix == ".tar":
            with tarfile.open(temporary, "x", format=tarfile.USTAR_FORMAT) as tar:
                yield partial(_put_member, tar, key)
            os.link(temporary, path)
        else:
            temporary.mkdir()
            yield partial(_put_file, temporary)
            temporary.rename(path)
    except (FileExistsError, NotADirectoryError):
        raise ValueError(f"{path} was written by another meanwhile: name another path") from None
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        temporary.unlink(missing_ok=True)


def _put_member(tar: tarfile.TarFile, key: str, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(f"{key}/{name}")  # no owner and no time: equal entries are equal archives
    member.size = len(data)
    tar.addfile(member, BytesIO(data))


def _put_file(folder: Path, name: str, data: bytes) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _record(data: bytes) -> Record:
    try:
        record = parse(data)
        _ = record.name, record.shape
    except Exception as error:  # JSON of any shape or depth: whatever fails, it is no record of ours
        raise ValueError(f"{RECORD} is no record of a cache entry ({type(error).__name__}: {error})") from error
    return record


def _shards(parts: Mapping[str, Part]) -> list[Slot]:
    """The shards of an archive, in order."""
    matches = (SHARD_NAME.fullmatch(name) for name in sorted(parts))
    slots = [Slot(int(match[1]), int(match[2])) for match in matches if match]
    if not slots:
        raise ValueError("it has no shard")
    return slots


def _check_shards(parts: Mapping[str, Part], sums: Mapping[str, str], shards: Shards, slots: list[Slot]) -> None:
    """Raise `ValueError` unless every shard is one of this entry, with the same row ids in every replica."""
    shards.own_codec().check(shards.record.shape)
    ids_of: dict[int, bytes] = {}
    """Sha256 of the row ids of each run of rows."""
    digests = {slot.replica: hashlib.sha256() for slot in slots}
    for slot in slots:
        header = shards.header(slot)
        try:
            rows = from_bytes(header, read(parts, sums, slot.name, header.limit))
        except CorruptShard as error:
            raise ValueError(f"{slot.name}: {error}") from error
        ids = np.ascontiguousarray(rows.ids_R, "<i8").tobytes()
        digests[slot.replica].update(ids)
        digest = hashlib.sha256(ids).digest()
        if ids_of.setdefault(slot.index, digest) != digest:
            raise ValueError(f"{slot.name} has other row ids than the same shard of another replica")
    counts = Counter(slot.replica for slot in slots)
    for replica, total in digests.items():
        if counts[replica] == shards.per_replica and total.hexdigest() != shards.record.key.get("ids"):
            raise ValueError(f"the row ids of replica {replica} are not those of the entry's key")


def _check_layout(shards: Shards) -> None:
    """Raise `ValueError` if the cache has the entry in shards of another size."""
    if not shards.place.exists(RECORD):
        return
    ours, theirs = read_record(shards.place).rows_per_shard, shards.record.rows_per_shard
    if ours != theirs:
        raise ValueError(f"its shards have {theirs} rows, those of the same entry in {shards.place} have {ours}")
