"""What every run and trial found, on the storage, for all that come later: a table that only grows.

    <root>/memory/v1/<sha256 of its bytes>.parquet       one writer's records, written once and whole

Any number of processes append and read at once: a name is that of its content, so nobody can overwrite another's records, and
the same ones appended twice are one file. Nothing in it is believed: bytes that are not those of their name never reach a
parser, and what is no table of ours is left where it lies, skipped and counted. A value is data; nothing of it is ever run.

Of several records of one training (the same recipe and stage) readers get one: a finished one before a stopped one before a
failed one, then the latest.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from raykd.places import Lease, Place, place
from raykd.printable import printable
from raykd.search.record import Record, Status

FORMAT = b"raykd-memory-v1"
FOLDER = "memory/v1"
LEASE = "leases/memory"
NAME = re.compile(r"([0-9a-f]{40})\.parquet")
LIMIT = 1 << 28  # bytes of a file; a record takes about a kilobyte
PACKED = 64  # bytes, or values, of a byte in a file: of equal records they are 10
DIGEST = 20  # bytes that the fingerprint of a record has, however it is packed
LOOKS = 16  # listings at most, where others write and merge all the time

NUMBERS = pa.map_(pa.string(), pa.float64())
SCHEMA = pa.schema(
    {
        "fingerprint": pa.string(),
        "recipe": pa.string(),
        "configuration": pa.string(),
        "features": NUMBERS,
        "curve": pa.list_(pa.float64()),
        "results": NUMBERS,
        "cost": pa.float64(),
        "time": pa.float64(),
        "status": pa.string(),
        "error": pa.string(),
    },
    metadata={"format": FORMAT},
)


@dataclass(frozen=True)
class Found:
    """What a look at the memory found."""

    records: list[Record]
    """In the order of their recipes and fingerprints, whoever wrote them in whatever order."""
    skipped: dict[str, str]
    """Files that were left out, and why, in one line each."""


class Memory:
    """The memory of a storage. Nothing is written before the first record; files that were read are remembered."""

    def __init__(self, root: str | Path) -> None:
        """`root` is the storage's: a folder that may not exist yet, or the URL of a bucket."""
        self._root = place(root)
        self._seen: dict[str, tuple[Record, ...]] = {}

    @property
    def place(self) -> Place:
        """Where its files lie."""
        return self._root.inner(FOLDER)

    def append(self, records: Iterable[Record]) -> None:
        """Add records, all of them or none. Raises `OSError`, naming the file, if the disk refuses them."""
        if ordered := _ordered(records):
            self._write(ordered)

    def read(self, recipe: str | None = None) -> list[Record]:
        """One record of each training, of this recipe or of all."""
        return [record for record in self.look().records if recipe in (None, record.recipe)]

    def look(self) -> Found:
        """The same of all recipes, with what was skipped."""
        files, skipped = self._files()
        return Found(_best(record for records in files.values() for record in records), skipped)

    def compact(self) -> int:
        """Merge all files into one; how many there are no more. Readers and writers go on meanwhile.

        Only what lies in the merged file too is removed, and of files that hold the same, whoever removes, the one of the
        first name stays. So nothing is lost, also if two do it at once, which the lease is to spare them.
        """
        lease = Lease.acquire(self._root, LEASE)
        if lease is None:
            return 0
        with lease:
            self.place.sweep("")
            files, _ = self._files()
            if len(files) < 2:
                return 0
            merged = _best(record for records in files.values() for record in records)
            target = self._write(merged)
            removed = [
                name
                for name, records in files.items()
                if name != target and not (name < target and _contents(records) == _contents(merged))
            ]
            for name in removed:
                self.place.remove(name)
        return len(removed)

    def _write(self, records: Sequence[Record]) -> str:
        data = _to_bytes(records)
        name = f"{_name(data)}.parquet"
        self.place.create(name, data)
        return name

    def _files(self) -> tuple[dict[str, tuple[Record, ...]], dict[str, str]]:
        """The records of every file, and the reasons for the files without any.

        Looks twice or more, until there is nothing new: a listing made while others merge may lack both what is gone and
        what came for it.
        """
        found: dict[str, tuple[Record, ...]] = {}
        skipped: dict[str, str] = {}
        for look in range(LOOKS):
            # a dot begins what a writer has not finished
            names = {name for name in self.place.names() if not name.startswith(".")}
            fresh = sorted(names - found.keys() - skipped.keys())
            if look and not fresh:
                break
            for name in fresh:
                try:
                    found[name] = self._seen[name] = self._seen.get(name) or _read(self.place, name)
                except FileNotFoundError:  # merged with others since it was listed
                    continue
                except ValueError as error:
                    skipped[name] = printable(f"{self.place}/{name} is skipped: {error}")
        return found, skipped


