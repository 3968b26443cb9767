"""The bibliography of exactly what a stage uses: the `Source:` lines of the pieces in its graph, and of what wrote it.

A class says its sources in its docstring; where it says none, its module speaks for it.
"""

from __future__ import annotations

import inspect
import re
import sys

from raykd.identity import pieces
from raykd.stage import Stage

SOURCE = re.compile(r"Source: *((?:.+\n?)(?:[ \t]+(?!Source:)\S.*\n?)*)")


def bibliography(stage: Stage) -> dict[str, list[str]]:
    """Source -> the pieces of the stage's graph that follow it."""
    found: dict[str, list[str]] = {}
    for piece in pieces(stage):
        name = type(piece).__name__
        cited = [(name, source) for source in sources(type(piece))]
        if isinstance(piece, Stage):
            cited += [(module.rpartition(".")[2], source) for module in piece.cites for source in _of(module)]
        for name, source in cited:
            if name not in found.setdefault(source, []):
                found[source].append(name)
    return found


def sources(kind: type) -> list[str]:
    """The sources that a class names, each on one line."""
    own = SOURCE.findall(inspect.cleandoc(kind.__dict__.get("__doc__") or ""))
    return [" ".join(source.split()) for source in own] or _of(kind.__module__)


def _of(module: str) -> list[str]:
    """The sources that a module names."""
    found = SOURCE.findall(inspect.cleandoc((sys.modules[module].__doc__ if module in sys.modules else "") or ""))
    return [" ".join(source.split()) for source in found]
