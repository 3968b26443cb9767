"""The way back from canonical JSON to the spec that it stands for, so that what a key names can be asked again.

    {"is": class name, "version": n, "of": {field: value}}   ->   class(**fields)         list -> tuple

Loading never runs code from data: a name stands for a class of raykd that is a plain value, or for nothing. What comes out has
exactly the identity that went in, or it is an error: fields that are no identity (a path, a label) have their defaults.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load

from raykd.data import Arrays, Asking, Dataset, Grammar, Mixing, Operation, Rule, Source
from raykd.identity import canonical
from raykd.models import Architecture, Custom, Preprocess
from raykd.places import open_regular
from raykd.signals import Attention, Projected, Resized, Signal

FAMILIES: tuple[type, ...] = (
    Architecture,
    Preprocess,
    Source,
    Dataset,
    Operation,
    Mixing,
    Asking,
    Grammar,
    Rule,
    Signal,
    Resized,
    Attention,
    Projected,
)
CODE = (Custom,)  # names a function to import and call

Maker = Callable[..., object]


def known(data: Path) -> dict[str, Maker]:
    """What makes a spec of its fields, by class name. Rows that were given as arrays are looked for in the folder `data`."""
    found: dict[str, Maker] = {
        each.__name__: each
        for family in FAMILIES
        for each in _with_subclasses(family)
        if dataclasses.is_dataclass(each) and not inspect.isabstract(each)
        if each.__module__.partition(".")[0] == "raykd" and each not in CODE
    }
    return {**found, Arrays.__name__: lambda **fields: _stored_arrays(data, **fields)}


def rebuild(content: Any, makers: Mapping[str, Maker]) -> Any:
    """The spec whose canonical JSON is `content`.

    Raises `ValueError` for a class that is not among `makers`, for one whose fields or version changed since, for one that
    needs to be told where its content lies, and for one that says so itself: a place is no part of a key.
    """
    try:
        spec = _rebuilt(content, makers)
        check_same(content, spec)
    except (ValueError, OSError):
        raise
    except Exception as error:  # a key is data: of values of other types a class may raise anything
        raise ValueError(f"it is no key of this version of raykd ({type(error).__name__}: {error})") from error
    return spec


def check_same(content: Any, spec: object) -> None:
    """Raises `ValueError` that tells the first difference unless `content` is the canonical JSON of `spec`."""
    found = canonical(spec)
    if found != content:
        raise ValueError(f"{_difference(content, found)}: data, libraries or raykd changed since the key was written")


def _rebuilt(content: Any, makers: Mapping[str, Maker]) -> Any:
    if isinstance(content, list):
        return tuple(_rebuilt(item, makers) for item in content)
    if not isinstance(content, dict):
        return content
    if content.keys() != {"is", "version", "of"}:
        if "sha256" in content:
            raise ValueError("it holds an array, of which the key has the digest only")
        return {name: _rebuilt(value, makers) for name, value in content.items()}
    name, fields = content["is"], content["of"]
    if name not in makers or not isinstance(fields, dict):
        raise ValueError(f"{name!r} is no class of raykd that can be made from data")
    return _made(name, makers[name], {field: _rebuilt(value, makers) for field, value in fields.items()})


def _made(name: str, maker: Maker, fields: dict[str, Any]) -> object:
    if isinstance(maker, type):
        own = [field for field in dataclasses.fields(maker) if field.init]
        if issubclass(maker, Source) and "revision" not in {field.name for field in own}:
            fields.pop("revision", None)  # a digest of what it reads, which `rebuild` compares
        for field in own:
            if field.name in fields and not field.metadata.get("identity", True):
                raise ValueError(f"{name} has {field.name}={_short(fields[field.name])}, which is no part of a key")
            needed = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
            if needed and field.name not in fields:
                raise ValueError(f"{name} needs {field.name}, which is no part of a key")
    try:
        return maker(**fields)
    except TypeError as error:
        raise ValueError(f"{name} has other fields in this version of raykd: {error}") from error


def _stored_arrays(folder: Path, *, classes: int, shape: tuple[int, ...], revision: str) -> Arrays:
    """What `Arrays.stored` laid down; `rebuild` compares its digest."""
    path = folder / f"{Path(revision).name}.safetensors"
    if not path.is_file():
        raise ValueError(f"the rows of an Arrays of shape {shape} are not at {path}")
    try:
        with open_regular(path) as file:
            return Arrays(**load(file.read()), classes=classes)
    except SafetensorError as error:
        raise ValueError(f"{path} does not hold the rows of an Arrays ({error})") from error


def _with_subclasses(family: type[Any]) -> Iterator[type[Any]]:
    yield family
    for each in family.__subclasses__():
        yield from _with_subclasses(each)


def _difference(wanted: Any, found: Any, where: str = "it") -> str:
    """The first place where two contents differ, in words."""
    if isinstance(wanted, dict) and isinstance(found, dict) and wanted.keys() == found.keys():
        name = next(name for name in wanted if wanted[name] != found[name])
        inside = str(wanted.get("is", where)) if name == "of" else f"{where}.{name}"
        return _difference(wanted[name], found[name], inside)
    return f"{where} was {_short(wanted)} and now is {_short(found)}"


def _short(content: Any) -> str:
    text = repr(content)
    return text if len(text) <= 60 else f"{text[:57]}..."
