"""Probabilistic knowledge transfer: the probability that a row picks another as its neighbour is to be the same.

    p(j | i) = K(x_i, x_j) / sum over k != i of K(x_i, x_k)        K = (cos + 1) / 2, of the angle between two rows
    L = mean over rows i and j of p_T(j | i) log(p_T(j | i) / p_S(j | i))

over j != i: a row does not pick itself. A row's share is its own divergence over B; the mean of the shares is L.

[interpretation] The paper adds up; the weight 30000 of the protocol of Tian, Krishnan, Isola (2020) is for the mean over B^2
pairs. There a row may also pick itself, which takes about 2 / B of its probability. K is raised by 1e-7, so that opposite rows
have a logarithm. A row of zeros has the cosine 0 with all others. One or two rows leave no choice: 0.

Shapes: B batch, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from raykd.features import Features, directions, products, vectors
from raykd.sparse import NOWHERE

LEAST = 1e-7  # of the kernel


@dataclass(frozen=True)
class PKT(Features):
    """Kullback and Leibler's divergence of the rows' distributions over their neighbours. Weight 30000.

    Blind to rotations, and to the length of each vector.

    Source: N. Passalis, A. Tefas, "Learning Deep Representations with Probabilistic Knowledge Transfer", 2018, section 3.
    """

    relational: ClassVar[bool] = True

    def __call__(self, student: Tensor, teacher: Tensor, labels_B: Tensor, tau_B: Tensor) -> Tensor:
        """[B]"""
        log_q_BB, log_p_BB = _log_neighbours(vectors(student)), _log_neighbours(vectors(teacher))
        return (log_p_BB.exp() * (log_p_BB - log_q_BB)).mean(1)


def _log_neighbours(values_BD: Tensor) -> Tensor:
    """log p(j | i) at [i, j]. [B, B]; `NOWHERE`, about, for oneself."""
    cosine_BB = products(directions(values_BD))
    oneself_BB = torch.eye(len(cosine_BB), dtype=torch.bool, device=cosine_BB.device)
    kernel_BB = ((cosine_BB + 1) / 2).clamp(min=0) + LEAST
    return kernel_BB.log().masked_fill(oneself_BB, NOWHERE).log_softmax(1)
