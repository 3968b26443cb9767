"""Tokenizers: text in files as whole numbers, and back.

    bytes         a token is a byte, 256 of them                                  never fails
    characters    a token is a character's place in a sorted alphabet             text is utf-8
    vocabulary    a tokenizer.json of Hugging Face, read by `tokenizers` alone    text is utf-8; the extra `hf`

A tokenizer is known by its `content`, never by where it lies. No token is added that is not in the text.

Shapes: N tokens of a file
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raykd.data.digest import file_digest

CHARACTERS = 4096
"""The most that an alphabet may have."""
FILE = "tokenizer.json"


class Tokenizer(ABC):
    """Between text in a file and tokens."""

    @property
    @abstractmethod
    def size(self) -> int:
        """How many different tokens there are."""

    @property
    @abstractmethod
    def content(self) -> str:
        """What it is, in a line: equal for equal tokenizers, wherever they lie."""

    @abstractmethod
    def encode(self, path: Path) -> NDArray[Any]:
        """The tokens of a file, in the smallest of uint8, uint16 and uint32. [N]"""

    @abstractmethod
    def decode(self, tokens: Iterable[int]) -> str:
        """Their text, for people."""

    @property
    def libraries(self) -> dict[str, str]:
        """Versions of what makes the tokens, besides raykd."""
        return {}


@dataclass(frozen=True)
class Bytes(Tokenizer):
    """Any file is readable."""

    @property
    def size(self) -> int:
        """256."""
        return 256

    @property
    def content(self) -> str:
        """Its name."""
        return "bytes"

    def encode(self, path: Path) -> NDArray[np.uint8]:
        """The file as it is. [N]"""
        return np.frombuffer(path.read_bytes(), np.uint8)

    def decode(self, tokens: Iterable[int]) -> str:
        """As utf-8; what is none is shown as a replacement character."""
        return bytes(tokens).decode("utf-8", errors="replace")


@dataclass(frozen=True)
class Characters(Tokenizer):
    """The characters of an alphabet, in the order of their code points.

    Raises `ValueError` for an alphabet of none or of more than 4,096.
    """

    alphabet: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "alphabet", "".join(sorted(set(self.alphabet))))
        if not 1 <= len(self.alphabet) <= CHARACTERS:
            found = f"an alphabet of {len(self.alphabet)} characters"
            raise ValueError(f"{found}: 1 to {CHARACTERS} would be right, or bytes as tokens")

    @property
    def size(self) -> int:
        """Of the alphabet."""
        return len(self.alphabet)

    @property
    def content(self) -> str:
        """Its characters."""
        return f"characters {self.alphabet}"

    def encode(self, path: Path) -> NDArray[Any]:
        """Places in the alphabet. [N]

        Raises `ValueError`, naming file and place, for what is no utf-8 and for a character of another alphabet.
        """
        codes_N = _code_points(text_of(path))
        known = _code_points(self.alphabet)
        places_N = np.searchsorted(known, codes_N).clip(max=len(known) - 1)
        unknown = np.flatnonzero(known[places_N] != codes_N)
        if len(unknown):
            found = f"{str(path)!r} has {chr(codes_N[unknown[0]])!r} at character {unknown[0]}"
            raise ValueError(f"{found}: one of the {len(known)} of the alphabet would be right")
        return _narrow(places_N, self.size)

    def decode(self, tokens: Iterable[int]) -> str:
        """Side by side."""
        return "".join(self.alphabet[token] for token in tokens)


@dataclass(frozen=True)
class Vocabulary(Tokenizer):
    """A `tokenizer.json`: the file, or the folder that it is in.

    Raises `ValueError` where there is none, where it cannot be read, and without the library `tokenizers`.
    """

    path: str

    @property
    def size(self) -> int:
        """One more than its highest token."""
        return self._loaded[1]

    @property
    def content(self) -> str:
        """A digest of the file."""
        return f"vocabulary {file_digest(self._file)}"

    @property
    def libraries(self) -> dict[str, str]:
        """That of `tokenizers`."""
        return {"tokenizers": version("tokenizers")}

    def encode(self, path: Path) -> NDArray[Any]:
        """Without beginning and end tokens, at any length. [N]

        Raises `ValueError`, naming file and place, for what is no utf-8.
        """
        return _narrow(
            np.array(self._loaded[0].encode(text_of(path), add_special_tokens=False).ids, np.int64), self.size
        )

    def decode(self, tokens: Iterable[int]) -> str:
        """As the tokenizer does, special tokens too."""
        return str(self._loaded[0].decode(list(tokens), skip_special_tokens=False))

    @property
    def _file(self) -> Path:
        given = Path(self.path)
        return given / FILE if given.is_dir() else given

    @property
    def _loaded(self) -> tuple[Any, int]:
        return _load(self._file, file_digest(self._file))


def text_of(path: Path) -> str:
    """A file as utf-8. Raises `ValueError` that names it and the first byte that is none."""
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{str(path)!r} is no utf-8 at byte {error.start}: bytes as tokens, or text in utf-8, would be right"
        ) from error


def alphabet_of(paths: Iterable[Path]) -> str:
    """The sorted characters of some files. Raises `ValueError` like `text_of`."""
    return "".join(sorted(set().union(*(set(text_of(path)) for path in paths))))


@lru_cache(maxsize=8)
def _load(file: Path, digest: str) -> tuple[Any, int]:  # noqa: ARG001  it tells versions of the file apart
    """The library's tokenizer, and its size."""
    try:
        from tokenizers import Tokenizer as Library
    except ImportError as error:
        raise ValueError(
            f"{str(file)!r} needs the library tokenizers, and it is not there: pip install 'raykd[hf]'"
        ) from error
    try:
        loaded = Library.from_file(str(file))
        size = max(loaded.get_vocab(with_added_tokens=True).values()) + 1
    except BaseException as error:  # it raises plain Exception for what it cannot read; a panic of it is not even that
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        reason = " ".join(str(error).split())[:120]
        raise ValueError(
            f"{str(file)!r} is no tokenizer ({reason}): a tokenizer.json of Hugging Face would be right"
        ) from error
    loaded.no_truncation()
    loaded.no_padding()
    return loaded, size


def _code_points(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le"), "<u4")


def _narrow(tokens_N: NDArray[Any], size: int) -> NDArray[Any]:
    return tokens_N.astype(next(kind for kind in (np.uint8, np.uint16, np.uint32) if size <= np.iinfo(kind).max + 1))
