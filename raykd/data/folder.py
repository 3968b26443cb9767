"""A folder of images, one subfolder per class: `folder/cat/1.jpg`. Images are decoded when they are gathered.

Shapes: N rows, B rows of a batch
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raykd.data import decode
from raykd.data.rows import Rows
from raykd.data.source import PLACE, Source

DEEPEST = 32  # folders below one another; links that lead in a circle end here
ENDINGS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class ImageFolder(Source):
    """RGB images uint8 [3, size, size]; subfolders in sorted order are the classes 0, 1, ...

    A row's id is a hash of its path inside the folder, so an added image changes no other row's id. The revision is a digest
    of the sorted paths and sizes in bytes, not of the pixels: an image edited to the same size goes unnoticed here.
    The folder is listed once per process.
    """

    folder: str = field(compare=False, metadata=PLACE)
    size: int
    """Height and width in pixels that every image is resized to; the aspect is not kept."""

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"ImageFolder has size={self.size}: at least 1 pixel")

    @property
    def classes(self) -> int:
        """How many subfolders there are."""
        return len(_listing(self.folder).names)

    @property
    def shape(self) -> tuple[int, ...]:
        """(3, size, size)."""
        return (3, self.size, self.size)

    @property
    def revision(self) -> str:
        """A digest of the sorted listing."""
        return _listing(self.folder).digest

    def libraries(self) -> dict[str, str]:
        """The decoder's versions."""
        return decode.libraries()

    def read(self) -> Rows:
        """The images in sorted order of their paths; none is opened. Raises `ValueError` for a missing or empty folder."""
        listing = _listing(self.folder)

        def gather(places_B: NDArray[np.int64]) -> Tensor:
            paths = [Path(self.folder) / listing.paths[place] for place in places_B]
            return torch.stack([decode.decode(path, self.shape, name=repr(str(path))) for path in paths])

        labels = [listing.names.index(path.split("/", 1)[0]) for path in listing.paths]
        return Rows(np.array([_id(path) for path in listing.paths]), np.array(labels, np.int64), gather)


@dataclass(frozen=True)
class _Listing:
    """Names of the classes and paths of the images (`/` between parts on every system), both sorted, and their digest."""

    names: tuple[str, ...]
    paths: tuple[str, ...]
    digest: str


@lru_cache(maxsize=16)
def _listing(folder: str) -> _Listing:
    root = Path(folder)
    if not root.is_dir():
        raise ValueError(f"no folder {folder!r}: it should hold one subfolder of images per class")
    names = tuple(sorted(entry.name for entry in os.scandir(root) if entry.is_dir()))
    files = sorted(file for name in names for file in _images(root, name))
    if not files:
        raise ValueError(f"{folder!r} has no images ({', '.join(ENDINGS)}) in subfolders: one subfolder per class")
    digest = hashlib.sha256(json.dumps(files).encode()).hexdigest()
    return _Listing(names, tuple(path for path, _ in files), digest)


def _images(root: Path, name: str) -> Iterator[tuple[str, int]]:
    if name.count("/") > DEEPEST:
        raise ValueError(
            f"{str(root / name)!r} lies more than {DEEPEST} folders deep: a link there may lead back to itself"
        )
    for entry in list(os.scandir(root / name)):
        path = f"{name}/{entry.name}"
        if entry.is_dir():
            yield from _images(root, path)
        elif entry.name.lower().endswith(ENDINGS):
            if not entry.is_file():
                raise ValueError(f"{str(root / path)!r} is no file: replace or remove it")
            yield path, entry.stat().st_size


def _id(path: str) -> int:
    """63 bits of the path's hash: a million images share one with a chance of 1 in 10 million."""
    return int.from_bytes(hashlib.sha256(path.encode()).digest()[:8], "big") >> 1
