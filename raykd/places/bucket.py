"""A bucket of an object store, by fsspec: `s3://bucket/folder`, `gs://...`, `memory://...`.

    create   one PUT of the whole object that fails if its key exists (S3: If-None-Match, GCS: ifGenerationMatch=0)
    rename   copy and delete            touch   read and PUT            local   staging.py: a copy, once a node

A store that overwrites although it was told not to would break every promise above it. So file systems without such a PUT are
refused by name, and the first `create` of a process tries the store itself: the second of two must fail.

`rename` and `touch` are not one step here: two that rename at once may both get True. The cache needs neither to be right,
only leases use them, and those are advisory. Endpoints and credentials are fsspec's: its configuration files, or the
environment (`FSSPEC_S3_ENDPOINT_URL`, `AWS_PROFILE` ...).
"""

from __future__ import annotations

import functools
import inspect
import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import fsspec
from fsspec.asyn import AsyncFileSystem
from fsspec.registry import known_implementations
from fsspec.spec import AbstractFileSystem

from raykd.places.address import check_address
from raykd.places.place import Place, Status
from raykd.places.retry import Unavailable, persistent
from raykd.places.staging import staged

TIMES = ("LastModified", "updated", "last_modified", "mtime", "modified", "created")
"""What file systems call the time of the last write, in the order in which they are believed."""

UNANSWERED = {"ConnectionError", "HTTPClientError", "ClientConnectionError", "ClientPayloadError", "TransportError"}
"""What the libraries of stores (botocore, aiohttp, google-auth) call it that nobody answers."""

P = ParamSpec("P")
T = TypeVar("T")
_tried: set[str] = set()


def answered(operation: Callable[P, T]) -> Callable[P, T]:
    """`persistent`, for stores whose libraries have errors of their own: they become an `OSError`, which says their words.

    A store that does not answer is waited for as a file server is.
    """

    @persistent
    @functools.wraps(operation)
    def plain(*arguments: P.args, **settings: P.kwargs) -> T:
        try:
            return operation(*arguments, **settings)
        except Exception as error:
            library = type(error).__module__.partition(".")[0]
            if isinstance(error, OSError | ValueError) or library in ("builtins", "raykd"):
                raise
            kind = ConnectionError if UNANSWERED & {each.__name__ for each in type(error).__mro__} else OSError
            raise kind(f"{arguments[0]}: {type(error).__name__}: {' '.join(str(error).split())}") from error

    return plain