def _best(records: Iterable[Record]) -> list[Record]:
    """One of each training."""
    found: dict[tuple[str, str], Record] = {}
    for each in records:
        key = (each.recipe, each.fingerprint)
        if key not in found or _worth(each) > _worth(found[key]):
            found[key] = each
    return [found[key] for key in sorted(found)]


def _worth(record: Record) -> tuple[int, float, str]:
    return get_args(Status).index(record.status), record.time, record.content


def _ordered(records: Iterable[Record]) -> list[Record]:
    return sorted(records, key=lambda record: (record.recipe, record.fingerprint, _worth(record)))


def _contents(records: Iterable[Record]) -> list[str]:
    return sorted(record.content for record in records)


def _to_bytes(records: Sequence[Record]) -> bytes:
    def column(name: str) -> list[Any]:
        values = [getattr(record, name) for record in records]
        if name == "configuration":
            return [json.dumps(value, sort_keys=True) for value in values]
        return [list(value.items()) for value in values] if name in ("features", "results") else values

    table = pa.table({name: pa.array(column(name), SCHEMA.field(name).type) for name in SCHEMA.names}, schema=SCHEMA)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _name(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:40]


def _read(where: Place, name: str) -> tuple[Record, ...]:
    """The records in a file. Raises `ValueError` for anything that `_to_bytes` did not write under this name."""
    match = NAME.fullmatch(name)
    if match is None:
        raise ValueError("its name is not that of a file of records")
    data = where.read(name, limit=LIMIT)
    if _name(data) != match[1]:
        raise ValueError(f"its {len(data)} bytes are not those that it is named for")
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        found = file.schema_arrow
        if not found.equals(SCHEMA, check_metadata=False) or (found.metadata or {}).get(b"format") != FORMAT:
            raise ValueError(f"its columns are {', '.join(found.names)}, not those of {FORMAT.decode()}")
        _check_claims(file.metadata, len(data))
        return tuple(_record(row) for row in file.read().to_pylist())
    except Exception as error:  # of crafted bytes Arrow raises a dozen types; to a reader they are all one
        words = " ".join(str(error).split())[:200]
        raise ValueError(f"it is no table of records ({type(error).__name__}: {words})") from error


def _check_claims(said: pq.FileMetaData, size: int) -> None:
    """Raise `ValueError` for a file that would unpack to much more than it has."""
    groups = [said.row_group(i) for i in range(said.num_row_groups)]
    columns = [group.column(i) for group in groups for i in range(group.num_columns)]
    values = max((column.num_values for column in columns), default=0)
    unpacked = sum(column.total_uncompressed_size for column in columns)
    if said.num_rows * DIGEST > size or values > PACKED * size or unpacked > PACKED * size:
        raise ValueError(
            f"its {size} bytes say that they are {said.num_rows} records of {values} values in {unpacked} bytes"
        )


def _record(row: Mapping[str, Any]) -> Record:
    values = {each.name: row[each.name] for each in fields(Record)}
    pairs = {name: dict(values[name]) for name in ("features", "results")}
    return Record(**{**values, **pairs, "configuration": json.loads(values["configuration"])})
