"""Knowledge distillation: the teacher's softened distribution is the student's target.

    KL              tau^2 sum_c p_T log(p_T / p_S)           p = softmax(z / tau)
    ReverseKL       tau^2 sum_c p_S log(p_S / p_T)           mode-seeking: the student may ignore what it cannot fit
    JensenShannon   tau^2 (KL(p_T || m) + KL(p_S || m)) / 2  m = (p_T + p_S) / 2, at most tau^2 ln 2

tau^2 keeps the size of the gradient while tau changes. Softmax and logarithms are in float32.
The factor on the reverse and the symmetric form follows the forward form [interpretation].

Shapes: B batch, C classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from raykd.objective import Divergence


def _log_softmax_BC(logits_BC: Tensor, tau_B: Tensor) -> Tensor:
    return (logits_BC.float() / tau_B[:, None]).log_softmax(-1)


def _kl_B(log_p_BC: Tensor, log_q_BC: Tensor) -> Tensor:
    return (log_p_BC.exp() * (log_p_BC - log_q_BC)).sum(-1)


@dataclass(frozen=True)
class KL(Divergence):
    """Forward: the teacher is the reference, so the student covers all it gives weight to.

    Source: G. Hinton, O. Vinyals, J. Dean, "Distilling the Knowledge in a Neural Network", 2015, section 2.
    """

    def __call__(self, student: Tensor, teacher: Tensor, labels_B: Tensor, tau_B: Tensor) -> Tensor:
        """[B]"""
        return tau_B**2 * _kl_B(_log_softmax_BC(teacher, tau_B), _log_softmax_BC(student, tau_B))

    def __str__(self) -> str:
        return "KL"


@dataclass(frozen=True)
class ReverseKL(Divergence):
    """Backward: the student is the reference.

    Source: Y. Gu, L. Dong, F. Wei, M. Huang, "MiniLLM: Knowledge Distillation of Large Language Models", 2023, equation 1.
    """

    def __call__(self, student: Tensor, teacher: Tensor, labels_B: Tensor, tau_B: Tensor) -> Tensor:
        """[B]"""
        return tau_B**2 * _kl_B(_log_softmax_BC(student, tau_B), _log_softmax_BC(teacher, tau_B))

    def __str__(self) -> str:
        return "ReverseKL"


@dataclass(frozen=True)
class JensenShannon(Divergence):
    """Symmetric and bounded: both against their mean.

    Source: J. Lin, "Divergence Measures Based on the Shannon Entropy", 1991, equation 4.1 with equal weights.
    """

    def __call__(self, student: Tensor, teacher: Tensor, labels_B: Tensor, tau_B: Tensor) -> Tensor:
        """[B]"""
        log_p_BC, log_q_BC = _log_softmax_BC(teacher, tau_B), _log_softmax_BC(student, tau_B)
        log_mean_BC = torch.logaddexp(log_p_BC, log_q_BC) - math.log(2)
        return tau_B**2 * (_kl_B(log_p_BC, log_mean_BC) + _kl_B(log_q_BC, log_mean_BC)) / 2

    def __str__(self) -> str:
        return "JensenShannon"
