"""A folder of this machine or of a mounted file system, and how bytes come to lie under a name of it, once.

    write a temporary name beside it -> fsync -> link to the name -> unlink the temporary -> fsync the folder

A link fails if its name exists, so the first of several writers wins, and no reader ever finds a half-written file under
a final name, whoever is killed. What a killed writer leaves is a temporary name, which no reader looks at; `sweep` removes
it when it is a day old.

What fails for the moment is tried again (retry.py): each step of `create` by itself, so that a link that was made and then
reported as failed is not taken for somebody else's. In a storage that is away nothing is missing, and nothing is made.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from raykd.places.anchor import make_folder, require
from raykd.places.place import Place, Status
from raykd.places.retry import TRANSIENT, Unavailable, persistent

DAY = 86400.0
TEMPORARY = ".tmp"


@dataclass(frozen=True)
class Folder(Place):
    """A folder. Nothing is made before the first `create`."""

    root: Path

    def create(self, name: str, data: bytes | bytearray) -> bool:
        """Put `data` under `name`, or return False if something is there already; that then stays as it is.

        Raises `OSError` that names the file if it cannot (disk full, no permission, no hard links on this file system): then
        there is nothing new under it, unless only the last step failed, which makes the name outlive a power cut.
        """
        temporary = self.temporary(name)
        try:
            try:
                _write(temporary, data)
                return self.adopt(temporary, name)
            finally:
                with suppress(OSError):  # it is swept one day
                    temporary.unlink(missing_ok=True)
        except OSError as error:  # the failing call knows the temporary name only
            path = str(self.root / name)
            kind = Unavailable if isinstance(error, Unavailable) else OSError
            raise kind(error.errno, f"cannot commit {len(data)} bytes: {error.strerror}", path) from error

    def temporary(self, name: str) -> Path:
        """A path beside `name` that nobody else uses, and that no reader takes for a file."""
        path = self.root / name
        return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(8)}{TEMPORARY}")

    def adopt(self, temporary: Path, name: str) -> bool:
        """Give a finished file that lies beside it its name, or return False if something has it; the first name stays too."""
        if not _link(temporary, self.root / name):
            return False
        _sync(temporary.parent)
        return True

    @persistent
    def read(self, name: str, *, limit: int) -> bytes:
        """The bytes under `name`."""
        self._require_regular(name, limit)
        return (self.root / name).read_bytes()

    @persistent
    def status(self, name: str) -> Status | None:
        """Size and time; of a symbolic link its own."""
        try:
            found = (self.root / name).lstat()
        except (FileNotFoundError, NotADirectoryError):
            require(self.root / name)
            return None
        return Status(found.st_size, found.st_mtime)

    @persistent
    def names(self, under: str = "") -> set[str]:
        """What lies directly under `under`."""
        try:
            return {path.name for path in (self.root / under).iterdir()}
        except (FileNotFoundError, NotADirectoryError):
            require(self.root / under)
            return set()

    @persistent
    def files(self, under: str = "") -> dict[str, Status]:
        """Every file under `under`, but for temporary ones."""
        found = {}
        for path in _walk(self.root / under):
            name = path.relative_to(self.root).as_posix()
            if not path.name.endswith(TEMPORARY) and (status := self.status(name)) is not None:
                found[name] = status
        require(self.root / under)
        return found

    @persistent
    def rename(self, name: str, new: str) -> bool:
        """Give the file another name in one step: of several that rename it one gets True."""
        try:
            (self.root / name).rename(self.root / new)
        except FileNotFoundError:
            require(self.root / name)
            return False
        return True

    @persistent
    def remove(self, name: str) -> None:
        """Remove the file."""
        try:
            (self.root / name).unlink()
        except FileNotFoundError:
            require(self.root / name)

    def move(self, folder: str, new: str) -> bool:
        """Rename the folder; whoever has its files open or mapped keeps them."""
        persistent(make_folder)((self.root / new).parent)
        return self.rename(folder, new)

    @persistent
    def discard(self, under: str) -> None:
        """Remove the folder and all in it."""
        try:
            shutil.rmtree(self.root / under)
        except FileNotFoundError:  # another one that removes it at the same time goes on
            require(self.root / under)

    @persistent
    def touch(self, name: str) -> bool:
        """Set `modified` to now; without a time of ours, a server of files takes its own."""
        try:
            os.utime(self.root / name)
        except FileNotFoundError:
            require(self.root / name)
            return False
        return True

    @persistent
    def now(self) -> float:
        """The time that the file system gives to a new file; this machine's if none can ever be made."""
        try:
            make_folder(self.root)
            with tempfile.TemporaryFile(dir=self.root) as file:
                return os.fstat(file.fileno()).st_mtime
        except OSError as error:
            if error.errno in TRANSIENT:
                raise
            return time.time()  # one who may only read still wants to know who is at work

    def inner(self, name: str) -> Folder:
        """The folder below."""
        return Folder(self.root / name)

    @persistent
    def local(self, name: str, check: Callable[[Path], None], *, limit: int) -> Path:
        """The file itself, checked."""
        self._require_regular(name, limit)
        check(self.root / name)
        return self.root / name

    def sweep(self, under: str, *, older: float = DAY) -> None:
        """Remove the temporary files directly under `under` that were last written more than `older` seconds ago."""
        with suppress(OSError):  # a courtesy: it must not fail one who may only read, or who sweeps at the same time
            if self._linked(under):  # what lies behind a link is not ours to remove
                return
            found = list((self.root / under).glob(f".*{TEMPORARY}"))
            now = self.now() if found else 0.0  # not this machine's: its clock may be days ahead
            for temporary in found:
                if now - temporary.lstat().st_mtime > older:
                    temporary.unlink()

    def _linked(self, under: str) -> bool:
        """Whether `under`, or a folder above it in this place, is a symbolic link."""
        parts = Path(under).parts
        return any(self.root.joinpath(*parts[: count + 1]).is_symlink() for count in range(len(parts)))

    def _require_regular(self, name: str, limit: int) -> None:
        status = (self.root / name).lstat()  # a named pipe would block the open, a device would never end
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("it is not a regular file")
        if status.st_size > limit:
            raise ValueError(f"it has {status.st_size} bytes, more than the {limit} that it could have")

    def __str__(self) -> str:
        return str(self.root)


def _walk(folder: Path) -> Iterator[Path]:
    for base, _, names in os.walk(folder, onerror=_gone):
        for name in names:
            yield Path(base, name)


def _gone(error: OSError) -> None:
    """A folder that somebody removed meanwhile is none; one that cannot be read is an error."""
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error


@persistent
def _write(path: Path, data: bytes | bytearray) -> None:
    """A new file, or anew what a try before began."""
    make_folder(path.parent)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    try:
        with memoryview(data) as rest:
            written = 0
            while written < len(rest):
                written += os.write(descriptor, rest[written:])
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@persistent
def _link(temporary: Path, path: Path) -> bool:
    """Whether this call gave the file its name."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        # two names: it was a try of ours before, or of the file server's own, and only the answer was lost
        return temporary.stat().st_nlink > 1
    return True


@persistent
def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
