"""An object store for tests that several processes share: fsspec's local file system with a PUT that fails if the key exists.

Two more are no bucket: `Careless` takes the word and overwrites all the same, `Forgetful` knows no such word.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem


class Drawer(LocalFileSystem):
    protocol = "drawer"

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return LocalFileSystem._strip_protocol(path.partition("://")[2] or path)

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        path = self._strip_protocol(path)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        hidden = f"{path}.{os.getpid()}-{id(value)}"
        Path(hidden).write_bytes(value)
        if mode == "create":
            try:
                os.link(hidden, path)
            finally:
                Path(hidden).unlink()
        else:
            Path(hidden).replace(path)

    def get_file(self, rpath: str, lpath: str, **kwargs: Any) -> None:
        if "DRAWER_LOG" in os.environ:
            with Path(os.environ["DRAWER_LOG"]).open("a") as log:
                log.write(f"{Path(rpath).name}\n")
        super().get_file(rpath, lpath, **kwargs)


class Careless(Drawer):
    protocol = "careless"

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        super().pipe_file(path, value)


class Forgetful(Drawer):
    protocol = "forgetful"

    def pipe_file(self, path: str, value: bytes, **kwargs: Any) -> None:
        super().pipe_file(path, value)


for kind in (Drawer, Careless, Forgetful):
    fsspec.register_implementation(kind.protocol, kind, clobber=True)
