"""The 1,797 digits of 8x8 pixels that come with scikit-learn: the dataset that needs no download.

Source: Alpaydin, Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998 (its test part).
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import distribution

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raykd.data.rows import Rows, held
from raykd.data.source import Source
from raykd.identity import fingerprint


@dataclass(frozen=True)
class Digits(Source):
    """Handwritten digits, uint8 [1, 8, 8]; the file's 0..16 is scaled to 0..255. An id is the row's position."""

    classes = 10
    shape = (1, 8, 8)

    @property
    def revision(self) -> str:
        """A digest of pixels and labels."""
        return _digits()[2]

    def read(self) -> Rows:
        """The rows in scikit-learn's order."""
        images_N1HW, labels_N, _ = _digits()
        return held(images_N1HW, labels_N)


@lru_cache(maxsize=1)
def _digits() -> tuple[Tensor, NDArray[np.int64], str]:
    # the file and not `load_digits`: importing scikit-learn takes two seconds, and every worker would pay them
    path = distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")
    with gzip.open(str(path), "rt") as file:
        table_NV = np.loadtxt(file, np.int64, delimiter=",")  # 64 pixels, then the label
    ink_NHW, labels_N = table_NV[:, :-1].reshape(-1, 8, 8), table_NV[:, -1].copy()
    images_N1HW = torch.from_numpy((ink_NHW[:, None] * 255 + 8) // 16).to(torch.uint8)  # 8: round to nearest
    return images_N1HW, labels_N, fingerprint([images_N1HW, labels_N])
