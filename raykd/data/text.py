"""Plain text in files, for language models: what is the next token?

    file      t_0 t_1 t_2 ... t_L | ... t_2L | ...                 rows of L inputs, a row begins L after the one before it
    inputs    t_0 ... t_(L-1)           asked everywhere
    labels    t_1 ... t_L

So every token of a file but its first is a label once. The last row of a file is shorter: behind its end is nothing, and
nothing is asked there. A row is of one file. [interpretation] Nothing marks a file's beginning or end.

In memory are the tokens, one to four bytes each; rows are cut out when they are asked for.

Shapes: N rows, B rows of a batch, L positions
"""

from __future__ import annotations

import glob
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raykd import tokens
from raykd.data.digest import file_digest, joint_digest
from raykd.data.rows import Rows
from raykd.data.source import PLACE, Source
from raykd.data.tokenizers import Bytes, Characters, Tokenizer, Vocabulary, alphabet_of


@dataclass(frozen=True)
class Text(Source):
    """Rows of `length` tokens and their next ones, int64 [2, length], in files: the next token is the label.

    A row's id is its number, over all files in the order of their names. Identity is what the files and the tokenizer hold.

    Raises `ValueError` for a length below 1; when it is read, for files that are not there and text that is no utf-8, where the
    tokenizer needs it.
    """

    files: str | tuple[str, ...] = field(compare=False, metadata=PLACE)
    """Files, patterns such as "books/**/*.txt", and folders, which stand for the `.txt` in them; one alone is no tuple."""
    length: int = 64
    """L."""
    tokenizer: str = field(default="bytes", metadata=PLACE)
    """"bytes", "characters", or where a tokenizer.json of Hugging Face is."""
    alphabet: str = field(default="", metadata=PLACE)
    """The characters that are tokens; empty: those of the files. A test source needs its train source's: `train.characters`."""

    def __post_init__(self) -> None:
        files = (self.files,) if isinstance(self.files, str) else tuple(self.files)
        object.__setattr__(self, "files", files)
        if not files:
            raise ValueError("Text has no files: at least one file, folder or pattern would be right")
        if self.length < 1:
            raise ValueError(f"Text has length={self.length}: at least 1 position would be right")
        if self.alphabet and self.tokenizer != "characters":
            raise ValueError(f"Text has an alphabet and tokenizer={self.tokenizer!r}: 'characters' would be right")

    @property
    def classes(self) -> int:
        """As many as there are tokens."""
        return self._read_by.size

    @property
    def vocabulary(self) -> int:
        """As many as there are tokens."""
        return self._read_by.size

    @property
    def shape(self) -> tuple[int, ...]:
        """(2, length)."""
        return (2, self.length)

    @property
    def targets(self) -> int:
        """At every position of a whole row."""
        return self.length

    @property
    def characters(self) -> str:
        """The alphabet, where characters are tokens."""
        reader = self._read_by
        return reader.alphabet if isinstance(reader, Characters) else ""

    @property
    def revision(self) -> str:
        """A digest of what the files hold, in their order, and of the tokenizer."""
        return joint_digest([*map(file_digest, self.paths()), self._read_by.content])

    def libraries(self) -> dict[str, str]:
        """Of the tokenizer."""
        return self._read_by.libraries

    def paths(self) -> list[Path]:
        """The files in the order of their names. Raises `ValueError` for a file or folder without any."""
        found = {path.resolve(): path for each in self.files for path in _paths(each)}
        return sorted(found.values(), key=lambda path: (path.name, path.parts))

    def decode(self, row: Iterable[int]) -> str:
        """The text of some tokens, for people; what stands behind an end is left out."""
        return self._read_by.decode(token for token in map(int, row) if token != tokens.NOTHING)

    def read(self) -> Rows:
        """Rows of each file, in the order of their names."""
        files = [self._read_by.encode(path) for path in self.paths()]
        ends = np.cumsum([len(file) for file in files])
        starts_N, ends_N = _cut([(end - len(file), end) for file, end in zip(files, ends, strict=True)], self.length)
        if not len(starts_N):
            raise ValueError(f"the files of Text hold no two tokens ({', '.join(self.files)}): give longer ones")
        tokens_all = np.concatenate(files)
        beside_L = np.arange(self.length)

        def labelled(places_B: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
            """Where the labels are, and whether there is one. [B, L]"""
            after_BL = starts_N[places_B][:, None] + beside_L + 1
            there_BL = after_BL < ends_N[places_B][:, None]
            return np.where(there_BL, after_BL, 1), there_BL

        def gather(places_B: NDArray[np.int64]) -> Tensor:
            after_BL, there_BL = labelled(places_B)
            tokens_BL = np.where(there_BL, tokens_all[after_BL - 1].astype(np.int64), tokens.NOTHING)
            return tokens.pack(torch.from_numpy(tokens_BL), torch.from_numpy(there_BL))

        def gather_labels(places_B: NDArray[np.int64]) -> Tensor:
            after_BL, there_BL = labelled(places_B)
            return torch.from_numpy(np.where(there_BL, tokens_all[after_BL].astype(np.int64), 0))

        ids_N = np.arange(len(starts_N), dtype=np.int64)
        return Rows(ids_N, np.zeros_like(ids_N), gather, None, gather_labels)

    @property
    def _read_by(self) -> Tokenizer:
        if self.tokenizer == "bytes":
            return Bytes()
        if self.tokenizer != "characters":
            return Vocabulary(self.tokenizer)
        if self.alphabet:
            return Characters(self.alphabet)
        paths = tuple(self.paths())
        return _of_files(paths, tuple(map(file_digest, paths)))


def _paths(given: str) -> list[Path]:
    """The files that one entry stands for."""
    if Path(given).is_file():
        return [Path(given)]
    pattern = f"{glob.escape(given)}/**/*.txt" if Path(given).is_dir() else given
    found = [Path(name) for name in glob.glob(pattern, recursive=True)]  # noqa: PTH207  pathlib's takes no absolute pattern
    found = [path for path in found if path.is_file()]
    if not found:
        what = "a folder with .txt files in it" if Path(given).is_dir() else "a file, a folder or a pattern of files"
        raise ValueError(f"Text finds no file at {given!r}: {what} would be right")
    return found


def _cut(files: list[tuple[int, int]], length: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where each row begins, and where its file ends. [N], [N]"""
    starts = [np.arange(start, max(end - 1, start), length, dtype=np.int64) for start, end in files]
    ends = [np.full(len(each), end, np.int64) for each, (_, end) in zip(starts, files, strict=True)]
    return np.concatenate(starts), np.concatenate(ends)


@lru_cache(maxsize=8)
def _of_files(paths: tuple[Path, ...], digests: tuple[str, ...]) -> Characters:  # noqa: ARG001  they tell versions apart
    return Characters(alphabet_of(paths))
