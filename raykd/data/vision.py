"""Any dataset of torchvision by its class name, read into memory.

    TorchVisionData("SVHN", "/data", options={"split": "train"})

Shapes: N rows, C channels, H height, W width
"""

from __future__ import annotations

import difflib
import inspect
import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raykd.data import decode
from raykd.data.rows import Rows, held
from raykd.data.source import PLACE, Source
from raykd.identity import fingerprint


@dataclass(frozen=True)
class TorchVisionData(Source):
    """Images of a classification dataset, uint8 [C, H, W]: grey if the first one is, else RGB. An id is the row's position.

    All images are decoded and held in memory, and their pixels are the revision: for folders of large images prefer
    `ImageFolder`. Nothing is downloaded. There are as many classes as the dataset names, or one more than its largest label.
    """

    name: str
    """A class of `torchvision.datasets`."""
    folder: str = field(compare=False, metadata=PLACE)
    """Its `root`, where it takes one."""
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Its other arguments, such as `{"split": "train"}` or `{"train": True}`."""
    size: int | None = None
    """Height and width in pixels that images are resized to. None: all have the same size already."""

    def __post_init__(self) -> None:
        names = _datasets().__all__
        if self.name not in names:
            raise ValueError(f"torchvision has no dataset {self.name!r}{_meant(self.name, names)}")
        allowed = inspect.signature(getattr(_datasets(), self.name)).parameters.keys() - {"root", "download"}
        for option in self.options:
            if option not in allowed:
                raise ValueError(
                    f"torchvision's {self.name} has no option {option!r}: it has {', '.join(sorted(allowed))}"
                )

    @property
    def classes(self) -> int:
        """As many as the dataset names, or one more than its largest label."""
        return self._contents().classes

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W) of the images. Reads them."""
        return tuple(self._contents().images_NCHW.shape[1:])

    @property
    def revision(self) -> str:
        """A digest of pixels and labels. Reads them."""
        return self._contents().digest

    def read(self) -> Rows:
        """The rows in torchvision's order.

        Raises `ValueError` for missing files, for sizes that differ and for labels that are no integers.
        """
        contents = self._contents()
        return held(contents.images_NCHW, np.array(contents.labels, np.int64))

    def _contents(self) -> _Contents:
        return _read(self.name, self.folder, tuple(sorted(self.options.items())), self.size)


@dataclass(frozen=True, eq=False)
class _Contents:
    images_NCHW: Tensor
    labels: list[int]
    classes: int
    digest: str


@lru_cache(maxsize=4)
def _read(name: str, folder: str, options: tuple[tuple[str, Any], ...], size: int | None) -> _Contents:
    dataset = _open(name, folder, dict(options))
    images, labels = [], []
    for row in range(len(dataset)):
        image, label = dataset[row]
        images.append(_pixels(image, size))
        labels.append(_label(name, row, label))
        if images[-1].shape != images[0].shape:
            found = f"row {row} of {name} has shape {tuple(images[-1].shape)}, row 0 has {tuple(images[0].shape)}"
            raise ValueError(f"{found}: pass size= to make them equal")
    if not images:
        raise ValueError(f"torchvision's {name} in {folder!r} has no rows: a dataset needs at least one")
    images_NCHW = torch.stack(images)
    classes = max(len(getattr(dataset, "classes", ())), max(labels) + 1)
    return _Contents(images_NCHW, labels, classes, fingerprint([images_NCHW, labels]))


def _open(name: str, folder: str, options: dict[str, Any]) -> Any:
    family = getattr(_datasets(), name)
    fixed = {"root": folder, "download": False}
    takes = inspect.signature(family).parameters
    try:
        return family(**{key: value for key, value in fixed.items() if key in takes}, **options)
    except (RuntimeError, OSError, ValueError, TypeError) as error:  # what torchvision raises for files and for options
        reason = str(error).splitlines()[0]
        raise ValueError(f"torchvision's {name} does not open in {folder!r} with {options}: {reason}") from error


def _pixels(image: Any, size: int | None) -> Tensor:
    channels = 1 if image.mode in ("1", "L", "I;16") else 3
    width, height = (size, size) if size else image.size
    return decode.pixels(image, (channels, height, width))


def _label(name: str, row: int, label: object) -> int:
    try:
        return operator.index(label)  # type: ignore[arg-type]
    except TypeError:
        found = f"row {row} of torchvision's {name} has a label of type {type(label).__name__}"
        raise ValueError(f"{found}: a dataset to classify has integers") from None


def _meant(name: str, names: list[str]) -> str:
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    return f": did you mean {' or '.join(close)}?" if close else ": see torchvision.datasets for their names"


def _datasets() -> ModuleType:
    import torchvision.datasets  # a second that other sources need not pay

    module: ModuleType = torchvision.datasets
    return module
