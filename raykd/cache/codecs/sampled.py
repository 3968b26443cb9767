"""A codec that keeps draws from the teacher's distribution: a few bytes a row, and no bias.

    id_j ~ p = softmax(v), j = 1 ... n            read as the empirical distribution, count(id) / n

    for every f:    E[ sum_j f(id_j) / n ] = E_p[f]          Var <= Var_p(f) / n

One draw is made in each n-th of the mass of p, so the variance is that of independent draws at most (the law of total
variance), and a class of probability p is drawn at least floor(n p) - 1 times. Cross-entropy with the teacher is linear in p,
so its value and gradient are unbiased at temperature 1. Each epoch over the same row and replica sees the same draws;
each replica has its own.

Source of the idea: A. Anshumann et al., "Sparse Logit Sampling: Accelerating Knowledge Distillation in LLMs", 2025. Here
draws are stratified and all have the same weight.

R rows of a shard, B rows of a batch, C classes, N draws.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from raykd import rng
from raykd.cache.codecs.codec import Codec, Column, chunks, flat
from raykd.cache.codecs.topk import class_ids, id_dtype
from raykd.sparse import Sparse


@dataclass(frozen=True)
class Sampled(Codec):
    """`draws` class ids a row, repeated as often as they were drawn: 2 bytes each up to 65,536 classes, 36 by default.

    An id twice takes what an id and a count would, and no draw is lost to a row with more classes than there is room for.
    The draws are a function of (seed, row id, replica), never of the batch.
    """

    draws: int = 18
    seed: int = 0

    name: ClassVar[str] = "sampled"
    kind: ClassVar[str] = "sampled"
    largest: ClassVar[float] = 2.0**126  # differences are finite

    def __post_init__(self) -> None:
        if self.draws < 1:
            raise ValueError(f"sampled with draws={self.draws}: one draw or more would be right")

    @property
    def temperatures(self) -> tuple[float, ...]:
        """Only the one that the draws were made at."""
        return (1.0,)

    def columns(self, shape: tuple[int, ...]) -> tuple[Column, ...]:
        """One column, `ids`, in rising order."""
        (classes,) = shape
        return (Column("ids", id_dtype(classes), self.draws),)

    def encode(self, values_R: NDArray[np.float32], ids_R: NDArray[np.int64], replica: int) -> dict[str, NDArray[Any]]:
        """The classes at N points of the cumulative distribution."""
        values_RC = flat(self, values_R, ids_R)
        uniform_RN = rng.uniform(self.seed, ids_R[:, None], replica, np.arange(self.draws))
        # in (0, 1], and looked up from the left: a class without mass is never drawn
        points_RN = (np.arange(self.draws) + 1 - uniform_RN) / self.draws
        parts = [_classes_at(values_RC[rows], points_RN[rows]) for rows in chunks(values_RC)]
        return {"ids": np.concatenate(parts).astype(id_dtype(values_RC.shape[1]))}

    def decode(self, columns: Mapping[str, Tensor], shape: tuple[int, ...]) -> Sparse:
        """Each class drawn, with its share of the draws; its repetitions are padding, and nothing is left for a tail."""
        (classes,) = shape
        ids_BN = class_ids(columns["ids"])
        count_BN = (ids_BN[:, :, None] == ids_BN[:, None, :]).sum(2)
        first_BN = F.pad(ids_BN[:, 1:] != ids_BN[:, :-1], (1, 0), value=True)
        values_BN = (count_BN / self.draws).log().masked_fill(~first_BN, -torch.inf)
        return Sparse(ids_BN, values_BN, torch.full_like(values_BN[:, :1], -torch.inf), self.temperatures, classes)

    def kl_bound(self, values_R: NDArray[np.float32], temperature: float = 1.0) -> NDArray[np.float64]:
        """Infinite: a class that was not drawn has nothing. What holds is the expectation and variance above. [R]"""
        return np.full(len(values_R), np.inf)


def _classes_at(values_RC: NDArray[np.float32], points_RN: NDArray[np.float64]) -> NDArray[np.int64]:
    mass_RC = np.exp(values_RC - values_RC.max(1, keepdims=True)).astype(np.float64)
    np.cumsum(mass_RC, 1, out=mass_RC)  # in place 56 us a row of 16,384 classes, beside it 145
    # in numpy this is a loop over rows
    found: NDArray[np.int64] = torch.searchsorted(
        torch.from_numpy(mass_RC), torch.from_numpy(points_RN * mass_RC[:, -1:])
    ).numpy()
    return found
