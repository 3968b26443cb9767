"""The one formula. A term gives one number per row, a weighted sum of terms is an objective.

    L = mean_b  sum_t  w[t,b] * D(student_b, teacher_tb; tau[t,b])          D is never reduced over the batch

A method is a choice of divergence D, weighting w and temperature tau, or a term of its own. All of them are specs: frozen
dataclasses that say what they need and build what they compute. Stateless ones are their own computation; learned ones
build an `nn.Module`, whose parameters train with the student's.

Shapes: T teachers, B batch, C classes, K terms.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from raykd.batch import Batch
from raykd.identity import fingerprint
from raykd.shown import Shows, Total
from raykd.signals import LOGITS, Observable

STUDENT = "student"
Needs = Mapping[str, frozenset[Observable]]  # network name -> the signals that must be observed in it
Compute = Callable[..., Tensor]


def union(needs: Iterable[Needs]) -> Needs:
    """All signals that some of `needs` names, by network."""
    found: dict[str, frozenset[Observable]] = {}
    for each in needs:
        for network, signals in each.items():
            found[network] = found.get(network, frozenset()) | signals
    return found


class Stored(Protocol):
    """How teachers' logits are stored: what a codec says of itself."""

    @property
    def kind(self) -> str:
        """What is read of them: "dense", "topk" or "sampled"."""
        ...

    @property
    def temperatures(self) -> tuple[float, ...] | None:
        """The temperatures at which they can be read; None for all."""
        ...


@dataclass(frozen=True)
class Context:
    """What a piece may know when it is built: shapes, never data. Equal pieces for equal teachers are one module."""

    shapes: Mapping[str, Mapping[Observable, tuple[int, ...]]]
    """Network name -> signal -> shape of one row."""
    teachers: tuple[str, ...]
    classes: int
    rows: int
    """Training rows of the dataset, for memories with a place for each."""
    modules: dict[str, nn.Module] = field(default_factory=dict)
    heads: Callable[[str], nn.Module] | None = None
    """Classifiers of teachers by name, frozen: "pooled" [B, D] -> logits [B, C]. None where there are no weights."""

    def build(self, piece: Spec, teachers: tuple[str, ...]) -> Compute:
        """`piece`, as it applies to these teachers, as a computation."""
        name = fingerprint([piece, teachers])
        if name not in self.modules:
            built = piece.build(replace(self, teachers=teachers))
            if not isinstance(built, nn.Module):
                return built
            self.modules[name] = built
        return self.modules[name]


class Spec:
    """A piece of an objective: a frozen dataclass with an identity. Raise `version` when its formula changes."""

    version: ClassVar[int] = 1
    reads: ClassVar[frozenset[str]] = frozenset({"dense"})
    """The kinds of stored logits of a teacher that it can read; see `Stored`."""

    def needs(self, teachers: Sequence[str]) -> Needs:
        """The signals it reads, when it is applied to these teachers."""
        return {}

    def check_stored(self, teachers: Sequence[str], stored: Stored) -> None:
        """Raises `ValueError` if it reads the logits of one of these teachers, and cannot as they are stored."""
        if reads_logits(self, teachers) and stored.kind not in self.reads:
            raise ValueError(
                f"{self} reads {' or '.join(sorted(self.reads))} logits, and {stored} yields {stored.kind} ones: "
                "use dense_f16 or dense_u8"
            )

    def build(self, context: Context) -> Compute:
        """What computes it: itself when it has no parameters."""
        assert callable(self), f"{type(self).__name__} has neither __call__ nor a build of its own"
        return self


class Divergence(Spec):
    """How far the student is from one teacher, built to `(student, teacher, labels_B, tau_B) -> [B]`, in float32.

    Non-negative, and zero when they agree.
    """

    relational: ClassVar[bool] = False
    """Whether a row's value depends on the other rows of the batch."""

    @property
    def student(self) -> Observable:
        """What it reads in the student."""
        return LOGITS

    @property
    def teacher(self) -> Observable:
        """What it reads in the teacher."""
        return LOGITS

    def needs(self, teachers: Sequence[str]) -> Needs:
        """Its two signals."""
        return {STUDENT: frozenset({self.student}), **{name: frozenset({self.teacher}) for name in teachers}}


