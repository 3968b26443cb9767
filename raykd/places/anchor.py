"""The anchor: a small file in the root of a storage, which is there as long as the storage is.

    there is nothing at <path>   ->   is the anchor there?   yes: there is nothing      no: OSError, the storage is away

A file system that was unmounted, and a folder that was renamed, look like an empty storage: a run would compute everything
once more, into a folder that nobody will ever look at. So whoever works on a storage holds its anchor, and believes that
something is missing only while the anchor is there. Folders are made below the root, never the root itself.
"""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NAME = ".raykd"
TEXT = b"The root of a storage of raykd. Where this file is missing runs take the storage to be away, and wait.\n"

_held: Counter[Path] = Counter()


def hold(root: Path) -> None:
    """Hold the anchor of `root` from now on, in this process."""
    _held[root] += 1


def holds(root: Path) -> bool:
    """Whether this process holds the anchor of `root`."""
    return root in _held


@contextmanager
def holding(*roots: Path) -> Iterator[None]:
    """Hold these anchors, which are there, while the block runs."""
    _held.update(roots)
    try:
        yield
    finally:
        for root in roots:
            _held[root] -= 1
            if not _held[root]:
                del _held[root]


def require(path: str | Path) -> None:
    """Raise `OSError` if `path` lies in a storage whose anchor this process holds, and the anchor is not there."""
    root = _root(Path(path))
    if root is not None and not os.path.lexists(root / NAME):
        raise OSError(errno.ESTALE, f"the storage is away (there is no {root / NAME})", str(path))


def make_folder(folder: Path) -> None:
    """Make a folder and those above it; in a storage that is away, raises what `require` raises."""
    root = _root(folder)
    if root is None:
        folder.mkdir(parents=True, exist_ok=True)
    elif not folder.is_dir():
        require(folder)
        for above in reversed([folder, *folder.parents][: len(folder.parts) - len(root.parts)]):
            above.mkdir(exist_ok=True)


def _root(path: Path) -> Path | None:
    """The innermost root with a held anchor that `path` lies in."""
    roots = [root for root in list(_held) if path.is_relative_to(root)]
    return max(roots, key=lambda root: len(root.parts), default=None)
