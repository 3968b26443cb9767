"""Weights in files: safetensors or torch files are read and checked, safetensors written; a digest names the content.

    bytes -> {"state_dict": {..}} or {"model": {..}} or {..} -> without "module." -> checked against the architecture

A file holds the state of a network's body. Reading never runs code: pickles go through torch's weights-only reader.
Paths are local or URLs that fsspec knows (s3://, memory://, file://).
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import re
import uuid
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import fsspec
import safetensors.torch
import torch
from fsspec.implementations.local import LocalFileSystem
from torch import Tensor

from raykd.models import torchfile
from raykd.models.architecture import Architecture
from raykd.models.fit import check_origin, check_tensors, completed
from raykd.models.network import Network
from raykd.places import check_address, make_folder, open_regular, persistent, require

NESTED = ("state_dict", "model")
ADVICE = "save safetensors or a plain state_dict"
LARGEST_HEADER = 100_000_000  # bytes; safetensors' own limit
ROOM = 32  # times the network's own bytes: a checkpoint of somebody's training also has an optimiser's state, averages, copies


@persistent
def load(path: str, architecture: Architecture) -> dict[str, Tensor]:
    """The tensors of a file, by name, as they are there: on the CPU, in the file's dtype.

    Raises `ValueError`, in one line, for a file that is missing, holds code, is truncated or of another kind, does not fit the
    architecture or was written for another one, and for numbers that are not finite.
    """
    needed = sum(tensor.nbytes for tensor in architecture.blueprint().body.state_dict().values())
    with _opened(path, limit=ROOM * needed + LARGEST_HEADER) as file:
        content: bytes = file.read()
    described = _header(io.BytesIO(content), path)
    stored = _pickled(content, path) if described is None else _safe(content, path)
    tensors = completed(_without_prefix(stored), architecture)
    check_tensors(tensors, architecture, path)
    if described and "architecture" in described:
        check_origin(described["architecture"], architecture, path)
    return tensors


def load_into(network: Network, path: str) -> None:
    """Gives a network the weights of a file. Raises like `load`."""
    network.body.load_state_dict(load(path, network.architecture))


@persistent
def save(path: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Writes a local safetensors file that is there completely or not at all; folders are made, an older file is replaced.

    Raises `ValueError` for a URL.
    """
    if "://" in path:
        raise ValueError(f"weights are saved to local paths, not to {path!r}: save, then copy")
    # safetensors refuses tensors that share memory
    copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    content = safetensors.torch.save(copies, dict(metadata))
    target = Path(path)
    make_folder(target.parent)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


@persistent
def metadata(path: str) -> dict[str, str]:
    """What a safetensors file says about itself; empty for other files. Raises `ValueError` for a missing or truncated file."""
    with _opened(path) as file:
        return _header(file, path) or {}


def digest(tensors: Mapping[str, Tensor]) -> str:
    """40 hexadecimal digits of every tensor's name, dtype, shape and bytes, in the order of names; no file format enters."""
    total = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        title = json.dumps([name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape)])
        total.update(f"{title}\n".encode())
        total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()[:40]


@persistent
def digest_of(path: str, architecture: Architecture) -> str:
    """The digest of a file's tensors; a local file is read once for each (path, time of change, size). Raises like `load`."""
    check_address(path)
    files, place = fsspec.core.url_to_fs(path)
    if not isinstance(files, LocalFileSystem) or not Path(place).is_file():
        return digest(load(path, architecture))
    state = Path(place).stat()
    return _digest_of(place, state.st_mtime_ns, state.st_size, architecture)


@lru_cache(maxsize=1024)
def _digest_of(path: str, mtime_ns: int, size: int, architecture: Architecture) -> str:  # noqa: ARG001  they are the key
    return digest(load(path, architecture))


def _opened(path: str, *, limit: int | None = None) -> IO[bytes]:
    check_address(path)
    files, place = fsspec.core.url_to_fs(path)
    try:
        local = isinstance(files, LocalFileSystem)
        opened: IO[bytes] = open_regular(place, limit=limit) if local else files.open(place, "rb")
    except FileNotFoundError as error:
        require(place)
        raise ValueError(f"no weights at {path!r}: there is no such file") from error
    except IsADirectoryError as error:
        raise ValueError(f"no weights at {path!r}: it is a folder, name the file in it") from error
    return opened


def _header(file: IO[bytes], path: str) -> dict[str, str] | None:
    """The metadata of a safetensors file, None for any other: 8 bytes of length, then JSON."""
    length = int.from_bytes(file.read(8), "little")
    start = file.read(length) if length <= LARGEST_HEADER else b""
    if not start.startswith(b"{"):
        return None
    try:
        header = json.loads(start)
    except (ValueError, RecursionError) as error:  # no JSON, or no text
        raise _unreadable(path, error) from error
    described = header.get("__metadata__", {})
    if not isinstance(described, dict) or not all(isinstance(text, str) for text in described.values()):
        raise _unreadable(path, "its metadata are no texts")
    return described


def _safe(content: bytes, path: str) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load(content)
    except safetensors.SafetensorError as error:
        raise _unreadable(path, error) from error


def _pickled(content: bytes, path: str) -> dict[str, Tensor]:
    if not content.startswith((torchfile.ZIP, torchfile.PICKLE)):
        raise _unreadable(path, f"it starts with {content[:8]!r}")
    try:
        stored = torchfile.load(io.BytesIO(content))
    except Exception as error:  # a damaged file fails in every way: KeyError, EOFError, RuntimeError ...
        # a weights-only reader stops at the first name that it does not know
        code = re.search(r"GLOBAL ([\w.]+)", str(error))
        if code is None and content.startswith(
            (b"\x80\x03", b"\x80\x04", b"\x80\x05")
        ):  # torch's own pickles are older
            raise ValueError(f"{path} is a pickle, which may hold code and is not run: {ADVICE}") from error
        if code is None:
            refused = isinstance(error, pickle.UnpicklingError)  # its own words tell how to run whatever the file holds
            raise _unreadable(path, "torch's weights-only reader refuses it" if refused else error) from error
        raise ValueError(f"{path} holds code ({code[1]}), which is not run: {ADVICE}") from error
    for key in NESTED:
        if isinstance(stored, Mapping) and isinstance(stored.get(key), Mapping):
            stored = stored[key]
            break
    return _named(stored, path)


def _named(stored: Any, path: str) -> dict[str, Tensor]:
    if not isinstance(stored, Mapping):
        raise ValueError(f"{path} holds a {type(stored).__name__}: weights are tensors by name, a state_dict")
    for name, value in stored.items():
        if not isinstance(value, Tensor) or not isinstance(name, str):
            raise ValueError(
                f"{path} holds a {type(value).__name__} at {str(name)[:80]!r}: weights are tensors by name, a state_dict"
            )
    return {name: tensor.detach() for name, tensor in stored.items()}


def _without_prefix(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Networks that were trained in parallel call every tensor "module."."""
    if not all(name.startswith("module.") for name in tensors):
        return tensors
    return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}


def _unreadable(path: str, reason: object) -> ValueError:
    line = " ".join(str(reason).split())[:120]
    return ValueError(
        f"{path} is truncated or no weights file ({line}): give safetensors or a state_dict saved by torch"
    )
