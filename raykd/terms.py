"""The pieces every method starts from: the labels' term, comparison with teachers, even weights, a fixed temperature.

    CrossEntropy                                    -log p_S(label)
    Distill(D, weights, temperature)                sum_t w[t,b] D(student_b, teacher_tb; tau[t,b])
    DistillEnsemble(D, weights, temperature)        D(student_b, mixture_t(w[t,b], teacher_tb; tau[b]); tau[b])
    Logits                                          the mixture sum_t w[t,b] teacher_tb

Shapes: T teachers, B batch, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from raykd.batch import Batch
from raykd.objective import (
    STUDENT,
    Compute,
    Context,
    Divergence,
    Needs,
    Spec,
    Stored,
    Temperature,
    Term,
    Weighting,
    reads_logits,
    union,
)
from raykd.signals import LOGITS, Observable
from raykd.sparse import Sparse


@dataclass(frozen=True)
class Uniform(Weighting):
    """Every teacher counts the same, and together they count 1."""

    def __call__(self, batch: Batch, names: Sequence[str]) -> Tensor:
        """[1, 1]"""
        return torch.full((1, 1), 1.0 / len(names), device=batch.labels_B.device)

    def __str__(self) -> str:
        return "uniform"


@dataclass(frozen=True)
class Constant(Temperature):
    """The same temperature for every teacher, row and epoch."""

    tau: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.tau) and self.tau > 0):
            raise ValueError(f"the temperature is {self.tau}: a finite number above 0 would be right")

    @property
    def values(self) -> tuple[float, ...]:
        """The one."""
        return (float(self.tau),)

    def __call__(self, batch: Batch, names: Sequence[str]) -> Tensor:
        """[1, 1]"""
        return torch.full((1, 1), float(self.tau), device=batch.labels_B.device)

    def __str__(self) -> str:
        return f"tau {self.tau:g}"


@dataclass(frozen=True)
class CrossEntropy(Term):
    """The labels' own term, -log p_S(label). A mixed row is shared between both labels."""

    def needs(self, teachers: Sequence[str]) -> Needs:
        """The student's logits."""
        return {STUDENT: frozenset({LOGITS})}

    def __call__(self, batch: Batch) -> Tensor:
        """[B]"""
        logits_BC = batch.student[LOGITS]
        own_B = F.cross_entropy(logits_BC, batch.labels_B, reduction="none")
        if batch.mix is None:
            return own_B
        partner_B = F.cross_entropy(logits_BC, batch.mix.labels_B, reduction="none")
        return batch.mix.share_B * own_B + (1 - batch.mix.share_B) * partner_B

    def __str__(self) -> str:
        return "CrossEntropy"


@dataclass(frozen=True)
class _Comparison(Term):
    """What comparing with teachers takes, however they are combined."""

    divergence: Divergence
    weights: Weighting = Uniform()
    temperature: Temperature = Constant()
    teachers: tuple[str, ...] = ()
    """The teachers it reads; empty: all of the stage."""

    def __post_init__(self) -> None:
        for name, kind in (("divergence", Divergence), ("weights", Weighting), ("temperature", Temperature)):
            if not isinstance(found := getattr(self, name), kind):
                raise ValueError(f"{name}={found!r} of {type(self).__name__}: a {kind.__name__} would be right")
        if isinstance(self.teachers, str):
            raise ValueError(f"teachers={self.teachers!r} of {type(self).__name__}: a tuple of names would be right")
        object.__setattr__(self, "teachers", tuple(self.teachers))

    def needs(self, teachers: Sequence[str]) -> Needs:
        """Both signals of the divergence, and what weights and temperature look at."""
        names = self.teachers or tuple(teachers)
        if not names:
            raise ValueError(
                f"the term {self} compares with teachers, and this stage has none: give it teachers={{...}}"
            )
        return union(piece.needs(names) for piece in self._pieces)

    def check_stored(self, teachers: Sequence[str], stored: Stored) -> None:
        """Asks itself and its pieces; if its divergence reads logits, its temperatures must be among the stored ones."""
        super().check_stored(teachers, stored)
        names = [name for name in self.teachers or teachers if name in teachers]
        for piece in self._pieces:
            piece.check_stored(names, stored)
        declared, found = stored.temperatures, self.temperature.values
        if declared is None or not reads_logits(self.divergence, names):
            return
        if found is None or not set(found) <= set(declared):
            known = ", ".join(f"{tau:g}" for tau in declared)
            raise ValueError(
                f"{self} reads logits at {self.temperature}, and {stored} can be read at {known} only: "
                "declare the temperature with the codec, or use dense_f16"
            )

    @property
    def _pieces(self) -> tuple[Spec, ...]:
        return self.divergence, self.weights, self.temperature

    @property
    def _said(self) -> list[str]:
        said = [str(self.divergence), str(self.temperature)]
        return said if isinstance(self.weights, Uniform) and len(self.teachers) <= 1 else [*said, str(self.weights)]

    def __str__(self) -> str:
        names = f" of {', '.join(self.teachers)}" if self.teachers else ""
        return f"{type(self).__name__}({', '.join(self._said)}{names})"


