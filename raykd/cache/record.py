"""The record of an entry, `entry.json`: what the entry is (its key) and how it lies on disk (its layout).

    {"format", "key": {"content", "ids", "shape", "codec"}, "layout": {"rows", "rows_per_shard"}, "about", "checksum"}

The key names the folder; layout and `about` are decided by whoever comes first, and later comers adopt them. The checksum
covers all the rest, so that a flipped bit in the layout does not condemn every shard of the entry.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from raykd.identity import digest
from raykd.places import Place

FORMAT = "raykd-cache-v1"
NAME = "entry.json"
LIMIT = 1 << 24  # bytes of an entry.json; a spec takes a few kilobytes
LARGEST, DIMENSIONS = 1 << 40, 16


class ForeignEntry(ValueError):  # noqa: N818
    """The folder of an entry holds something else, or its record cannot be read. It is never overwritten."""


@dataclass(frozen=True)
class Record:
    """The content of `entry.json`."""

    key: Mapping[str, Any]
    """Canonical JSON: `content` (the caller's key), `ids` (sha256 of the ordered row ids), `shape`, `codec`."""
    rows: int
    """Rows of one replica."""
    rows_per_shard: int
    about: Mapping[str, str]
    """Words for people; they are no identity."""

    def __post_init__(self) -> None:
        if not isinstance(self.key.get("shape"), list) or len(self.key["shape"]) > DIMENSIONS:
            raise ValueError(f"shape is {str(self.key.get('shape'))[:80]}: a list of sizes would be right")
        counts = {"rows": self.rows, "rows_per_shard": self.rows_per_shard, "shape": self.key["shape"]}
        for name, count in counts.items():
            for size in count if isinstance(count, list) else [count]:
                if type(size) is not int or not 1 <= size <= LARGEST:
                    raise ValueError(f"{name} is {str(count)[:80]}: rows and sizes are whole numbers from 1 to 2^40")
        if not all(isinstance(text, str) for pair in self.about.items() for text in pair):
            raise ValueError(f"about is {self.about!r}: it maps names to texts")

    @cached_property
    def name(self) -> str:
        """The fingerprint of the key: 40 hexadecimal digits."""
        return digest(self.key)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one row's values."""
        return tuple(self.key["shape"])

    def to_bytes(self) -> bytes:
        """The text of `entry.json`."""
        body = self._body()
        return (json.dumps({**body, "checksum": digest(body)}, indent=1) + "\n").encode()

    def _body(self) -> dict[str, Any]:
        layout = {"rows": self.rows, "rows_per_shard": self.rows_per_shard}
        return {"format": FORMAT, "key": dict(self.key), "layout": layout, "about": dict(self.about)}


def adopt(place: Place, record: Record) -> Record:
    """The record of the entry at `place`: the stored one, or `record`, stored now, if there was none.

    Raises `ForeignEntry` if the stored one cannot be read or has another key, `OSError` if ours cannot be stored.
    """
    if not place.exists(NAME):
        place.create(NAME, record.to_bytes())
    stored = read_record(place)
    if stored.rows != record.rows:  # the key fixes the rows, so only a forged record differs
        raise ForeignEntry(
            f"{place}/{NAME} speaks of {stored.rows} rows, the key of {record.rows}; move the folder away"
        )
    return stored


def read_record(place: Place) -> Record:
    """The record of the entry at `place`, whose last name is that of the entry.

    Raises `ForeignEntry` for any bytes that are not the record of this entry, `FileNotFoundError` if there are none.
    """
    try:
        record = parse(place.read(NAME, limit=LIMIT))
        name = record.name
    except OSError:
        raise
    except Exception as error:  # JSON of any shape or depth, in any encoding: whatever fails, it is no record of ours
        raise ForeignEntry(
            f"{place}/{NAME} is no record of a cache entry ({type(error).__name__}: {error}); "
            "it is left as it is: move the folder away to let the entry be filled anew"
        ) from error
    if name != str(place).rpartition("/")[2]:
        raise ForeignEntry(f"{place} holds the entry {name}, not the one it is named for; move the folder away")
    return record


def parse(data: bytes) -> Record:
    """The record that `to_bytes` wrote; other bytes raise anything."""
    body = json.loads(data)
    stated = body.pop("checksum")
    if body["format"] != FORMAT:
        raise ValueError(f"its format is {body['format']!r}, this program reads {FORMAT!r}")
    if stated != digest(body):
        raise ValueError(f"its content has the checksum {digest(body)}, it says {stated!r}")
    return Record(body["key"], body["layout"]["rows"], body["layout"]["rows_per_shard"], body["about"])
