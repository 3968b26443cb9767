"""What a process computes on, and in which precision: decided where the work runs, never part of a spec."""

from __future__ import annotations

import ctypes
import sys
from contextlib import AbstractContextManager

import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
PRECISIONS = ("float32", "bfloat16", "float16")


def device(local_rank: int = 0) -> torch.device:
    """This process's accelerator if it has one, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", local_rank % torch.cuda.device_count())
    return torch.device("cpu")


def settled(precision: str, device: torch.device) -> str:
    """What "auto" means for training on a device: bfloat16 where a GPU has it, float16 on others, float32 on a CPU."""
    if precision != "auto":
        return precision
    if device.type == "cpu":
        return "float32"
    return "bfloat16" if torch.cuda.is_bf16_supported() else "float16"


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Mixed precision on `device`; for "float32" it does nothing."""
    return torch.autocast(device.type, dtype=getattr(torch, precision), enabled=precision != "float32")


def keep_memory() -> None:
    """Tell glibc to keep freed memory instead of giving it back: a training step on a CPU takes a fifth less time.

    For this process; elsewhere than on Linux with glibc it does nothing.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, 2**30)
        mallopt(M_MMAP_THRESHOLD, 2**30)