@dataclass(frozen=True)
class Distill(_Comparison):
    """Compare with each teacher, then add up: sum_t w[t,b] D(student_b, teacher_tb; tau[t,b])."""

    reads: ClassVar[frozenset[str]] = frozenset({"dense", "topk", "sampled"})  # it hands them on to its pieces

    def build(self, context: Context) -> Compute:
        """The divergence is built once per teacher, because an adapter fits one pair of widths."""
        names = self.teachers or context.teachers
        divergences = [context.build(self.divergence, (name,)) for name in names]
        weights, temperature = context.build(self.weights, names), context.build(self.temperature, names)
        ours, theirs = self.divergence.student, self.divergence.teacher

        def compute(batch: Batch) -> Tensor:
            size = (len(names), len(batch.labels_B))
            weight_TB = weights(batch, names).expand(size)
            tau_TB = temperature(batch, names).expand(size)
            rows = [
                divergence(batch.student[ours], batch.teachers[name][theirs], batch.labels_B, tau_TB[t])
                for t, (name, divergence) in enumerate(zip(names, divergences, strict=True))
            ]
            return (weight_TB * torch.stack(rows)).sum(0)

        return compute


class Mixture(Spec):
    """How several teachers become one, built to `(signals [T, B, ...], weight_TB, tau_B) -> [B, ...]`.

    tau is the temperature at which the mixture is then compared. A weight may be 0, and may carry a gradient.
    """

    def check(self, signal: Observable) -> None:
        """Raises `ValueError` for a signal that it does not mix."""


@dataclass(frozen=True)
class Logits(Mixture):
    """Added up as they are: sum_t w_t z_t, for any signal.

    Of logits, with weights that sum to 1, it is the geometric mean of the teachers' distributions, at any temperature.
    """

    def __call__(self, signals: Tensor, weight_TB: Tensor, tau_B: Tensor) -> Tensor:
        """[B, ...]"""
        return (weight_TB.reshape(*weight_TB.shape, *[1] * (signals.ndim - 2)) * signals).sum(0)

    def __str__(self) -> str:
        return "logits"


@dataclass(frozen=True)
class DistillEnsemble(_Comparison):
    """Mix the teachers' signals, then compare: D(student_b, sum_t w[t,b] teacher_tb; tau[b]).

    Logits are mixed class by class, so they must be dense, whatever the divergence reads. Teachers are cached apart: weights,
    mixture and temperature may change after they were asked. Raises `ValueError` for a signal that the mixture refuses.
    """

    mixture: Mixture = Logits()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.mixture, Mixture):
            raise ValueError(f"mixture={self.mixture!r} of {type(self).__name__}: a Mixture would be right")
        self.mixture.check(self.divergence.teacher)

    def build(self, context: Context) -> Compute:
        """The mixture is one teacher to the divergence and to the temperature."""
        names = self.teachers or context.teachers
        divergence, mixture = context.build(self.divergence, names), context.build(self.mixture, names)
        weights, temperature = context.build(self.weights, names), context.build(self.temperature, names)
        ours, theirs = self.divergence.student, self.divergence.teacher

        def compute(batch: Batch) -> Tensor:
            signals = torch.stack([_dense(batch.teachers[name][theirs]) for name in names])
            weight_TB = weights(batch, names).expand(signals.shape[:2])
            tau = temperature(batch, names)
            if tau.ndim == 2 and len(tau) > 1:
                raise ValueError(f"{self.temperature} gives each teacher a temperature of its own: a mixture has one")
            tau_B = tau.expand(1, len(batch.labels_B))[0]
            return divergence(batch.student[ours], mixture(signals, weight_TB, tau_B), batch.labels_B, tau_B)

        return compute

    @property
    def _pieces(self) -> tuple[Spec, ...]:
        return *super()._pieces, self.mixture

    @property
    def _said(self) -> list[str]:
        return super()._said if isinstance(self.mixture, Logits) else [*super()._said, str(self.mixture)]


def _dense(values: Tensor | Sparse) -> Tensor:
    assert isinstance(values, Tensor), "check_stored refuses sparse teachers of a mixture when the stage is written"
    return values
