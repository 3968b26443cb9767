"""HPM-KD's ensemble: learned attention over teachers that looks at the input, and mixes their logits row by row.

    h = MLP1([x; t_1; ..; t_M])        t_m learned embeddings of the teachers
    a = softmax(MLP2(h))               [B, M]
    P = sum_m a_m z_m                  DistillEnsemble(KL(), Gate()): L = KL(softmax(P / T) || softmax(z_S / T))
    R = -mean_b H(a)                   GateEntropy(): the gate that spreads its attention pays least

Gate, embeddings and student train together: the gate's gradient comes through the target of the divergence, so nothing here is
detached. It then drifts to the teacher nearest the student, which need not be the best one: `GateAccuracy()`, CE(P, y), asks
for that, and is no part of the paper [interpretation]. What the gate looks at is the raw input, flattened, unless told
otherwise; embeddings have 16 numbers [interpretation].

Source: G. Haase, P. da Silva, "HPM-KD: Hierarchical Progressive Multi-Teacher Knowledge Distillation", 2025.

Shapes: B batch, M teachers, C classes, D width of what the gate looks at, flattened.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raykd.batch import Batch
from raykd.objective import STUDENT, Compute, Context, Needs, Objective, Term, Weighting
from raykd.shown import Means, Total
from raykd.signals import INPUT, LOGITS, Observable
from raykd.terms import CrossEntropy, DistillEnsemble


def attended(
    divergence_term: DistillEnsemble, *, alpha: float = 0.5, entropy: float = 0.01, accuracy: float = 0.0
) -> Objective:
    """alpha D(P, z_S) + (1 - alpha) CE + entropy R + accuracy CE(P, y) for an ensemble that some gate weighs."""
    gate = divergence_term.weights
    return (
        alpha * divergence_term
        + (1 - alpha) * CrossEntropy()
        + entropy * GateEntropy(gate)
        + accuracy * GateAccuracy(gate)
    )


@dataclass(frozen=True)
class Gate(Weighting):
    """Attention over the teachers, for each row; it sums to 1.

    Raises `ValueError` for a width below 1, or a share of dropout outside of [0, 1).
    """

    of: Observable = INPUT
    """What it looks at in the student: its input, or any tap; no gradient flows back from there."""
    hidden: int = 128
    embedding: int = 16
    dropout: float = 0.2

    def __post_init__(self) -> None:
        if self.hidden < 1 or self.embedding < 1 or not 0 <= self.dropout < 1:
            raise ValueError(f"{self!r}: widths of 1 or more and a dropout in [0, 1) would be right")

    def needs(self, teachers: Sequence[str]) -> Needs:
        """What it looks at."""
        return {STUDENT: frozenset({self.of})}

    def build(self, context: Context) -> Compute:
        """One for these teachers."""
        return Attention(self, math.prod(context.shapes[STUDENT][self.of]), context.teachers, context.classes)

    def __str__(self) -> str:
        return f"gate on {self.of}"


class Attention(nn.Module):
    """A gate, built. Of each epoch it shows what it gave to whom while training, dropout included."""

    def __init__(self, gate: Gate, width: int, teachers: tuple[str, ...], classes: int):
        super().__init__()
        self.title, self.means = str(gate), Means(classes)
        self.of, self.teachers = gate.of, teachers
        self.embeddings_MD = nn.Parameter(torch.randn(len(teachers), gate.embedding))
        self.look = nn.Sequential(
            nn.Linear(width + len(teachers) * gate.embedding, gate.hidden), nn.ReLU(), nn.Dropout(gate.dropout)
        )
        self.score = nn.Linear(gate.hidden, len(teachers))

    def forward(self, batch: Batch, names: Sequence[str]) -> Tensor:
        """[M, B], in the order of the names."""
        attention_BM = self.attention(batch.student[self.of].detach())
        if self.training:
            self.means.add(torch.cat([attention_BM, torch.special.entr(attention_BM).sum(1, True)], 1), batch.labels_B)
        return attention_BM.T[[self.teachers.index(name) for name in names]]

    def shown(self, total: Total) -> dict[str, Any]:
        """`weight` of each teacher by class and its `mean` over the rows; `entropy`: the mean of H(a), in nats."""
        by_class, of_all = self.means.taken(total)
        if not of_all:
            return {}
        *mean_M, entropy = of_all
        columns = zip(*by_class, strict=True)
        weight = {name: list(weight_C) for name, weight_C in zip(self.teachers, columns, strict=False)}
        return {"weight": weight, "mean": dict(zip(self.teachers, mean_M, strict=True)), "entropy": entropy}

    def attention(self, seen: Tensor) -> Tensor:
        """[B, M], for what it looks at, [B, ...]; in the order of `teachers`."""
        seen_BD = seen.float().flatten(1)
        told_BD = self.embeddings_MD.flatten().expand(len(seen_BD), -1)
        scores_BM: Tensor = self.score(self.look(torch.cat([seen_BD, told_BD], 1)))
        return scores_BM.float().softmax(-1)


@dataclass(frozen=True)
class GateEntropy(Term):
    """-H(a) in nats: -ln M for a gate that attends to all teachers alike, 0 for one that attends to one."""

    weights: Weighting = field(default_factory=Gate)
    """The same spec as in the ensemble: equal specs are one module."""

    def needs(self, teachers: Sequence[str]) -> Needs:
        """What the gate looks at."""
        return self.weights.needs(teachers)

    def build(self, context: Context) -> Compute:
        """The gate's own attention."""
        gate, names = context.build(self.weights, context.teachers), context.teachers

        def compute(batch: Batch) -> Tensor:
            # of a teacher that the gate has given up, 0 is no place to differentiate x log x
            given_MB = gate(batch, names).clamp_min(torch.finfo(torch.float32).tiny)
            negative_B: Tensor = -torch.special.entr(given_MB).sum(0)
            return negative_B

        return compute

    def __str__(self) -> str:
        return "GateEntropy"


@dataclass(frozen=True)
class GateAccuracy(Term):
    """CE(P, y): how well the mixture answers. It trains the gate and nothing else."""

    weights: Weighting = field(default_factory=Gate)

    def needs(self, teachers: Sequence[str]) -> Needs:
        """What the gate looks at, and the teachers' logits."""
        mine = dict(self.weights.needs(teachers))
        return mine | {name: mine.get(name, frozenset()) | {LOGITS} for name in teachers}

    def build(self, context: Context) -> Compute:
        """With the gate's own attention."""
        gate, names = context.build(self.weights, context.teachers), context.teachers

        def compute(batch: Batch) -> Tensor:
            logits_MBC = torch.stack([_dense(batch, name) for name in names])
            mixture_BC = (gate(batch, names)[:, :, None] * logits_MBC).sum(0)
            answered_B: Tensor = F.cross_entropy(mixture_BC, batch.labels_B, reduction="none")
            return answered_B

        return compute

    def __str__(self) -> str:
        return "GateAccuracy"


def _dense(batch: Batch, name: str) -> Tensor:
    values = batch.teachers[name][LOGITS]
    assert isinstance(values, Tensor), "check_stored refuses sparse teachers when the stage is written"
    return values.float()
