"""A folder of this machine or of a mounted file system, and how bytes come to lie under a name of it, once.

    write a temporary name beside it -> fsync -> link to the name -> unlink the temporary -> fsync the folder

A link fails if its name exists, so the first of several writers wins, and no reader ever finds a half-written file under
a final name, whoever is killed. What a killed writer leaves is a temporary name, which no reader looks at; `sweep` removes
it when it is a day old.
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

from raykd.places.place import Place, Status

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
            temporary.parent.mkdir(parents=True, exist_ok=True)
            try:
                _write(temporary, data)
                return self.adopt(temporary, name)
            finally:
                temporary.unlink(missing_ok=True)
        except OSError as error:  # the failing call knows the temporary name only
            path = str(self.root / name)
            raise OSError(error.errno, f"cannot commit {len(data)} bytes: {error.strerror}", path) from error

    def temporary(self, name: str) -> Path:
        """A path beside `name` that nobody else uses, and that no reader takes for a file."""
        path = self.root / name
        return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(8)}{TEMPORARY}")

    def adopt(self, temporary: Path, name: str) -> bool:
        """Give a finished file that lies beside it its name, or return False if something has it; then it stays."""
        try:
            os.link(temporary, self.root / name)
        except FileExistsError:
            return False
        temporary.unlink()
        _sync(temporary.parent)
        return True

    def read(self, name: str, *, limit: int) -> bytes:
        """The bytes under `name`."""
        self._require_regular(name, limit)
        return (self.root / name).read_bytes()

    def status(self, name: str) -> Status | None:
        """Size and time; of a symbolic link its own."""
        try:
            found = (self.root / name).lstat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return Status(found.st_size, found.st_mtime)

    def names(self, under: str = "") -> set[str]:
        """What lies directly under `under`."""
        try:
            return {path.name for path in (self.root / under).iterdir()}
        except (FileNotFoundError, NotADirectoryError):
            return set()

    def files(self, under: str = "") -> dict[str, Status]:
        """Every file under `under`, but for temporary ones."""
        found = {}
        for path in _walk(self.root / under):
            name = path.relative_to(self.root).as_posix()
            if not path.name.endswith(TEMPORARY) and (status := self.status(name)) is not None:
                found[name] = status
        return found

    def rename(self, name: str, new: str) -> bool:
        """Give the file another name in one step: of several that rename it one gets True."""
        try:
            (self.root / name).rename(self.root / new)
        except FileNotFoundError:
            return False
        return True

    def remove(self, name: str) -> None:
        """Remove the file."""
        (self.root / name).unlink(missing_ok=True)

    def move(self, folder: str, new: str) -> bool:
        """Rename the folder; whoever has its files open or mapped keeps them."""
        (self.root / new).parent.mkdir(parents=True, exist_ok=True)
        return self.rename(folder, new)

    def discard(self, under: str) -> None:
        """Remove the folder and all in it."""
        with suppress(FileNotFoundError):  # another one that removes it at the same time goes on
            shutil.rmtree(self.root / under)

    def touch(self, name: str) -> bool:
        """Set `modified` to now; without a time of ours, a server of files takes its own."""
        try:
            os.utime(self.root / name)
        except FileNotFoundError:
            return False
        return True

    def now(self) -> float:
        """The time that the file system gives to a new file; this machine's if none can be made."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.root) as file:
                return os.fstat(file.fileno()).st_mtime
        except OSError:  # one who may only read still wants to know who is at work
            return time.time()

    def inner(self, name: str) -> Folder:
        """The folder below."""
        return Folder(self.root / name)

    def local(self, name: str, check: Callable[[Path], None], *, limit: int) -> Path:
        """The file itself, checked."""
        self._require_regular(name, limit)
        check(self.root / name)
        return self.root / name

    def sweep(self, under: str, *, older: float = DAY) -> None:
        """Remove the temporary files directly under `under` that were last written more than `older` seconds ago."""
        with suppress(OSError):  # a courtesy: it must not fail one who may only read, or who sweeps at the same time
            for temporary in (self.root / under).glob(f".*{TEMPORARY}"):
                if time.time() - temporary.lstat().st_mtime > older:
                    temporary.unlink()

    def _require_regular(self, name: str, limit: int) -> None:
        status = (self.root / name).lstat()  # a named pipe would block the open, a device would never end
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("it is not a regular file")
        if status.st_size > limit:
            raise ValueError(f"it has {status.st_size} bytes, more than the {limit} that it could have")

    def __str__(self) -> str:
        return str(self.root)


def _walk(folder: Path) -> Iterator[Path]:
    for base, _, names in os.walk(folder):
        for name in names:
            yield Path(base, name)


def _write(path: Path, data: bytes | bytearray) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with memoryview(data) as rest:
            written = 0
            while written < len(rest):
                written += os.write(descriptor, rest[written:])
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
