"""Contrastive representation distillation: a row's embedding in the student is told from others by the teacher's, and back.

    s, t       embeddings of a row by student and teacher: a linear layer of each to `dim` numbers, divided by their length
    M_S, M_T   memories of them: a place for each of the N training rows
    P(m, x) = exp(m . x / tau) / Z            h = P / (P + K / N)        the belief that m and x are of the same row

    L_i = - log h(M_T[i], s_i) - sum_k log(1 - h(M_T[n_k], s_i))         the student's embedding against the teacher's memory
          - log h(M_S[i], t_i) - sum_k log(1 - h(M_S[n_k], t_i))         and the teacher's against the student's
    M[i] <- direction of  momentum M[i] + (1 - momentum) x_i             after the loss

Each direction has its Z: N times the mean of exp(m . x / tau) over the first batch, and constant from then on. Negatives n_k
are drawn with replacement from all rows but i, so there may be more of them than rows.

[interpretation] Negatives have any label, where the published runs with labels draw rows of other classes. A mixed row counts
as the row that it is mixed into. Logarithms are computed as such: no small number is added to what they are of.

All processes put the rows of all into their memories, and a draw is a function of (seed, epoch, step, i, k): any number of
workers computes the same. Memories and Z are buffers, so a checkpoint has them: 8 N dim bytes, 51 MB for 50,000 rows. Each
embedding is multiplied with a whole memory: 8 N (B + dim) bytes and 2 B N dim multiply-adds a step. Looking up K rows for each
would take 8 B K dim bytes, 1.1 GB against 77 MB for 64 of 50,000 rows and the defaults.

Shapes: B batch, N training rows, K negatives, D `dim`; 2 is student, teacher.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raykd.batch import Batch, Progress
from raykd.collective import rows_of_all
from raykd.features import directions, vectors
from raykd.objective import STUDENT, Compute, Context, Needs, Term
from raykd.rng import bits_there
from raykd.signals import Signal

NOT_NEGATIVE = 2**63 - 1


@dataclass(frozen=True)
class CRD(Term):
    """Noise-contrastive estimation of which embeddings belong together; of several teachers the mean.

    Its weight is .8, that of the labels 1; the published sum with KD gives that 1 as well.

    Raises `ValueError` for no negatives, no dimensions, a tau that is not positive, a momentum outside [0, 1) and, when it is
    built, for fewer than two training rows.

    Source: Y. Tian, D. Krishnan, P. Isola, "Contrastive Representation Distillation", 2020, section 3.
    Source: Z. Wu, Y. Xiong, S. Yu, D. Lin, "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", 2018,
        section 3, for the memories and Z.
    """

    dim: int = 128
    negatives: int = 16384
    """K."""
    tau: float = 0.07
    momentum: float = 0.5
    """How much of a row's embedding stays in a memory."""
    tap: str = "pooled"
    """Where the student is observed; maps are flattened."""
    teacher_tap: str = ""
    """Where a teacher is; empty: at the tap of the same name."""
    teachers: tuple[str, ...] = ()
    """The teachers it reads; empty: all of the stage."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "teachers", tuple(self.teachers))
        if self.dim < 1 or self.negatives < 1:
            raise ValueError(f"{self!r}: dim and negatives of 1 or more would be right")
        if not (math.isfinite(self.tau) and self.tau > 0 and 0 <= self.momentum < 1):
            raise ValueError(f"{self!r}: a tau above 0 and a momentum in [0, 1) would be right")

    @property
    def signals(self) -> tuple[Signal, Signal]:
        """What it reads in the student, and in a teacher."""
        return Signal(self.tap), Signal(self.teacher_tap or self.tap)

    def needs(self, teachers: Sequence[str]) -> Needs:
        """Both activations."""
        names = self.teachers or tuple(teachers)
        if not names:
            raise ValueError(
                f"the term {self} contrasts with teachers, and this stage has none: give it teachers={{...}}"
            )
        ours, theirs = self.signals
        return {STUDENT: frozenset({ours}), **{name: frozenset({theirs}) for name in names}}

    def build(self, context: Context) -> Compute:
        """Embeddings and memories, for each teacher its own."""
        if context.rows < 2:
            raise ValueError(
                f"{self} has {context.rows} training rows: negatives are other rows, so there must be 2 or more"
            )
        names = self.teachers or context.teachers
        if len(names) == 1:
            return _Contrast(self, context, names[0])
        each = [context.build(replace(self, teachers=(name,)), (name,)) for name in names]
        return lambda batch: torch.stack([contrast(batch) for contrast in each]).mean(0)

    def __str__(self) -> str:
        names = f" of {', '.join(self.teachers)}" if self.teachers else ""
        return f"CRD({self.tap}, {self.negatives} negatives, tau {self.tau:g}{names})"


class _Contrast(nn.Module):
    """The term about one teacher."""

    memories_2ND: Tensor
    log_z_2: Tensor
    seed: Tensor

    def __init__(self, term: CRD, context: Context, teacher: str):
        super().__init__()
        self.term, self.teacher, self.rows = term, teacher, context.rows
        shapes = [context.shapes[name][signal] for name, signal in zip((STUDENT, teacher), term.signals, strict=True)]
        self.embeddings = nn.ModuleList(nn.Linear(math.prod(shape), term.dim) for shape in shapes)
        bound = math.sqrt(3 / term.dim)  # of length 1, about
        self.register_buffer("memories_2ND", torch.empty(2, context.rows, term.dim).uniform_(-bound, bound))
        self.register_buffer("log_z_2", torch.full((2,), torch.nan))
        self.register_buffer("seed", torch.randint(2**62, ()))

    def forward(self, batch: Batch) -> Tensor:
        ours, theirs = self.term.signals
        teacher = batch.teachers[self.teacher][theirs]
        assert isinstance(teacher, Tensor), "check_stored refuses logits that are not dense"
        picked_BP = self.picked(batch.positions_B, batch.progress)
        with torch.autocast(picked_BP.device.type, enabled=False):  # exp(1 / tau) is more than float16 has
            pairs = zip(self.embeddings, (batch.student[ours], teacher), strict=True)
            x_2BD = torch.stack([directions(embedding(vectors(values))) for embedding, values in pairs])
            # flipped, so a copy: what backward reads is as it was, though the memories move on
            scores_2BN = x_2BD @ self.memories_2ND.flip(0).mT / self.term.tau
            scores_2BP = scores_2BN.gather(2, picked_BP.expand(2, -1, -1))
            self._note(batch.positions_B, x_2BD, scores_2BP)
            log_odds_2BP = scores_2BP - self.log_z_2[:, None, None] - math.log(self.term.negatives / self.rows)
            own_2B, others_2BK = log_odds_2BP[:, :, 0], log_odds_2BP[:, :, 1:]
            return -(F.logsigmoid(own_2B) + F.logsigmoid(-others_2BK).sum(2)).sum(0)

    def picked(self, positions_B: Tensor, progress: Progress) -> Tensor:
        """The place of each row, then those of its negatives. [B, 1 + K]"""
        own_B1, k = positions_B[:, None], torch.arange(self.term.negatives, device=positions_B.device)
        others_BK = (bits_there(self.seed, progress.epoch, progress.step, own_B1, k) & NOT_NEGATIVE) % (self.rows - 1)
        return torch.cat([own_B1, others_BK + (others_BK >= own_B1)], 1)

    @torch.no_grad()
    def _note(self, positions_B: Tensor, x_2BD: Tensor, scores_2BP: Tensor) -> None:
        """Z, if it is not there yet, and the embeddings, from the rows of all processes."""
        positions_A, x_A2D, sums_A2 = rows_of_all(positions_B, x_2BD.transpose(0, 1), scores_2BP.logsumexp(2).T)
        if not self.training:
            return
        log_mean_2 = sums_A2.logsumexp(0) - math.log(len(sums_A2) * scores_2BP.shape[2])
        self.log_z_2.copy_(torch.where(self.log_z_2.isnan(), math.log(self.rows) + log_mean_2, self.log_z_2))
        old_2AD, momentum = self.memories_2ND[:, positions_A], self.term.momentum
        moved_2AD = directions(momentum * old_2AD + (1 - momentum) * x_A2D.transpose(0, 1))
        self.memories_2ND.index_copy_(1, positions_A, moved_2AD)
