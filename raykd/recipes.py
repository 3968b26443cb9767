"""Recipes: functions that write a stage. Their typed keyword arguments are their command line and their search space.

    jobs/digits.py:kd            a function of a file
    mypackage.recipes:kd         a function of an importable module

A recipe is code and is trusted as such; everything else that raykd reads is data.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import re
import sys
import types
import typing
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

from raykd.selection import Selection
from raykd.stage import Stage

SCALARS = (bool, int, float, str)
TARGET = re.compile(r"^[\w./~-]+:\w*$")
_loaded: dict[Path, ModuleType] = {}


@dataclass(frozen=True)
class Knob:
    """A keyword argument of a recipe that can be set from outside."""

    name: str
    kind: type | tuple[Any, ...]
    """`bool`, `int`, `float`, `str`, or the values that it may have."""
    default: Any
    required: bool
    help: str


class Deferred(ABC):
    """What only a run can turn into a stage or a selection, because it trains something to decide: `search.Adaptive`."""

    @property
    @abstractmethod
    def default(self) -> Stage | Selection:
        """What it is if nothing speaks for anything else."""

    @abstractmethod
    def resolve(self, runner: Any, *, speculative: int = 1, baseline: bool = False) -> Any:
        """The stage that a `runtime.Runner` decides for, made real: `runtime.Trained`."""


Written = Stage | Selection | Deferred


@dataclass(frozen=True)
class Recipe:
    """A function that writes a stage, a selection of several, or what a run makes one of."""

    target: str
    function: Callable[..., Written]

    @property
    def summary(self) -> str:
        """First paragraph of its docstring."""
        return (inspect.getdoc(self.function) or "").split("\n\n")[0]

    @cached_property
    def knobs(self) -> dict[str, Knob]:
        """Its keyword arguments of simple types, by name."""
        hints = typing.get_type_hints(self.function)
        found = {}
        for name, parameter in inspect.signature(self.function).parameters.items():
            kind = _kind(hints.get(name, type(parameter.default)))
            if kind is not None:
                required = parameter.default is inspect.Parameter.empty
                found[name] = Knob(name, kind, None if required else parameter.default, required, self._help(name))
        return found

    def returned(self, **knobs: Any) -> Written:
        """What it returns for these knobs.

        Raises `ValueError` for an unknown knob, a value of the wrong type, and whatever the recipe refuses.
        """
        for name, value in knobs.items():
            self._check(name, value)
        returned = self.function(**knobs)
        if not isinstance(returned, Written):
            raise ValueError(f"the recipe {self.target} returned {returned!r}: a Stage or a Selection would be right")
        return returned

    def written(self, **knobs: Any) -> Stage | Selection:
        """What it writes with just these knobs: a stage, or several to select from. Nothing is left for a run to decide.

        Raises `ValueError` as `returned` does.
        """
        returned = self.returned(**knobs)
        return returned.default if isinstance(returned, Deferred) else returned

    def stage(self, **knobs: Any) -> Stage:
        """The stage that it writes with these knobs. Raises `ValueError` as `written` does, and for several to select from."""
        written = self.written(**knobs)
        if isinstance(written, Selection):
            raise ValueError(f"the recipe {self.target} writes a Selection: `raykd run` makes one stage of it")
        return written

    def _check(self, name: str, value: Any) -> None:
        if name not in self.knobs:
            raise ValueError(f"the recipe {self.target} has no knob {name!r}: {_close(name, self.knobs)}")
        kind = self.knobs[name].kind
        default = self.knobs[name].default
        if value is None and default is None:
            return
        if isinstance(kind, tuple):
            if value not in kind:
                raise ValueError(
                    f"{name}={value!r} of {self.target}: one of {', '.join(map(repr, kind))} would be right"
                )
        elif not isinstance(value, (float, int) if kind is float else kind) or (
            kind is not bool and isinstance(value, bool)
        ):
            raise ValueError(
                f"{name}={value!r} of {self.target} is {type(value).__name__}: {kind.__name__} would be right"
            )

    def _help(self, name: str) -> str:
        """The line `name: what it does` of its docstring, or of its file's, for knobs that many recipes share."""
        for said in (self.function, sys.modules.get(self.function.__module__)):
            match = re.search(rf"^\s*{name}: (.+)$", inspect.getdoc(said) or "", re.MULTILINE)
            if match:
                return match.group(1).strip()
        return ""


def load(target: str) -> Recipe:
    """The recipe that `file.py:function` or `package.module:function` names.

    Raises `ValueError` if there is no such file, module or recipe, or if importing it fails.
    """
    place, colon, name = target.rpartition(":")
    if not colon or not place:
        raise ValueError(f"the target {target!r} names no recipe: write file.py:recipe or package.module:recipe")
    module = load_file(place) if place.endswith(".py") else _from_module(place)
    known = names(module)
    function = getattr(module, name, None)
    if name.startswith("_") or not inspect.isfunction(function):
        raise ValueError(f"{place} has no recipe {name!r}: {_close(name, known)}")
    return Recipe(target, function)


def names(module: ModuleType) -> list[str]:
    """The recipes of a module: its public functions that return a Stage, a Selection, or what a run makes one of."""
    functions = inspect.getmembers(module, inspect.isfunction)
    return [name for name, f in functions if f.__module__ == module.__name__ and _writes_a_stage(f) and name[0] != "_"]


def load_file(file: str | Path) -> ModuleType:
    """The module in a recipe file; loaded once."""
    path = Path(file).expanduser().resolve()
    if path in _loaded:
        return _loaded[path]
    if not path.is_file():
        raise ValueError(f"no recipe file {str(path)!r}")
    name = path.stem if path.stem not in sys.modules else f"recipe_{path.stem}_{len(_loaded)}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))  # as python itself does for a script
    try:
        spec.loader.exec_module(module)
    except ValueError:
        del sys.modules[name]
        raise
    except Exception as error:
        del sys.modules[name]
        raise ValueError(f"{path} cannot be imported: {type(error).__name__}: {error}") from error
    _loaded[path] = module
    return module


def _from_module(name: str) -> ModuleType:
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(f"the module {name!r} cannot be imported: {error}") from error


def _writes_a_stage(function: Callable[..., Any]) -> bool:
    hint = function.__annotations__.get("return")
    hints = hint.split("|") if isinstance(hint, str) else typing.get_args(hint) or (hint,)
    said = {
        each.strip().rpartition(".")[2] if isinstance(each, str) else getattr(each, "__name__", "") for each in hints
    }
    return said <= {"Stage", "Selection", "Deferred", "Adaptive"}


def _kind(hint: Any) -> type | tuple[Any, ...] | None:
    """What a hint says of a knob's values; None for what the command line cannot say."""
    if typing.get_origin(hint) is typing.Literal:
        return typing.get_args(hint)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        inner = [each for each in typing.get_args(hint) if each is not type(None)]
        return _kind(inner[0]) if len(inner) == 1 else None
    return hint if hint in SCALARS else None


def _close(name: str, known: Mapping[str, Any] | list[str]) -> str:
    """What is there, or what was probably meant."""
    close = difflib.get_close_matches(name, list(known), n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"it has {', '.join(sorted(known))}" if known else "it has none"