@dataclass(frozen=True)
class Bucket(Place):
    """A bucket, or what lies under a prefix of its keys. Making one connects to nothing."""

    url: str
    top: str = field(default="", compare=False, repr=False)
    """The URL where the store was or will be tried; empty for this one."""

    def __post_init__(self) -> None:
        check_address(self.url)
        protocol, _, address = self.url.partition("://")
        if not address.strip("/"):
            raise ValueError(f"{self.url} names no bucket: {protocol}://name/folder would be right")
        object.__setattr__(self, "url", self.url.rstrip("/"))
        _require_exclusive(self.url)

    def create(self, name: str, data: bytes | bytearray) -> bool:
        """Put `data` under `name` in one PUT, or return False if something is there already.

        Raises `OSError` that names the object if the store refuses it, `ValueError` if the store overwrites.
        """
        self._try()
        try:
            return self._put(name, data)
        except OSError as error:
            kind = Unavailable if isinstance(error, Unavailable) else OSError
            raise kind(error.errno, f"cannot commit {len(data)} bytes: {error}", f"{self}/{name}") from error

    @answered
    def read(self, name: str, *, limit: int) -> bytes:
        """The bytes under `name`."""
        self._require_size(name, limit)
        system, path = self._address(name)
        return bytes(system.cat_file(path))

    @answered
    def status(self, name: str) -> Status | None:
        """Size and time; a prefix of other keys is nothing."""
        system, path = self._address(name)
        try:
            info = system.info(path)
        except FileNotFoundError:
            return None
        return _status(info) if info["type"] == "file" else None

    @answered
    def names(self, under: str = "") -> set[str]:
        """What lies directly under `under`; a request for a thousand."""
        system, path = self._address(under)
        try:
            return {each.rstrip("/").rpartition("/")[2] for each in system.ls(path, detail=False)}
        except FileNotFoundError:
            return set()

    @answered
    def files(self, under: str = "") -> dict[str, Status]:
        """Every object under `under`; a request for a thousand."""
        system, path = self._address(under)
        start = len(self._address("")[1]) + 1
        try:
            found = system.find(path, detail=True)
        except FileNotFoundError:
            return {}
        # s3fs may name the prefix itself, as a folder
        return {name[start:]: _status(info) for name, info in found.items() if info["type"] == "file"}

    @answered
    def rename(self, name: str, new: str) -> bool:
        """Copy the object and delete it under its old name; False if it was gone."""
        system, path = self._address(name)
        try:
            system.cp_file(path, self._address(new)[1])
            system.rm_file(path)
        except FileNotFoundError:
            return False
        return True

    @answered
    def remove(self, name: str) -> None:
        """Delete the object."""
        system, path = self._address(name)
        try:
            system.rm_file(path)
        except FileNotFoundError:
            return

    @answered
    def touch(self, name: str) -> bool:
        """Write the object's own bytes once more; False if it is gone."""
        system, path = self._address(name)
        try:
            system.pipe_file(path, system.cat_file(path))
        except FileNotFoundError:
            return False
        return True

    def now(self) -> float:
        """The time that the store gives to a new object; three requests."""
        name = f".clock-{secrets.token_hex(8)}"
        self._put(name, b"")
        try:
            status = self.status(name)
        finally:
            self.remove(name)
        assert status is not None, "the store lost an object that it had just taken"
        return status.modified

    def inner(self, name: str) -> Bucket:
        """What lies under the prefix."""
        return Bucket(f"{self.url}/{name}", self.top or self.url)

    @answered
    def local(self, name: str, check: Callable[[Path], None], *, limit: int) -> Path:
        """The copy of this node, fetched now or before."""
        self._require_size(name, limit)
        system, path = self._address(name)
        return staged(f"{self}/{name}", lambda file: system.get_file(path, str(file)), check)

    def sweep(self, under: str) -> None:
        """Nothing: a PUT is whole or not at all, and what broken uploads cost is for the store's lifecycle rules."""

    @answered
    def _put(self, name: str, data: bytes | bytearray) -> bool:
        system, path = self._address(name)
        try:
            system.pipe_file(path, bytes(data), mode="create")
        except FileExistsError:
            return False
        except OSError:
            # of two at once S3 may tell the later that they conflict (409) instead of that the object is there (412)
            if self.exists(name):
                return False
            raise
        return True

    def _try(self) -> None:
        """Raises `ValueError` if the store lets the second of two `create` pass. Three requests, once a process."""
        top = self.top or self.url
        if top in _tried:
            return
        name = f".exclusive-{secrets.token_hex(8)}"
        try:
            self._put(name, b"1")
            if self._put(name, b"2"):
                raise ValueError(f"{top} overwrites objects although it is told not to: no cache can lie there")
        finally:
            self.remove(name)
        _tried.add(top)

    def _require_size(self, name: str, limit: int) -> None:
        status = self.status(name)
        if status is None:
            raise FileNotFoundError(f"{self}/{name} does not exist")
        if status.size > limit:
            raise ValueError(f"it has {status.size} bytes, more than the {limit} that it could have")

    def _address(self, name: str) -> tuple[AbstractFileSystem, str]:
        system, root = _system(self.url)
        return system, f"{root}/{name}" if name else root

    def __str__(self) -> str:
        return self.url


@functools.lru_cache(maxsize=256)
def _system(url: str) -> tuple[AbstractFileSystem, str]:
    """The file system of a URL and the path in it."""
    # listings are asked for to see what others did, so an old one is no use
    system, path = fsspec.core.url_to_fs(url, use_listings_cache=False)
    return system, path


os.register_at_fork(after_in_child=_system.cache_clear)  # a connection does not survive a fork


def _require_exclusive(url: str) -> None:
    """Raises `ValueError` unless the file system of a URL has a PUT that fails if the key exists."""
    protocol = url.partition("://")[0]
    try:
        kind = fsspec.get_filesystem_class(protocol)
    except ImportError as error:
        module = known_implementations[protocol]["class"].partition(".")[0]
        raise ValueError(f"{url} needs the package {module.replace('_', '-')}: pip install it ({error})") from None
    except ValueError:
        raise ValueError(f"{url}: fsspec knows no protocol {protocol!r}: s3, gs or a folder would be right") from None
    name = "_pipe_file" if issubclass(kind, AsyncFileSystem) else "pipe_file"
    put = getattr(kind, name)
    # fsspec's own, which the others inherit, looks first and writes then
    if put is getattr(AbstractFileSystem, name, None) or "mode" not in inspect.signature(put).parameters:
        raise ValueError(f"{url}: {kind.__name__} of fsspec cannot write an object only if there is none; use s3 or gs")


def _status(info: Mapping[str, Any]) -> Status:
    time = next((info[key] for key in TIMES if info.get(key) is not None), None)
    if isinstance(time, str):
        time = datetime.fromisoformat(time)
    assert time is not None, f"this file system tells no time of the last write, only {sorted(info)}"
    return Status(int(info["size"]), time.timestamp() if isinstance(time, datetime) else float(time))
