"""Deep mutual learning: students that learn from the labels and from each other, without a teacher.

    L_i = CE_i + 1 / (K - 1) sum_(j != i) KL(p_j || p_i)          p_j carries no gradient, temperature 1

Two forms of it:

    live_mutual   as published: one training of a `Cohort` of all students, which see each other's answers at every step.
                  They take their steps at once, where the paper lets one go after the other [interpretation]. `peer` cuts
                  one of them out as a network of its own
    mutual        in rounds: each student goes on from its own previous round, and its teachers are the others as they stood
                  after theirs, through the cache: so they may train apart. Round 1 has the labels only. Not the published
                  form, which it comes near to with many short rounds [interpretation]

A round is a part of the stage's budget, with one schedule over all of them; the optimiser starts anew in each.

Source: Y. Zhang, T. Xiang, T. M. Hospedales, H. Lu, "Deep Mutual Learning", 2018, section 3.

Shapes: B batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations

import torch
from torch import Tensor

from raykd.batch import Batch
from raykd.budget import Budget
from raykd.identity import fingerprint
from raykd.methods.kl import KL
from raykd.methods.progressive import continued
from raykd.models import Architecture, Cohort
from raykd.objective import STUDENT, Compute, Context, Divergence, Needs, Term
from raykd.signals import LOGITS, Signal
from raykd.stage import Stage
from raykd.terms import Constant, CrossEntropy, Distill

COHORT = "cohort"


@dataclass(frozen=True)
class Mutual(Term):
    """What all peers of a `Cohort` lose together: the labels' loss of each, and the mean divergence from the others."""

    peers: int = 2
    divergence: Divergence = KL()  # noqa: RUF009  a value
    tau: float = 1.0

    def __post_init__(self) -> None:
        if self.peers < 1 or not self.tau > 0:
            raise ValueError(f"Mutual has peers={self.peers} and tau={self.tau}: at least 1, and above 0")
        if (self.divergence.student, self.divergence.teacher) != (LOGITS, LOGITS):
            raise ValueError(f"{self} compares what peers answer: a divergence of logits would be right")

    @property
    def answers(self) -> tuple[Signal, ...]:
        """The logits of each peer."""
        return tuple(Signal(f"peer{i}") for i in range(self.peers))

    def needs(self, teachers: Sequence[str]) -> Needs:
        """The logits of each peer; of the stage's teachers, nothing."""
        return {STUDENT: frozenset(self.answers)}

    def build(self, context: Context) -> Compute:
        """The divergence is built once for each that is learned from."""
        divergences = [context.build(self.divergence, (signal.tap,)) for signal in self.answers]
        labels = CrossEntropy()

        def compute(batch: Batch) -> Tensor:
            logits = [batch.student[signal] for signal in self.answers]
            tau_B = logits[0].new_full((len(batch.labels_B),), self.tau)
            losses = [labels(replace(batch, student={LOGITS: own_BC})) for own_BC in logits]
            for i, j in permutations(range(self.peers), 2):
                from_other_B = divergences[j](logits[i], logits[j].detach(), batch.labels_B, tau_B)
                losses.append(from_other_B / (self.peers - 1))
            return torch.stack(losses).sum(0)

        return compute

    def __str__(self) -> str:
        return f"Mutual({self.peers} peers, {self.divergence}, tau {self.tau:g})"


def live_mutual(stage: Stage, others: Sequence[Architecture]) -> Stage:
    """One training of the stage's student together with others, all of them learning from the labels and from each other.

    Its network is the cohort; what it answers, and so the epoch that is kept, is the first peer's, the stage's own student.

    Raises `ValueError` for a stage with teachers or a start of its own.
    """
    if stage.teachers or stage.init is not None or stage.frozen:
        raise ValueError(f"{stage} has teachers, an init or frozen parts: peers start anew, and have only each other")
    cohort = Cohort((stage.student, *others))
    return replace(stage, student=cohort, objective=1.0 * Mutual(len(cohort.peers)))


def peer(stage: Stage, number: int) -> Stage:
    """A peer of a finished cohort as a network of its own: nothing is trained. The first is number 0.

    Raises `ValueError` for a stage without a cohort, and for a number that is not in it.
    """
    if not isinstance(stage.student, Cohort) or not 0 <= number < len(stage.student.peers):
        raise ValueError(f"{stage} trains {stage.student}, which has no peer {number}")
    return Stage(
        stage.student.peers[number],
        1.0 * CrossEntropy(),
        stage.view,
        {COHORT: stage},
        budget=replace(stage.budget, start=0, until=0),
        seed=stage.seed,
        inherit={"": (COHORT, f"peer{number}")},
        label=f"{stage.label}, peer {number}" if stage.label else "",
    )


def mutual(stages: Mapping[str, Stage], rounds: int) -> dict[str, Stage]:
    """These stages, which teach each other in so many rounds of their budgets; one round is each for itself.

    Each keeps its own objective, about its own teachers if it has any, and adds the mean divergence from the others.

    Raises `ValueError` for equal stages, for a teacher that is called like a peer, and for budgets of fewer epochs than rounds.
    """
    if len({fingerprint(stage) for stage in stages.values()}) < len(stages):
        raise ValueError(f"some of {', '.join(stages)} are one stage, and know the same: give them different seeds")
    for stage in stages.values():
        if both := set(stage.teachers) & set(stages):
            raise ValueError(f"{stage} has the teacher {min(both)!r}, and so is a peer called: rename one of them")
    budgets = {name: stage.budget.parts(rounds) for name, stage in stages.items()}
    now = {name: replace(stage, budget=budgets[name][0]) for name, stage in stages.items()}
    for number in range(1, rounds):
        labels = {name: f"{stage.label or name}, round {number}" for name, stage in stages.items()}
        before = {name: replace(stage, label=labels[name]) for name, stage in now.items()}
        now = {name: _next_round(stages, before, name, budgets[name][number]) for name in stages}
    return now


def _next_round(stages: Mapping[str, Stage], before: Mapping[str, Stage], name: str, budget: Budget) -> Stage:
    """What `name` does next, given all as they stood after the round before."""
    stage = stages[name]
    others = {other: network for other, network in before.items() if other != name}
    objective = stage.objective
    if others:
        own = objective.about(tuple(stage.teachers)) if stage.teachers else objective
        objective = own + Distill(KL(), temperature=Constant(1.0), teachers=tuple(sorted(others)))
    going_on = continued(before[name]).credited(__name__)
    return replace(
        going_on, objective=objective, teachers={**stage.teachers, **others}, budget=budget, label=stage.label
    )
