"""Places: where files lie under names, and who is at work on what.

place("/shared/cache")  -> Folder     folder.py    written once and whole: temporary name, fsync, link
place("s3://bucket/x")  -> Bucket     bucket.py    the same by one PUT that fails if the key exists; read by way of a copy
Lease.acquire(place, "leases/a")      lease.py     who computes what now: advisory, it only avoids double work

address.py refuses URLs that hold a secret, regular.py opens files, and neither pipes nor devices.

place.py is what both have in common. A storage that comes and goes: retry.py (what fails for the moment is tried again) and
anchor.py (a storage that is away is not taken for an empty one).
"""

from __future__ import annotations

from pathlib import Path

from raykd.places.address import check_address, redacted
from raykd.places.anchor import make_folder, require
from raykd.places.bucket import Bucket
from raykd.places.folder import Folder
from raykd.places.lease import Lease, held, live
from raykd.places.place import Place, Status
from raykd.places.regular import open_regular
from raykd.places.retry import Unavailable, persistent, retried

__all__ = [
    "Bucket",
    "Folder",
    "Lease",
    "Place",
    "Status",
    "Unavailable",
    "check_address",
    "held",
    "live",
    "make_folder",
    "open_regular",
    "persistent",
    "place",
    "redacted",
    "require",
    "retried",
]


def place(root: str | Path) -> Place:
    """The place of a folder, or of a URL that fsspec opens: `s3://`, `gs://`, `memory://`; `file://` is a folder.

    Raises `ValueError` for a URL whose protocol is not known, lacks its package, or cannot write once.
    """
    protocol, separator, path = str(root).partition("://")
    if isinstance(root, Path) or not separator:
        return Folder(Path(root))
    return Folder(Path(path)) if protocol in ("file", "local") else Bucket(str(root))
