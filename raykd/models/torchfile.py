"""Files of `torch.save`: looked through before torch reads them, and looked at after.

    PK...      a zip file: nothing compressed, nothing twice, no more bytes in it than it has; its pickles (pickles.py)
    \\x80...    the older form: five pickles, then the numbers

torch's weights-only reader refuses code. It does unpack whatever was compressed, a gigabyte from a megabyte, builds whatever
plain values a pickle asks for, and makes of one number a tensor of 10^12 that only claims to be there.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from typing import IO, Any

import torch
from torch import Tensor, nn

from raykd.pickles import check_pickle

ZIP, PICKLE = b"PK", b"\x80"
PICKLES = 5  # of the older form: magic number, version, system, what was saved, names of the storages


def load(file: IO[bytes]) -> Any:
    """What `torch.save` wrote, on the CPU. Raises `ValueError` for what it would not have written, or whatever torch raises."""
    start = file.read(2)
    file.seek(0)
    if start == ZIP:
        _check_zip(file)
    elif start[:1] == PICKLE:
        _check_pickles(file)
    else:
        raise ValueError(f"it starts with {start!r}, not as a file of torch does")
    file.seek(0)
    found = torch.load(file, map_location="cpu", weights_only=True)
    check_tensors(found)
    return found


def check_tensors(found: object) -> None:
    """Raise `ValueError` for a tensor that is not simply all of its numbers in memory."""
    waiting, seen = [found], set[int]()
    while waiting:
        each = waiting.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        if isinstance(each, Mapping):
            waiting += [*each.keys(), *each.values()]
        elif isinstance(each, list | tuple | set | frozenset):
            waiting += each
        elif isinstance(each, Tensor) and not _plain(each):
            kind = str(each.layout).removeprefix("torch.")
            raise ValueError(
                f"it has a tensor of shape {list(each.shape)[:8]} ({kind}, {each.device}) without its numbers"
            )


def _plain(tensor: Tensor) -> bool:
    if type(tensor) not in (Tensor, nn.Parameter, nn.Buffer) or tensor.layout != torch.strided or tensor.is_quantized:
        return False
    if tensor.device.type != "cpu" or tensor.is_nested:
        return False
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def _check_zip(file: IO[bytes]) -> None:
    size = file.seek(0, io.SEEK_END)
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            if len({member.filename for member in members}) < len(members):
                raise ValueError("it has two members of one name")
            if sum(member.file_size for member in members) > size:
                raise ValueError("its members are larger than itself")
            for member in members:
                if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
                    raise ValueError(f"its member {member.filename!r} is compressed, which torch.save does not do")
                if member.filename.endswith(".pkl"):
                    check_pickle(io.BytesIO(archive.read(member)))
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError, EOFError) as error:
        raise ValueError(f"it is no whole zip file: {error}") from error


def _check_pickles(file: IO[bytes]) -> None:
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    for _ in range(PICKLES):
        if file.tell() < size:
            check_pickle(file)
