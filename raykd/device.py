"""What a process computes on, and in which precision: decided where the work runs, never part of a spec."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch

PRECISIONS = ("float32", "bfloat16", "float16")


def device(local_rank: int = 0) -> torch.device:
    """This process's accelerator if it has one, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", local_rank % torch.cuda.device_count())
    return torch.device("cpu")


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Mixed precision on `device`; for "float32" it does nothing."""
    return torch.autocast(device.type, dtype=getattr(torch, precision), enabled=precision != "float32")
