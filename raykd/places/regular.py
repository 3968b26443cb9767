"""Opening what should be a file: a named pipe would block whoever opens it, and a device would never end."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import IO


def open_regular(path: str | Path, *, limit: int | None = None) -> IO[bytes]:
    """The file, to be read. Links are followed.

    Raises `FileNotFoundError` if there is none, `IsADirectoryError` for a folder, `ValueError` that names the path for a pipe,
    a device or a socket, a file of more than `limit` bytes, and a name that no file can have.
    """
    # without O_NONBLOCK the open itself waits for a writer of the pipe; reads of a regular file do not mind it
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
            raise ValueError(f"{path} is no regular file: a pipe, a device or a socket is not read")
        if limit is not None and status.st_size > limit:
            raise ValueError(f"{path} has {status.st_size} bytes, more than the {limit} that it could have")
        return os.fdopen(descriptor, "rb")  # raises IsADirectoryError
    except BaseException:
        os.close(descriptor)
        raise
