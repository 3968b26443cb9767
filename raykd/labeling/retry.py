"""A file system that comes and goes: what failed is tried again; what will fail again is not."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

LASTING = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG}
"""A full disk, a quota, no permission: only a person changes these."""
TRIES = 5
PAUSE_S = 0.1
"""Before the second try; it doubles from try to try."""


def retried(work: Callable[[], T]) -> tuple[T, int]:
    """What `work` returns, and how many times it failed before. Raises the last `OSError`; a lasting one at once."""
    for failed in range(TRIES):
        try:
            return work(), failed
        except OSError as error:
            if error.errno in LASTING or failed == TRIES - 1:
                raise
            time.sleep(PAUSE_S * 2**failed)
    raise AssertionError("the last try returns or raises")
