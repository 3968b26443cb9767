"""Staging: a remote file comes to a node once, and all its processes share the copy.

    lock -> already here and good? -> fetch to a temporary name -> check -> link to the name

A copy gets its name only after it was checked, so one that was cut off by a crash is never taken for a file. It lies in a
folder that only its user can read, `<RAYKD_STAGING or the folder for temporary files>/raykd-<uid>`.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from raykd.places.folder import Folder


def staged(address: str, fetch: Callable[[Path], object], check: Callable[[Path], None]) -> Path:
    """The copy of what lies under `address`, made with `fetch(file)` unless a good one is here. `check` raises `ValueError`.

    Of several processes one fetches and the others wait; the lock falls with whoever is killed.

    Raises what `check` raises for bytes fresh from the store.
    """
    name = hashlib.sha256(address.encode()).hexdigest()[:40]
    folder = Folder(_root() / name[:2])
    path = folder.root / name
    folder.root.mkdir(exist_ok=True)
    with _locked(folder.root):
        if path.exists():
            try:
                check(path)
            except ValueError:  # it was good when it came, so this disk lost it: the store still has it
                path.unlink()
            else:
                return path
        folder.sweep("")
        temporary = folder.temporary(name)
        try:
            fetch(temporary)
            check(temporary)
            folder.adopt(temporary, name)
        finally:
            temporary.unlink(missing_ok=True)
    return path


def _root() -> Path:
    """The folder of this user, made if need be; raises `ValueError` if others could put something there."""
    path = Path(os.environ.get("RAYKD_STAGING") or tempfile.gettempdir()) / f"raykd-{os.getuid()}"
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = path.lstat()
    if status.st_uid != os.getuid() or status.st_mode & 0o077 or path.is_symlink():
        raise ValueError(f"{path} is not a folder of yours alone: remove it, or set RAYKD_STAGING to another place")
    return path


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process or thread at a time: 256 folders share an even load, so shards are fetched side by side."""
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
