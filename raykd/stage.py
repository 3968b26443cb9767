"""Networks that teach networks. A stage yields a network; a network may teach or initialise a stage.

    teachers = {"teacher": Stage(...) | Pretrained(...)}      teacher edges: chains, ensembles, anchors
    init = Stage(...) | Pretrained(...)                       init edge: a sequence, a curriculum

Mistakes are found when the stage is written: a term that names no teacher, a tap that no network has, class counts or
input shapes that differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from raykd.budget import Budget
from raykd.cache.codecs import Codec
from raykd.data import View
from raykd.identity import aside, canonical, fingerprint
from raykd.kept import Kept, keep, way
from raykd.models import Architecture
from raykd.models.weights import digest_of
from raykd.objective import STUDENT, Needs, Objective, Term
from raykd.signals import LOGITS
from raykd.terms import CrossEntropy


@dataclass(frozen=True)
class Pretrained:
    """A network whose weights exist: a safetensors or state-dict file, local or a URL that fsspec opens.

    Its identity is the architecture and the weights' content, not the path. Raises `ValueError` (when its fingerprint is
    asked for, so before any work) if the file is missing, unsafe or of another architecture.
    """

    architecture: Architecture
    weights: str = aside("")
    label: str = aside("")

    def identity(self) -> object:
        """Architecture and digest of the weights."""
        return {"architecture": canonical(self.architecture), "weights": self.digest}

    @property
    def digest(self) -> str:
        """Digest of the weights' content."""
        return digest_of(self.weights, self.architecture)

    def __str__(self) -> str:
        return self.label or str(self.architecture)


@dataclass(frozen=True)
class Stage:
    """One training of `student` on `view` under `objective`, within `budget`."""

    student: Architecture
    objective: Objective
    view: View
    teachers: Mapping[str, Stage | Pretrained] = field(default_factory=dict)
    init: Stage | Pretrained | None = None
    budget: Budget = Budget()
    seed: int = 0
    cache: str | Codec = "auto"
    """How the teachers' signals are kept: "auto", "features", a codec or its name; "off": asked anew at every step, for views
    whose replicas never repeat."""
    label: str = aside("")

    def __post_init__(self) -> None:
        object.__setattr__(self, "cache", way(self.cache))
        if isinstance(self.objective, Term):
            object.__setattr__(self, "objective", 1.0 * self.objective)
        # sorted, because equal specs must compute the same: a mapping's order is not part of its content
        object.__setattr__(self, "teachers", MappingProxyType(dict(sorted(self.teachers.items()))))
        _check(self)

    @property
    def architecture(self) -> Architecture:
        """What the stage yields a network of."""
        return self.student

    @property
    def needs(self) -> Needs:
        """The signals its objective reads, by network."""
        return self.objective.needs(tuple(self.teachers))

    @property
    def kept(self) -> dict[str, tuple[Kept, ...]]:
        """How each signal that it reads of a teacher is kept, in the order of their names."""
        return {
            name: tuple(keep(signal, teacher.architecture, self.cache) for signal in sorted(self.needs[name], key=str))
            for name, teacher in self.teachers.items()
            if name in self.needs
        }

    def networks(self) -> Iterator[tuple[str, Stage | Pretrained]]:
        """The networks it starts from, by the name of the edge: its teachers, then "init"."""
        yield from self.teachers.items()
        if self.init is not None:
            yield "init", self.init

    def alone(self) -> Stage:
        """The same student with the labels only, at the same budget: what distillation is compared with."""
        label = f"{self.label} alone" if self.label else ""
        # a view that never repeats stays so
        cache = "off" if self.cache == "off" else "auto"
        return replace(self, objective=1.0 * CrossEntropy(), teachers={}, init=None, cache=cache, label=label)

    def stored(self, folder: str) -> Stage:
        """The same stage, its in-memory rows laid down in `folder`, where workers on other machines can read them."""
        return replace(
            self,
            view=self.view.stored(folder),
            teachers={
                name: teacher.stored(folder) if isinstance(teacher, Stage) else teacher
                for name, teacher in self.teachers.items()
            },
            init=self.init.stored(folder) if isinstance(self.init, Stage) else self.init,
        )

    def __str__(self) -> str:
        return self.label or f"{self.student}-{fingerprint(self)[:8]}"

    def __reduce__(self) -> tuple[object, ...]:
        # a mapping proxy cannot be pickled, and a stage travels to workers
        teachers = dict(self.teachers)
        return Stage, (
            self.student, self.objective, self.view, teachers, self.init, self.budget, self.seed,
            self.cache, self.label,
        )  # fmt: skip


def _check(stage: Stage) -> None:
    if STUDENT in stage.teachers:
        raise ValueError(f"a teacher is named {STUDENT!r}, which is the trained network's name: call it something else")
    dataset = stage.view.dataset
    for name, architecture in _architectures(stage):
        if architecture.shape != dataset.shape:
            raise ValueError(
                f"{name} ({architecture}) takes inputs of shape {architecture.shape}, and the dataset has {dataset.shape}"
            )
        signals = stage.needs.get(name, frozenset())
        if (name == STUDENT or LOGITS in signals) and architecture.classes != dataset.classes:
            raise ValueError(
                f"{name} ({architecture}) has {architecture.classes} classes, and the dataset has {dataset.classes}"
            )
        for tap in {tap for signal in signals for tap in signal.taps()}:
            architecture.check_tap(tap)
    _check_kept(stage)
    if stage.init is not None and fingerprint(stage.init.architecture) != fingerprint(stage.student):
        raise ValueError(f"init is {stage.init.architecture} and the student {stage.student}: they must be the same")


def _check_kept(stage: Stage) -> None:
    """Whether the objective can read what the cache will hold."""
    if stage.cache == "off":
        return
    for name, kept in stage.kept.items():
        for each in kept:
            if each.signal == LOGITS:
                stage.objective.check_stored((name,), each.codec)


def _architectures(stage: Stage) -> Iterator[tuple[str, Architecture]]:
    yield STUDENT, stage.student
    for name, network in stage.teachers.items():
        yield name, network.architecture