class Weighting(Spec):
    """How much each teacher counts for each row, built to `(batch, names) -> [T, B]` or what broadcasts to it.

    Non-negative, in the order of `names`.
    """


class Temperature(Spec):
    """The temperature of each teacher for each row, built to `(batch, names) -> [T, B]` or what broadcasts to it.

    Positive, in the order of `names`.
    """

    @property
    def values(self) -> tuple[float, ...] | None:
        """All that it can be; None if only the training knows."""
        return None


class Lookahead(Protocol):
    """The student's next step before it is taken. What is computed of it leaves no trace in the training."""

    @property
    def parameters(self) -> Mapping[str, Tensor]:
        """All that the optimiser moves, by name."""
        ...

    @property
    def rate(self) -> float:
        """The learning rate."""
        ...

    def training_loss(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """The loss of the step's batch at these parameters: its mean over the processes is what they descend."""
        ...

    def validation_loss(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """The student's cross-entropy on validation rows; its mean over the processes is that of all these rows."""
        ...

    def mean(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The mean of each over the processes; no gradient flows through."""
        ...


class Tuned(nn.Module, ABC):
    """A learned part of a criterion that validation rows move, instead of the optimiser: what it learns is in its buffers.

    Before every so many of its steps, the training shows what the step would do.
    """

    every: int
    """Steps between looks."""
    rows: int
    """Validation rows of a look, over all processes."""

    @abstractmethod
    def look(self, ahead: Lookahead) -> None:
        """Move. Every process looks at the same moment, and must move alike."""


class SampleWeight(Spec):
    """A term's weight that depends on the row, built to `(batch) -> [B]`, detached. `Certainty() * CrossEntropy()`."""

    def __mul__(self, term: Term) -> Objective:
        return Objective((Weighted(self, term),))


class Term(Spec):
    """A summand of the loss, built to `(batch) -> [B]`: one float32 number per row, not averaged.

    `0.1 * CrossEntropy() + 0.9 * Distill(KL())` is an objective.
    """

    def __rmul__(self, weight: float) -> Objective:
        return Objective((Weighted(weight, self),))

    def __add__(self, other: Term | Objective) -> Objective:
        return 1.0 * self + other


@dataclass(frozen=True)
class About(Term):
    """A term about these teachers only, whatever others the stage has."""

    term: Term
    teachers: tuple[str, ...]

    def needs(self, teachers: Sequence[str]) -> Needs:
        """What the term reads of them."""
        return self.term.needs(self.teachers)

    def check_stored(self, teachers: Sequence[str], stored: Stored) -> None:
        """Asks the term."""
        self.term.check_stored([name for name in self.teachers if name in teachers], stored)

    def build(self, context: Context) -> Compute:
        """The term, as if there were no other teachers."""
        return context.build(self.term, self.teachers)

    def __str__(self) -> str:
        return str(self.term)


@dataclass(frozen=True)
class Weighted:
    """A term and its weight: a number, or a number for each row."""

    weight: float | SampleWeight
    term: Term

    def __post_init__(self) -> None:
        if not isinstance(self.term, Term):
            raise ValueError(
                f"an objective is a sum of terms, and {self.term!r} is not one: CrossEntropy(), Distill(...)"
            )
        if not isinstance(self.weight, SampleWeight) and not (math.isfinite(self.weight) and self.weight >= 0):
            raise ValueError(f"{self.term} has the weight {self.weight}: a finite number, 0 or more, would be right")

    def needs(self, teachers: Sequence[str]) -> Needs:
        """What the term reads, and its weight."""
        return union(piece.needs(teachers) for piece in self._pieces)

    def check_stored(self, teachers: Sequence[str], stored: Stored) -> None:
        """See `Spec.check_stored`."""
        for piece in self._pieces:
            piece.check_stored(teachers, stored)

    @property
    def _pieces(self) -> tuple[Spec, ...]:
        return (self.term, self.weight) if isinstance(self.weight, SampleWeight) else (self.term,)

    def __str__(self) -> str:
        return (
            f"{self.weight:g} * {self.term}" if isinstance(self.weight, float | int) else f"{self.weight} * {self.term}"
        )


@dataclass(frozen=True)
class Objective:
    """A weighted sum of terms. A term of weight 0 is not part of it: nothing is computed for it."""

    terms: tuple[Weighted, ...]

    def __post_init__(self) -> None:
        if not self.terms:
            raise ValueError(
                "an objective without terms: write CrossEntropy() or 0.1 * CrossEntropy() + 0.9 * Distill(KL())"
            )
        present = tuple(weighted for weighted in self.terms if weighted.weight != 0)
        object.__setattr__(self, "terms", present or self.terms[:1])

    def __add__(self, other: Term | Objective) -> Objective:
        return Objective(self.terms + (other if isinstance(other, Objective) else 1.0 * other).terms)

    def __rmul__(self, weight: float) -> Objective:
        for weighted in self.terms:
            if isinstance(weighted.weight, SampleWeight):
                raise ValueError(
                    f"{weight:g} * ({weighted}): the term is weighed per row already, so scale inside its weight"
                )
        return Objective(tuple(Weighted(weight * float(w.weight), w.term) for w in self.terms))  # type: ignore[arg-type]

    def about(self, teachers: Sequence[str]) -> Objective:
        """The same objective about these teachers only, for a stage that has others as well."""
        return Objective(tuple(Weighted(w.weight, About(w.term, tuple(teachers))) for w in self.terms))

    def __str__(self) -> str:
        return " + ".join(str(weighted) for weighted in self.terms)

    def needs(self, teachers: Sequence[str]) -> Needs:
        """The signals that some term reads, by network.

        Raises `ValueError` when a term names a teacher that is not among `teachers`.
        """
        for weighted in self.terms:
            for network in weighted.needs(teachers):
                if network != STUDENT and network not in teachers:
                    has = f"this stage has {', '.join(teachers)}" if teachers else "this stage has no teachers"
                    raise ValueError(f"the term {weighted.term} names the teacher {network!r}: {has}")
        return union(weighted.needs(teachers) for weighted in self.terms)

    def check_stored(self, teachers: Sequence[str], stored: Stored) -> None:
        """Whether it can be computed from what is stored of these teachers: those whose logits `stored` keeps.

        Raises `ValueError` that names the first piece that cannot read them, or the first temperature that was not declared.
        """
        for weighted in self.terms:
            weighted.check_stored(teachers, stored)

    def build(self, context: Context) -> Criterion:
        """The computation, with every learned part as a submodule."""
        return Criterion(self, context)


class Criterion(nn.Module):
    """An objective, built: `criterion(batch) -> [K, B]`, the weighted terms before any mean."""

    def __init__(self, objective: Objective, context: Context):
        super().__init__()
        self.names = _distinct([str(weighted.term) for weighted in objective.terms])
        self._terms = [(_weight(w.weight, context), context.build(w.term, context.teachers)) for w in objective.terms]
        self.learned = nn.ModuleDict(context.modules)

    def forward(self, batch: Batch) -> Tensor:
        """Each term times its weight, for each row. [K, B]"""
        return torch.stack([(w(batch) if callable(w) else w) * term(batch) for w, term in self._terms])

    def shown(self, total: Total) -> dict[str, Any]:
        """What its learned pieces show of the epoch that is over, by their names; every worker must ask."""
        pieces = [piece for piece in self.learned.values() if isinstance(piece, Shows)]
        names = _distinct([piece.title for piece in pieces])
        return {name: dict(piece.shown(total)) for name, piece in zip(names, pieces, strict=True)}


def reads_logits(piece: Spec, teachers: Sequence[str]) -> bool:
    """Whether the piece reads the logits of one of these teachers."""
    needs = piece.needs(teachers) if teachers else {}
    return any(LOGITS in needs.get(name, ()) for name in teachers)


def _weight(weight: float | SampleWeight, context: Context) -> float | Compute:
    return context.build(weight, context.teachers) if isinstance(weight, SampleWeight) else float(weight)


def _distinct(names: list[str]) -> list[str]:
    return [name if names.count(name) == 1 else f"{name} #{i + 1}" for i, name in enumerate(names)]
