"""Leases: who is computing something now. Advisory: nothing goes wrong without them, but work is done twice.

    acquire = create a file          held = touched every BEAT_S          expired = not touched for EXPIRY_S
    steal   = rename it to a name of one's own (one of several succeeds) -> is it what was judged? -> acquire anew

Time is the place's own clock, so that a machine whose clock is wrong neither loses its leases nor takes those of others.
A holder that ran on this machine, in this namespace of processes, and is gone, has lost its lease at once.

A thief that took another lease than it judged puts it back; if a third comes in that moment, two compute one thing.

A lease belongs to the process that took it: it ends with it, a fork does not inherit it, and it cannot be pickled.
"""

from __future__ import annotations

import json
import os
import secrets
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

from raykd.places.folder import TEMPORARY
from raykd.places.place import Place
from raykd.places.retry import impatient

BEAT_S = 5.0
EXPIRY_S = 30.0
LIMIT = 4096  # bytes of a lease; one takes 200


@dataclass(frozen=True, eq=False)
class Lease:
    """The right to do what `name` says until it is released; use it as a context manager."""

    place: Place
    name: str
    text: bytes
    """What stands in its file: who holds it, and a number that no other lease has."""
    beat_s: float
    _process: int = field(default_factory=os.getpid)

    @staticmethod
    def acquire(
        place: Place, name: str, owner: str = "", *, beat_s: float = BEAT_S, expiry_s: float = EXPIRY_S
    ) -> Lease | None:
        """The lease `name`, or None while another holds it. `owner` is for people.

        Raises `OSError` if the place cannot be written.
        """
        lease = Lease(place, name, _signature(owner), beat_s)
        if not (place.create(name, lease.text) or (_steal(place, name, expiry_s) and place.create(name, lease.text))):
            return None
        _beats.add(lease)
        return lease

    def release(self) -> None:
        """Let others have it. One that was taken over meanwhile is left to its new holder."""
        if os.getpid() != self._process:
            return
        _beats.remove(self)
        if self.ours():
            self.place.remove(self.name)

    def ours(self) -> bool:
        """Whether it was not taken over; costs a read."""
        return _read(self.place, self.name) == self.text

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"the lease {self.name} belongs to process {self._process}: another one acquires its own")


def held(place: Place, name: str, *, expiry_s: float = EXPIRY_S) -> bool:
    """Whether someone holds the lease `name`."""
    text = _read(place, name)
    return text is not None and _alive(place, name, text, expiry_s)


def live(place: Place, under: str, *, expiry_s: float = EXPIRY_S) -> bool:
    """Whether someone holds any lease under `under`."""
    return any(held(place, name, expiry_s=expiry_s) for name in place.files(under))


def _steal(place: Place, name: str, expiry_s: float) -> bool:
    """Clears the name of a lease whose holder is gone; False if it is held, or another thief was first."""
    text = _read(place, name)
    if text is None:  # released just now
        return True
    if _alive(place, name, text, expiry_s):
        return False
    folder, _, last = name.rpartition("/")
    grave = f"{folder}/.{last}.{secrets.token_hex(8)}{TEMPORARY}".lstrip("/")
    if not place.rename(name, grave):
        return False
    taken = _read(place, grave)
    if taken is not None and taken != text:  # another thief was quicker, and this is the lease that it made
        place.create(name, taken)
    place.remove(grave)
    return taken == text


def _alive(place: Place, name: str, text: bytes, expiry_s: float) -> bool:
    # read before: on a network file system the status of a file is only as new as its last opening
    status = place.status(name)
    return status is not None and not _gone(text) and place.now() - status.modified <= expiry_s


def _read(place: Place, name: str) -> bytes | None:
    try:
        return place.read(name, limit=LIMIT)
    except FileNotFoundError:
        return None
    except ValueError:  # no lease of ours, so nobody holds it: an empty text says so
        return b""


def _signature(owner: str) -> bytes:
    """The text of a new lease."""
    here = {"machine": _machine(), "pid": os.getpid(), "start": _start(os.getpid())}
    return json.dumps({"owner": owner, **here, "lease": secrets.token_hex(16)}).encode()


def _gone(text: bytes) -> bool:
    """Whether the holder ran on this machine and ended. False if that cannot be known."""
    try:
        holder: dict[str, Any] = json.loads(text)
        machine, pid, start = holder["machine"], holder["pid"], holder["start"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return False
    return machine is not None and machine == _machine() and type(pid) is int and _start(pid) != start


def _machine() -> str | None:
    """This boot of this machine and this namespace of processes, within which a pid says who; None where /proc does not."""
    try:
        return (
            Path("/proc/sys/kernel/random/boot_id").read_text().strip()
            + " "
            + str(Path("/proc/self/ns/pid").readlink())
        )
    except OSError:
        return None


def _start(pid: int) -> int | None:
    """When a process started, in ticks since boot: with it a pid that is used again is another process. None if it ended."""
    try:
        # the name, in parentheses, may hold anything
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return None
    return None if state in "ZX" else int(fields[18])


class _Beats:
    """The leases of this process, and the one thread that touches them."""

    def __init__(self) -> None:
        self._held: set[Lease] = set()
        self._change = threading.Condition()
        self._touching = threading.Lock()
        self._thread: threading.Thread | None = None

    def add(self, lease: Lease) -> None:
        """Keep touching it."""
        with self._change:
            self._held.add(lease)
            if self._thread is None:
                self._thread = threading.Thread(target=self._beat, name="leases", daemon=True)
                self._thread.start()
            self._change.notify()

    def remove(self, lease: Lease) -> None:
        """Touch it no more. A touch under way ends first: in a bucket it writes the lease, which may be removed next."""
        with self._touching:
            self._forget(lease)

    def _forget(self, lease: Lease) -> None:
        with self._change:
            self._held.discard(lease)

    def _beat(self) -> None:
        while True:
            with self._change:
                if not self._held:
                    self._thread = None
                    return
                self._change.wait(min(lease.beat_s for lease in self._held))
                leases = list(self._held)
            for lease in leases:
                # a storage that fails now, in whatever way, may answer at the next beat: expiry allows for five, and to wait
                # for one storage would let the leases on others expire
                with self._touching, suppress(Exception), impatient():
                    if lease in self._held and not (lease.ours() and lease.place.touch(lease.name)):
                        self._forget(lease)


_beats = _Beats()


def _forked() -> None:
    global _beats
    _beats = _Beats()


os.register_at_fork(after_in_child=_forked)
