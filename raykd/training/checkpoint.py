"""The state of a training after a whole epoch: written whole or not at all, loaded without running code."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Any

import torch


def save(path: Path, state: dict[str, Any]) -> None:
    """Replace the checkpoint at `path`. An interrupted write leaves the one before."""
    temporary = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    with temporary.open("xb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def load(path: Path) -> dict[str, Any] | None:
    """The state at `path`, on the CPU; None if there is none."""
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state
