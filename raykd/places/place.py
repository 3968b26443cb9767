"""A place: bytes under names, each written once and whole, wherever it lies.

    create(name, data) -> True for the first, False for all others          read | exists | status | names | files
    rename, remove, touch, move, discard                                    now() = the clock that `modified` is read by
    inner("leases") -> the place below                                      local(name, check) -> a file of this node

A name is a relative path with "/" between its parts: "views/00000/00000003.arrow". Everything that processes of several
machines agree on goes through `create`: of any number of writers one gets True, and no reader ever sees half of its bytes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Status:
    """What a place knows of a file without reading it."""

    size: int
    """Bytes."""
    modified: float
    """Seconds since 1970 at which it was last written or touched, by the place's own clock."""


class Place(ABC):
    """Where files lie under names. A value: it travels to other processes, and two of one address are one place."""

    @abstractmethod
    def create(self, name: str, data: bytes | bytearray) -> bool:
        """Put `data` under `name`, or return False if something is there already; that then stays as it is.

        Raises `OSError` that names the file if it cannot be done. Then nothing of it is under `name`.
        """

    @abstractmethod
    def read(self, name: str, *, limit: int) -> bytes:
        """The bytes under `name`.

        Raises `FileNotFoundError` if there are none, `ValueError` if it is no regular file or has more than `limit` bytes.
        """

    @abstractmethod
    def status(self, name: str) -> Status | None:
        """Size and time of the file under `name`; None if there is nothing."""

    def exists(self, name: str) -> bool:
        """Whether anything lies under `name`."""
        return self.status(name) is not None

    @abstractmethod
    def names(self, under: str = "") -> set[str]:
        """What lies directly under `under`, files and folders, by the last part of its name; one listing, nothing is read."""

    @abstractmethod
    def files(self, under: str = "") -> dict[str, Status]:
        """Every file under `under`, however deep, by its name in this place. Leaves out what a writer has not finished."""

    @abstractmethod
    def rename(self, name: str, new: str) -> bool:
        """Give the file another name; False if it was gone."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove the file; one that is gone is removed."""

    def move(self, folder: str, new: str) -> bool:
        """Give all that lies under `folder` another name in one step; False if it was gone, or if there are no folders here."""
        return False

    def discard(self, under: str) -> None:
        """Remove every file under `under`, and the folder."""
        for name in self.files(under):
            self.remove(name)

    @abstractmethod
    def touch(self, name: str) -> bool:
        """Set `modified` of a file to now, by the place's own clock; False if it is gone."""

    @abstractmethod
    def now(self) -> float:
        """What the place's own clock says, in seconds since 1970: to be compared with `modified`. Costs a small write."""

    @abstractmethod
    def inner(self, name: str) -> Place:
        """The place below: its names are those here that begin with `name/`."""

    @abstractmethod
    def local(self, name: str, check: Callable[[Path], None], *, limit: int) -> Path:
        """A file of this node with the bytes under `name`, once `check(file)` has passed, which raises `ValueError` if not.

        A folder gives the file itself. A bucket's is fetched once a node, and `check` sees it before anyone else does.

        Raises `FileNotFoundError` if there is none, `ValueError` if what the place holds is no regular file, has more than
        `limit` bytes or fails the check.
        """

    @abstractmethod
    def sweep(self, under: str) -> None:
        """Remove what writers that were killed left directly under `under` a day ago. Never fails."""
