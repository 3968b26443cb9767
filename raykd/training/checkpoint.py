"""The state of a training after a whole epoch: written whole or not at all, loaded without running code."""

from __future__ import annotations

import json
import os
import pickle
import uuid
from pathlib import Path
from typing import Any

import torch

from raykd.models import torchfile
from raykd.places import open_regular, persistent, require
from raykd.training.epochs import checked

PARTS = {"learner", "optimiser", "scaler", "average", "history"}


@persistent
def save(path: Path, state: dict[str, Any]) -> None:
    """Replace the checkpoint at `path`. An interrupted write leaves the one before."""
    temporary = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    with temporary.open("xb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


@persistent
def load(path: Path) -> dict[str, Any] | None:
    """The state at `path`, on the CPU; None if there is none. Raises `ValueError` for a file that holds anything else."""
    try:
        with open_regular(path) as file:  # by its path torch would read it in C++, and fail with errors of its own
            state = torchfile.load(file)
    except FileNotFoundError:
        require(path)
        return None
    except OSError:
        raise
    except Exception as error:  # a damaged file fails in every way: KeyError, EOFError, RuntimeError ...
        refused = isinstance(error, pickle.UnpicklingError)  # its own words tell how to run whatever the file holds
        raise unusable(path, "it may hold code" if refused else error) from error
    if not isinstance(state, dict) or PARTS - state.keys():
        raise unusable(path, "it lacks parts of the state")
    try:
        state["history"] = [checked(epoch) for epoch in json.loads(state["history"])]
    except (ValueError, TypeError, RecursionError) as error:
        raise unusable(path, error) from error
    return state


def unusable(path: Path, reason: object) -> ValueError:
    """What is said of a checkpoint that a training cannot continue from."""
    line = " ".join(str(reason).split())[:200]
    return ValueError(f"{path} is no checkpoint of this stage ({line}): remove it, and the training begins anew")
