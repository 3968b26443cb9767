"""A spec is its content: what a spec says, as canonical JSON, and the fingerprint of that.

    fingerprint(spec) = first 40 hex of sha256(canonical JSON of spec)

Stages, networks and cache entries are named by it, so equal specs are one stage and one entry. Identity is *what*, never
*where* or *how many*: a field declared with `aside(...)` (a path, a label for people) stays out. A class enters by
its name and its `version`, not by its module: moving a file empties no cache, and whoever changes a formula raises `version`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import numpy as np
import torch

T = TypeVar("T")


def fingerprint(spec: object) -> str:
    """The name of a spec: 40 hexadecimal digits, equal for equal content.

    Raises `ValueError`, naming the place inside the spec, for anything without content of its own (see `canonical`).
    """
    return digest(canonical(spec))


def digest(content: object) -> str:
    """The fingerprint of what is canonical JSON already."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:40]


def aside(default: T) -> T:
    """A dataclass field that is not identity: `label: str = aside("")`."""
    return dataclasses.field(default=default, metadata={"identity": False}, compare=False)


def canonical(spec: object, where: str = "spec") -> Any:
    """`spec` as JSON: equal values give equal JSON, whatever their key order or number type.

    Accepts None, booleans, numbers, strings, tuples, lists, mappings with string keys, torch and numpy dtypes, arrays
    and tensors (by their bytes) and frozen dataclasses of these. A class may define `identity(self) -> object` to say
    what stands for it.

    Raises `ValueError` that names the place for everything else: a lambda, a function, a module or a path has no
    content to compare.
    """
    if spec is None or isinstance(spec, bool | str):
        return spec
    if isinstance(spec, int | float | np.integer | np.floating):
        return _number(spec, where)
    if isinstance(spec, np.ndarray | torch.Tensor):
        return _array(spec)
    if isinstance(spec, torch.dtype | np.dtype):
        return {"dtype": str(spec).removeprefix("torch.")}
    if isinstance(spec, Mapping):
        return _mapping(spec, where)
    if isinstance(spec, list | tuple):
        return [canonical(item, f"{where}[{i}]") for i, item in enumerate(spec)]
    if hasattr(spec, "__qualname__"):  # a class or a function: only instances have content
        raise _unidentifiable(spec, where)
    if hasattr(spec, "identity"):
        return _named(spec, canonical(spec.identity(), where))
    if dataclasses.is_dataclass(spec):
        return _dataclass(spec, where)
    raise _unidentifiable(spec, where)


def pieces(spec: object) -> Iterator[object]:
    """Every dataclass inside a spec, itself included."""
    if isinstance(spec, Mapping):
        for value in spec.values():
            yield from pieces(value)
    elif isinstance(spec, tuple | list):
        for value in spec:
            yield from pieces(value)
    elif dataclasses.is_dataclass(spec):
        yield spec
        for field in dataclasses.fields(spec):
            yield from pieces(getattr(spec, field.name))


def _number(value: Any, where: str) -> int | float:
    if isinstance(value, int):
        return int(value)
    if not math.isfinite(value):
        raise ValueError(f"{where} is {value}: a spec holds finite numbers only")
    # 4 and 4.0 are equal, so they are one spec
    return int(value) if float(value).is_integer() else float(value)


def _array(value: np.ndarray[Any, Any] | torch.Tensor) -> dict[str, object]:
    array = np.ascontiguousarray(value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else value)
    return {
        "dtype": str(array.dtype),
        "shape": list(array.shape),
        "sha256": hashlib.sha256(array.view(np.uint8).data if array.size else b"").hexdigest(),
    }


def _mapping(spec: Mapping[Any, object], where: str) -> dict[str, Any]:
    for key in spec:
        if not isinstance(key, str):
            raise ValueError(f"{where} has the key {key!r}: keys of a spec are strings")
    return {key: canonical(value, f"{where}[{key!r}]") for key, value in sorted(spec.items())}


def _dataclass(spec: Any, where: str) -> dict[str, Any]:
    name = type(spec).__name__
    if not type(spec).__dataclass_params__.frozen:
        raise ValueError(f"{where} is a {name}, a dataclass that can change: declare it @dataclass(frozen=True)")
    fields = [field for field in dataclasses.fields(spec) if field.metadata.get("identity", True)]
    return _named(spec, {field.name: canonical(getattr(spec, field.name), f"{where}.{field.name}") for field in fields})


def _named(spec: Any, content: Any) -> dict[str, Any]:
    return {"is": type(spec).__name__, "version": getattr(type(spec), "version", 1), "of": content}


def _unidentifiable(spec: object, where: str) -> ValueError:
    if getattr(spec, "__name__", "") == "<lambda>":
        found, right = "a lambda", "write a frozen dataclass with __call__: a lambda has no content to compare"
    elif isinstance(spec, Path):
        found, right = f"the path {str(spec)!r}", "a path is a place, not content: declare the field with aside(...)"
    else:
        name = getattr(spec, "__qualname__", None) or type(spec).__qualname__
        found, right = f"{name!r} ({type(spec).__name__})", "use a frozen dataclass, or define identity(self)"
    return ValueError(f"{where} is {found}: it has no identity; {right}")


def is_installed(module: ModuleType) -> bool:
    """Whether workers can import the module: raykd itself, and what lies in a site-packages or belongs to Python."""
    origin = getattr(module, "__file__", None) or ""
    places = {sysconfig.get_path(name) for name in ("purelib", "platlib", "stdlib")}
    return module.__name__.split(".")[0] == "raykd" or any(origin.startswith(place) for place in places)
