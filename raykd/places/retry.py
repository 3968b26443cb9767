"""A file system that comes and goes: what fails for the moment is tried again, and what will fail again is not.

    fails for the moment   wait .1 s, .2, .4 ... 5 s and try again, until the patience is over: then `Unavailable`
    lasts                  a full disk, no permission: raised at once
    is an answer           no such file, there is one already: raised at once, unless the storage itself is away

`persistent` makes an operation so. It belongs on operations that leave nothing half done and may be done twice, which are the
lowest ones: to read a file, to put a whole file under its name, to give a new one a name that nobody has.

The patience is RAYKD_PATIENCE seconds from the first failure on, 60 if it is not set: a file server starts anew in that time.
A page of a mapped file that cannot be read ends the process (SIGBUS), and is no business of this file.
"""

from __future__ import annotations

import errno
import functools
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import ParamSpec, TypeVar

from raykd.places.anchor import require

P = ParamSpec("P")
T = TypeVar("T")

NAMES = (
    "EIO", "ESTALE", "ETIMEDOUT", "ENOTCONN", "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH", "ENETRESET",
    "ECONNABORTED", "ECONNREFUSED", "ECONNRESET", "EAGAIN", "EBUSY", "EINTR", "EREMOTEIO", "ESHUTDOWN", "ENOLCK", "ENFILE",
)  # fmt: skip
TRANSIENT = {getattr(errno, name) for name in NAMES if hasattr(errno, name)}  # not every system has them all
"""The server, or the network before it, fails for the moment."""
LASTING = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG}
"""A full disk, a quota, no permission: only a person changes these."""
PATIENCE = "RAYKD_PATIENCE"
PATIENCE_S = 60.0
PAUSE_S, LONGEST_S = 0.1, 5.0
"""Before the second try; it doubles from try to try, up to the longest."""
TRIES = 5
"""Of what failed for a reason that says neither."""
QUIET_S = 1.0
"""After so long it is said what is waited for."""

_own_patience: ContextVar[float | None] = ContextVar("patience", default=None)
log = logging.getLogger(__name__)


class Unavailable(OSError):  # noqa: N818
    """What fails for the moment failed until the patience was over."""

    def __str__(self) -> str:
        return f"{self.filename}: {self.strerror}" if self.filename else str(self.strerror)


def patience() -> float:
    """Seconds for which what fails for the moment is tried again. Raises `ValueError` for a setting that is no number."""
    own, text = _own_patience.get(), os.environ.get(PATIENCE, PATIENCE_S)
    try:
        return float(text) if own is None else own
    except ValueError:
        raise ValueError(f"{PATIENCE}={text}: a number of seconds would be right") from None


@contextmanager
def impatient() -> Iterator[None]:
    """What fails while the block runs, fails at once: for those who come back by themselves."""
    token = _own_patience.set(0.0)
    try:
        yield
    finally:
        _own_patience.reset(token)


def persistent(operation: Callable[P, T]) -> Callable[P, T]:
    """The same operation, tried again while it fails for the moment.

    Raises `Unavailable`, with the path and for how long it was tried, when the patience is over.
    """

    @functools.wraps(operation)
    def tried(*arguments: P.args, **settings: P.kwargs) -> T:
        return retried(functools.partial(operation, *arguments, **settings), tries=1)[0]

    return tried


def retried(work: Callable[[], T], *, tries: int = TRIES) -> tuple[T, int]:
    """What `work` returns, and how many times it failed before. Raises `OSError`; a lasting one at once.

    `tries`: of what failed for a reason that says neither, such as a library's own.
    """
    failed, first, told = 0, 0.0, False
    while True:
        try:
            found = work()
        except OSError as failure:
            error, now = _seen(failure), time.monotonic()
            failed, first = failed + 1, first or now
            pause = min(PAUSE_S * 2 ** (failed - 1), LONGEST_S)
            if _passes(error) and not isinstance(error, Unavailable):
                left = first + patience() - now
                if left <= 0:
                    raise _given_up(error, failed, now - first) from None
                pause = min(pause, left)
                if not told and now - first > QUIET_S:
                    told = True
                    log.warning("%s: waiting for it, up to %.0f s more", _line(error), left)
            elif isinstance(error, Unavailable) or error.errno in LASTING or failed >= tries:
                raise
            time.sleep(pause)
        else:
            if told:
                log.warning("it is back after %.0f s", time.monotonic() - first)
            return found, failed


def _passes(error: OSError) -> bool:
    """Whether it fails for the moment; what libraries raise has no number."""
    return error.errno in TRANSIENT or (error.errno is None and isinstance(error, ConnectionError | TimeoutError))


def _seen(failure: OSError) -> OSError:
    """A file that is not there because the whole storage is away says so."""
    if isinstance(failure, FileNotFoundError) and failure.filename is not None:
        try:
            require(os.fsdecode(failure.filename))
        except OSError as away:
            return away
    return failure


def _given_up(error: OSError, tries: int, seconds: float) -> OSError:
    if tries == 1:  # it was not tried again
        return error
    text = f"{error.strerror or error}, still after {seconds:.0f} s and {tries} tries"
    return Unavailable(error.errno, text, error.filename)


def _line(error: OSError) -> str:
    return f"{error.filename}: {error.strerror}" if error.filename else str(error)
