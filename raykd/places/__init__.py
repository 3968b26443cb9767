"""Places: where files lie under names, and who is at work on what.

place("/shared/cache")  -> Folder     folder.py    written once and whole: temporary name, fsync, link
place("s3://bucket/x")  -> Bucket     bucket.py    the same by one PUT that fails if the key exists; read by way of a copy
Lease.acquire(place, "leases/a")      lease.py     who computes what now: advisory, it only avoids double work

place.py is what both have in common.
"""

from __future__ import annotations

from pathlib import Path

from raykd.places.bucket import Bucket
from raykd.places.folder import Folder
from raykd.places.lease import Lease, held, live
from raykd.places.place import Place, Status

__all__ = ["Bucket", "Folder", "Lease", "Place", "Status", "held", "live", "place"]


def place(root: str | Path) -> Place:
    """The place of a folder, or of a URL that fsspec opens: `s3://`, `gs://`, `memory://`; `file://` is a folder.

    Raises `ValueError` for a URL whose protocol is not known, lacks its package, or cannot write once.
    """
    protocol, separator, path = str(root).partition("://")
    if isinstance(root, Path) or not separator:
        return Folder(Path(root))
    return Folder(Path(path)) if protocol in ("file", "local") else Bucket(str(root))
