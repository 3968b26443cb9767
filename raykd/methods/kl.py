"""Knowledge distillation: the teacher's softened distribution is the student's target.

    KL              tau^2 sum_c p_T log(p_T / p_S)           p = softmax(z / tau)
    ReverseKL       tau^2 sum_c p_S log(p_S / p_T)           mode-seeking: the student may ignore what it cannot fit
    JensenShannon   tau^2 (KL(p_T || m) + KL(p_S || m)) / 2  m = (p_T + p_S) / 2, at most tau^2 ln 2

tau^2 keeps the size of the gradient while tau changes. Softmax and logarithms are in float32.
The factor on the reverse and the symmetric form follows the forward form [interpretation].

A sparse teacher is known on K + 1 symbols, its stored classes and the tail. The student is summed up to the same symbols,
so the divergence is that of two coarser distributions: never above the dense one (data processing), and equal for K = C.
Draws of a teacher are an empirical distribution: KL from it has the gradient of the dense KL in expectation, and exceeds
the dense value by the entropy that few draws lack, on which the student has no influence.

Shapes: B batch, C classes, Y symbols: the C classes, or the K + 1 of a sparse teacher.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from raykd.objective import Divergence
from raykd.sparse import Sparse

Teacher = Tensor | Sparse


def _log_softmax_BC(logits_BC: Tensor, tau_B: Tensor) -> Tensor:
    return (logits_BC.float() / tau_B[:, None]).log_softmax(-1)


def both_BY(student: Tensor, teacher: Teacher, tau_B: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of student and teacher on the teacher's symbols."""
    if isinstance(teacher, Sparse):
        return teacher.student_log_probabilities(student, tau_B), teacher.log_probabilities(tau_B)
    return _log_softmax_BC(student, tau_B), _log_softmax_BC(teacher, tau_B)


def kl_B(log_p_BY: Tensor, log_q_BY: Tensor) -> Tensor:
    """KL(p, q) of log-probabilities. [B]"""
    return (log_p_BY.exp() * (log_p_BY - log_q_BY)).sum(-1)


@dataclass(frozen=True)
class KL(Divergence):
    """Forward: the teacher is the reference, so the student covers all it gives weight to.

    Source: G. Hinton, O. Vinyals, J. Dean, "Distilling the Knowledge in a Neural Network", 2015, section 2.
    """

    reads: ClassVar[frozenset[str]] = frozenset({"dense", "topk", "sampled"})

    def __call__(self, student: Tensor, teacher: Teacher, labels_B: Tensor, tau_B: Tensor) -> Tensor:
        """[B]"""
        log_q_BY, log_p_BY = both_BY(student, teacher, tau_B)
        return tau_B**2 * kl_B(log_p_BY, log_q_BY)

    def __str__(self) -> str:
        return "KL"


@dataclass(frozen=True)
class ReverseKL(Divergence):
    """Backward: the student is the reference.

    Source: Y. Gu, L. Dong, F. Wei, M. Huang, "MiniLLM: Knowledge Distillation of Large Language Models", 2023, equation 1.
    """

    reads: ClassVar[frozenset[str]] = frozenset({"dense", "topk"})

    def __call__(self, student: Tensor, teacher: Teacher, labels_B: Tensor, tau_B: Tensor) -> Tensor:
        """[B]"""
        log_q_BY, log_p_BY = both_BY(student, teacher, tau_B)
        return tau_B**2 * kl_B(log_q_BY, log_p_BY)

    def __str__(self) -> str:
        return "ReverseKL"


@dataclass(frozen=True)
class JensenShannon(Divergence):
    """Symmetric and bounded: both against their mean.

    Source: J. Lin, "Divergence Measures Based on the Shannon Entropy", 1991, equation 4.1 with equal weights.
    """

    reads: ClassVar[frozenset[str]] = frozenset({"dense", "topk"})

    def __call__(self, student: Tensor, teacher: Teacher, labels_B: Tensor, tau_B: Tensor) -> Tensor:
        """[B]"""
        log_q_BY, log_p_BY = both_BY(student, teacher, tau_B)
        log_mean_BY = torch.logaddexp(log_p_BY, log_q_BY) - math.log(2)
        return tau_B**2 * (kl_B(log_p_BY, log_mean_BY) + kl_B(log_q_BY, log_mean_BY)) / 2

    def __str__(self) -> str:
        return "JensenShannon"
