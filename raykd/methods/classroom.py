"""ClassroomKD: mentors of any size teach a student, each only where it knows better, and more gently the further ahead it is.

    certainty    w = p(label)                                       of each mentor and of the student
    rank         r_m = n w_m / (sum over mentors and student of w)  n mentors
    filter       mentor m teaches iff r_m >= r_s
    mentoring    tau_m = base + stretch |r_m - r_s| / max(r_m, r_s)

    L = w_s CE + sum over teaching m of r_m tau_m^2 KL(p_m || p_s)       ranks, filter and temperatures carry no gradient

Mentors are teachers and frozen peers: `teachers={"teacher": ..., "peer0": ...}`. Two readings: per="sample" follows the paper's
prose, each row ranks the mentors anew; per="batch" follows what its authors are said to compute: one certainty a batch, the
geometric mean of p(label) over its rows, and shares r / n rounded to two decimals. Several workers rank by the rows of all.
A mixed row is ranked by its own label [interpretation].

Source: S. Sarode et al., "Classroom-Inspired Multi-Mentor Distillation with Adaptive Learning Strategies", 2024, section 3.

Shapes: T mentors, B batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from raykd.batch import Batch
from raykd.collective import mean_over_rows
from raykd.methods.kl import KL
from raykd.objective import STUDENT, Needs, Objective, SampleWeight, Temperature, Weighting
from raykd.signals import LOGITS
from raykd.terms import Constant, CrossEntropy, Distill

Per = Literal["sample", "batch"]
READS = frozenset({"dense", "topk"})


def classroom(
    *, per: Per = "sample", stretch: float = 12.0, base: float = 1.0, filtering: bool = True, mentoring: bool = True
) -> Objective:
    """The paper's objective, about all teachers of a stage. `filtering` and `mentoring` are its ablations.

    Without filtering every mentor teaches every row, by its rank. Without mentoring all do at the temperature `base`, which is
    what is left of the formula [interpretation]. The paper's stretch is 12, and 4 for ImageNet.
    """
    weights = KnowledgeFilter(per) if filtering else Rank(per)
    temperature = Mentoring(stretch, base, per) if mentoring else Constant(base)
    return Certainty(per) * CrossEntropy() + Distill(KL(), weights, temperature)


@dataclass(frozen=True)
class Rank(Weighting):
    """Each mentor by its share of all certainty, 0 to n; with the student's they sum to n."""

    reads: ClassVar[frozenset[str]] = READS
    per: Per = "sample"

    def __post_init__(self) -> None:
        _check(self)

    def needs(self, teachers: Sequence[str]) -> Needs:
        """Everybody's logits."""
        return _needs(teachers)

    def __call__(self, batch: Batch, names: Sequence[str]) -> Tensor:
        """[T, B]"""
        return _ranks(batch, names, self.per)[0]

    def __str__(self) -> str:
        return f"rank per {self.per}"


@dataclass(frozen=True)
class KnowledgeFilter(Weighting):
    """The same, and 0 for a mentor that ranks below the student."""

    reads: ClassVar[frozenset[str]] = READS
    per: Per = "sample"

    def __post_init__(self) -> None:
        _check(self)

    def needs(self, teachers: Sequence[str]) -> Needs:
        """Everybody's logits."""
        return _needs(teachers)

    def __call__(self, batch: Batch, names: Sequence[str]) -> Tensor:
        """[T, B]"""
        mentors_TB, student_1B = _ranks(batch, names, self.per)
        return mentors_TB * (mentors_TB >= student_1B)

    def __str__(self) -> str:
        return f"knowledge filter per {self.per}"


@dataclass(frozen=True)
class Mentoring(Temperature):
    """The softer, the further a mentor's rank is from the student's: between `base` and `base + stretch`.

    Raises `ValueError` for a base that is not above 0, or a negative stretch.
    """

    reads: ClassVar[frozenset[str]] = READS
    stretch: float = 12.0
    base: float = 1.0
    per: Per = "sample"

    def __post_init__(self) -> None:
        _check(self)
        if not (self.base > 0 and self.stretch >= 0):
            raise ValueError(f"{self}: a base above 0 and a stretch of 0 or more would be right")

    def needs(self, teachers: Sequence[str]) -> Needs:
        """Everybody's logits."""
        return _needs(teachers)

    def __call__(self, batch: Batch, names: Sequence[str]) -> Tensor:
        """[T, B]"""
        mentors_TB, student_1B = _ranks(batch, names, self.per)
        # two ranks of 0 are equal, and 0 / 0 is not
        larger_TB = torch.maximum(mentors_TB, student_1B).clamp(min=torch.finfo(mentors_TB.dtype).tiny)
        return self.base + self.stretch * (mentors_TB - student_1B).abs() / larger_TB

    def __str__(self) -> str:
        return f"tau {self.base:g} + {self.stretch:g} gap per {self.per}"


@dataclass(frozen=True)
class Certainty(SampleWeight):
    """The student's own: p_s(label), of the row or of the batch."""

    per: Per = "sample"

    def __post_init__(self) -> None:
        _check(self)

    def needs(self, teachers: Sequence[str]) -> Needs:
        """The student's logits."""
        return _needs(())

    def __call__(self, batch: Batch) -> Tensor:
        """[B]"""
        return _over(batch.student_log_true_class_probability_B()[None], self.per).exp()[0]

    def __str__(self) -> str:
        return f"certainty per {self.per}"


def _ranks(batch: Batch, names: Sequence[str], per: Per) -> tuple[Tensor, Tensor]:
    """Ranks of the mentors [T, B] and of the student [1, B], by a softmax: p(label) itself may be 0 in float32 for all."""
    log_w_TB = batch.log_true_class_probability_TB(names)
    log_w_1B = batch.student_log_true_class_probability_B()[None]
    share_SB = _over(torch.cat([log_w_TB, log_w_1B]), per).softmax(0)
    if per == "batch":
        share_SB = share_SB.round(decimals=2)
    return len(names) * share_SB[:-1], len(names) * share_SB[-1:]


def _over(log_w_SB: Tensor, per: Per) -> Tensor:
    return log_w_SB if per == "sample" else mean_over_rows(log_w_SB).expand_as(log_w_SB)


def _needs(teachers: Sequence[str]) -> Needs:
    return {name: frozenset({LOGITS}) for name in (STUDENT, *teachers)}


def _check(piece: Rank | KnowledgeFilter | Mentoring | Certainty) -> None:
    if piece.per not in get_args(Per):
        raise ValueError(f"per={piece.per!r} of {type(piece).__name__}: {' or '.join(get_args(Per))} would be right")
