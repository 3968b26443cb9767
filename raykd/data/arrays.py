"""Arrays in memory as a source: your own data, given as numpy arrays or tensors.

    Arrays(images, labels)                    travels with all its bytes
    Arrays(images, labels).stored(folder)     travels as the path of one safetensors file named by its digest

Shapes: N rows, C channels, H height, W width, D width of a vector
"""

from __future__ import annotations

import copy
import os
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from raykd.data.rows import Rows, held
from raykd.data.source import PLACE, Source
from raykd.identity import fingerprint
from raykd.places import make_folder, open_regular, persistent, require


@dataclass(frozen=True, init=False)
class Arrays(Source):
    """Rows given as arrays; not copied where they have the right type already, so do not write to them afterwards."""

    classes: int
    shape: tuple[int, ...]
    revision: str
    """A digest of inputs, labels and ids: type, shape and bytes."""
    file: str | None = field(compare=False, metadata=PLACE)
    """Where the arrays are stored; None: only in memory."""
    table: dict[str, Tensor] | None = field(compare=False, repr=False, metadata=PLACE)
    """Inputs, labels and ids; None: not read from the file yet."""

    def __init__(
        self,
        inputs: ArrayLike | Tensor,
        labels: ArrayLike | Tensor,
        ids: ArrayLike | Tensor | None = None,
        classes: int | None = None,
    ) -> None:
        """Inputs are uint8 [N, C, H, W] or floats [N, D] (kept as float32), labels and ids integers [N]; ids default to the
        positions and classes to one more than the largest label.

        Raises `ValueError` for other types and shapes, and for lengths that differ.
        """
        inputs_N, labels_N = _inputs(inputs), _integers("labels", labels)
        ids_N = torch.arange(len(labels_N)) if ids is None else _integers("ids", ids)
        if not len(inputs_N) == len(labels_N) == len(ids_N):
            found = f"{len(inputs_N)} inputs, {len(labels_N)} labels and {len(ids_N)} ids"
            raise ValueError(f"Arrays has {found}: each row has one of each")
        if len(labels_N) == 0:
            raise ValueError("Arrays has no rows: a dataset needs at least one")
        table = {"inputs": inputs_N, "labels": labels_N, "ids": ids_N}
        values: dict[str, object] = {
            "classes": int(labels_N.max()) + 1 if classes is None else classes,
            "shape": tuple(inputs_N.shape[1:]),
            "revision": fingerprint(table),
            "file": None,
            "table": table,
        }
        self.__dict__.update(values)  # the class is frozen for everybody else

    def read(self) -> Rows:
        """The rows in the given order. Raises `ValueError` if they are stored in a file that is gone."""
        table = self._table()
        return held(table["inputs"], table["labels"].numpy(), table["ids"].numpy())

    def stored(self, folder: str) -> Arrays:
        """An equal source that travels as a path: writes `<revision>.safetensors` into `folder` unless it is there."""
        path = Path(folder).absolute() / f"{self.revision}.safetensors"
        self._lay_down(path)
        twin = copy.copy(self)
        twin.__dict__["file"] = str(path)
        return twin

    @persistent
    def _lay_down(self, path: Path) -> None:
        if not path.exists():
            make_folder(path.parent)
            unfinished = path.with_suffix(f".{os.getpid()}-{uuid.uuid4().hex[:8]}")
            save_file({name: tensor.contiguous() for name, tensor in self._table().items()}, unfinished)
            unfinished.replace(path)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ if self.file is None else {**self.__dict__, "table": None}

    @persistent
    def _table(self) -> dict[str, Tensor]:
        if self.table is not None:
            return self.table
        assert self.file is not None
        if not Path(self.file).is_file():
            require(self.file)
            raise ValueError(
                f"no file {self.file!r} with the rows of an Arrays: store it where every worker can read it"
            )
        try:
            with open_regular(self.file) as file:
                return load(file.read())
        except SafetensorError as error:
            raise ValueError(f"{self.file!r} does not hold the rows of an Arrays ({error}): remove it") from error


def _inputs(inputs: ArrayLike | Tensor) -> Tensor:
    inputs_N = _tensor(inputs)
    if inputs_N.dtype == torch.uint8 and inputs_N.ndim == 4:
        return inputs_N
    if inputs_N.is_floating_point() and inputs_N.ndim == 2:
        return inputs_N.float()
    found = f"{str(inputs_N.dtype).removeprefix('torch.')} {list(inputs_N.shape)}"
    raise ValueError(f"Arrays has inputs {found}: images are uint8 [N, C, H, W], vectors are floats [N, D]")


def _integers(name: str, values: ArrayLike | Tensor) -> Tensor:
    values_N = _tensor(values)
    if values_N.is_floating_point() or values_N.is_complex() or values_N.dtype == torch.bool or values_N.ndim != 1:
        found = f"{str(values_N.dtype).removeprefix('torch.')} {list(values_N.shape)}"
        raise ValueError(f"Arrays has {name} {found}: {name} are integers [N]")
    return values_N.to(torch.int64)


def _tensor(values: ArrayLike | Tensor) -> Tensor:
    if isinstance(values, Tensor):
        return values.detach().cpu()
    array: NDArray[Any] = np.asarray(values)
    if array.dtype.kind not in "biufc":
        raise ValueError(f"Arrays was given an array of type {array.dtype}: inputs, labels and ids are numbers")
    return torch.from_numpy(array if array.flags.writeable else array.copy())
