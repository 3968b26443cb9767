"""What is said of an epoch, as it lies in metrics.jsonl, a line each, and in a checkpoint: read, and checked.

    {"epoch", "lr", "loss", "terms": {name: share}, "val_top1", "val_nll", "seconds", "rows_per_second", "shown"?: {piece: ...}}

A number may be NaN or infinite: a last epoch can be bad.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Epoch = Mapping[str, Any]
NUMBERS = ("epoch", "lr", "loss", "val_top1", "val_nll", "seconds", "rows_per_second")
NESTED = 8  # mappings in each other that a piece shows, at most


def of_lines(data: bytes, path: Path) -> list[Epoch]:
    """The epochs of a metrics.jsonl. Raises `ValueError`, naming the file and the line, for anything else."""
    found: list[Epoch] = []
    for number, line in enumerate(data.splitlines(), 1):
        try:
            found.append(checked(json.loads(line)))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} has no epoch in line {number} ({' '.join(str(error).split())[:120]})") from None
    return found


def checked(epoch: object) -> Epoch:
    """The same; raises `ValueError` unless it is what is said of an epoch."""
    if not isinstance(epoch, dict):
        raise ValueError(f"a {type(epoch).__name__} is no epoch")
    for name in NUMBERS:
        if not _number(epoch.get(name)):
            raise ValueError(f"{name}={str(epoch.get(name))[:60]!r} is no number")
    if type(epoch["epoch"]) is not int or epoch["epoch"] < 0:
        raise ValueError(f"epoch={epoch['epoch']!r} is no count")
    terms, shown = epoch.get("terms"), epoch.get("shown", {})
    if not isinstance(terms, dict) or not all(map(_number, terms.values())):
        raise ValueError("its terms are no numbers")
    if not isinstance(shown, dict) or not all(
        isinstance(told, dict) and _shown(told, NESTED) for told in shown.values()
    ):
        raise ValueError("what its pieces show is no mapping of numbers")
    return epoch


def _number(value: object) -> bool:
    return isinstance(value, float) or (type(value) is int and abs(value) < 1 << 62)


def _shown(told: object, levels: int) -> bool:
    if isinstance(told, dict):
        return levels > 0 and all(_shown(each, levels - 1) for each in told.values())
    return all(each is None or _number(each) for each in (told if isinstance(told, list) else [told]))
