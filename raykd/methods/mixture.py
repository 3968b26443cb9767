"""Probabilities: several teachers mixed as distributions, where `Logits` adds up what they say before the softmax.

    Logits           z = sum_t w_t z_t                               softmax(z / tau) is their geometric mean
    Probabilities    log p = log sum_t w_t softmax(z_t / tau)        p is their arithmetic mean; z = tau log p

A class that one teacher thinks likely stays likely in the arithmetic mean; in the geometric one, a teacher that excludes it has
a veto. What goes to the divergence is tau log p, of which the softmax at tau is the mixture: so any divergence of logits takes
it. One that looks at another temperature than its own tau sees what that mixture is there.

Weights are normalised [interpretation]: only their ratios count, as for logits they would not. A row where all are 0 has a flat
mixture, as it has with `Logits`. A weight of exactly 0 gets no gradient.

Shapes: T teachers, B batch, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from raykd.signals import LOGITS, Observable
from raykd.sparse import NOWHERE
from raykd.terms import Mixture


@dataclass(frozen=True)
class Probabilities(Mixture):
    """The weighted arithmetic mean of the teachers' softened distributions, as logits.

    Source: G. Hinton, O. Vinyals, J. Dean, "Distilling the Knowledge in a Neural Network", 2015, section 1.
    """

    def check(self, signal: Observable) -> None:
        """Only logits have probabilities."""
        if signal != LOGITS:
            raise ValueError(f"mixture {self} of {signal}: only logits have probabilities; Logits() would be right")

    def __call__(self, signals: Tensor, weight_TB: Tensor, tau_B: Tensor) -> Tensor:
        """[B, C]"""
        tau_B1 = tau_B[:, None]
        log_p_TBC = (signals.float() / tau_B1).log_softmax(-1)
        mixed_BC = (_log(weight_TB)[:, :, None] + log_p_TBC).logsumexp(0)
        return tau_B1 * mixed_BC.log_softmax(-1)

    def __str__(self) -> str:
        return "probabilities"


def _log(weight_TB: Tensor) -> Tensor:
    """Its logarithm, and neither it nor its gradient is infinite at 0."""
    tiny = torch.finfo(torch.float32).tiny
    return torch.where(weight_TB > 0, weight_TB.float().clamp(min=tiny).log(), NOWHERE)
