"""Networks that teach networks. A stage yields a network; a network may teach or initialise a stage.

    teachers = {"teacher": Stage(...) | Pretrained(...)}      teacher edges: chains, ensembles, anchors
    init = Stage(...) | Pretrained(...)                       init edge: a sequence, a curriculum

Mistakes are found when the stage is written: a term that names no teacher, a tap that no network has, class counts or
input shapes that differ.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType

import torch
from torch import nn

from raykd.budget import Budget
from raykd.cache.codecs import Codec
from raykd.data import View
from raykd.identity import aside, canonical, fingerprint
from raykd.kept import Kept, keep, way
from raykd.models import Architecture
from raykd.models.weights import digest_of
from raykd.objective import STUDENT, Context, Needs, Objective, Term
from raykd.signals import LOGITS
from raykd.terms import CrossEntropy

ROWS = 2**16  # what a dataset has for pieces that are built to be checked: reading it would load it


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
    inherit: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Parts that start as a teacher's: module path in the student -> (teacher, module path in it); "" is all of a network."""
    frozen: tuple[str, ...] = ()
    """Parts of the student that stay as they start: module paths. Their batch norms do not follow the data either."""
    label: str = aside("")
    cites: tuple[str, ...] = aside(())
    """Modules whose sources it follows besides those of its pieces: the graph functions that wrote it."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "cache", way(self.cache))
        object.__setattr__(self, "inherit", MappingProxyType(dict(sorted(self.inherit.items()))))
        object.__setattr__(self, "frozen", tuple(self.frozen))
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
    def seen(self) -> View:
        """Its view, with no more replicas than its epochs come to see."""
        return replace(self.view, replicas=min(self.view.replicas, max(self.budget.end, 1)))

    @property
    def needs(self) -> Needs:
        """The signals its objective reads, by network."""
        return self.objective.needs(tuple(self.teachers))

    @property
    def kept(self) -> dict[str, tuple[Kept, ...]]:
        """How each signal that it reads of a teacher is kept, in the order of their names."""
        return {
            name: tuple(
                keep(signal, teacher.architecture, self.cache, self.view.dataset.targets)
                for signal in sorted(self.needs[name], key=str)
            )
            for name, teacher in self.teachers.items()
            if name in self.needs
        }

    def networks(self) -> Iterator[tuple[str, Stage | Pretrained]]:
        """The networks it starts from, by the name of the edge: the teachers that it reads or inherits from, then "init"."""
        inherited = {name for name, _ in self.inherit.values()}
        yield from ((name, each) for name, each in self.teachers.items() if name in self.needs or name in inherited)
        if self.init is not None:
            yield "init", self.init

    def alone(self) -> Stage:
        """The same student with the labels only, at the same budget: what distillation is compared with.

        Where a method gave the student parts for the teacher's sake (`simkd`), it is the student without them.
        """
        label = f"{self.label} alone" if self.label else ""
        # what continues others is compared with a whole training, and so is what is cut out of another network
        budget = replace(self.budget, start=0, until=self.budget.until or None)
        # a view that never repeats stays so
        cache = "off" if self.cache == "off" else "auto"
        return replace(
            self,
            student=self.student.plain,
            objective=1.0 * CrossEntropy(),
            teachers={},
            init=None,
            inherit={},
            frozen=(),
            cites=(),
            budget=budget,
            cache=cache,
            label=label,
        )

    def credited(self, module: str) -> Stage:
        """The same stage, which cites a module as well."""
        return replace(self, cites=tuple(dict.fromkeys((*self.cites, module))))

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
        values = (getattr(self, each.name) for each in fields(self))
        return Stage, tuple(dict(value) if isinstance(value, MappingProxyType) else value for value in values)


def _check(stage: Stage) -> None:
    if STUDENT in stage.teachers:
        raise ValueError(f"a teacher is named {STUDENT!r}, which is the trained network's name: call it something else")
    dataset = stage.view.dataset
    for name, architecture in _architectures(stage):
        if bool(architecture.vocabulary) != bool(dataset.vocabulary) or architecture.vocabulary < dataset.vocabulary:
            raise ValueError(
                f"{name} ({architecture}) reads {_words(architecture.vocabulary)}, and the dataset has"
                f" {_words(dataset.vocabulary)}"
            )
        if architecture.shape != dataset.shape:
            raise ValueError(
                f"{name} ({architecture}) takes inputs of shape {architecture.shape}, and the dataset has {dataset.shape}"
            )
        signals = stage.needs.get(name, frozenset())
        if (name == STUDENT or LOGITS in signals) and architecture.classes != dataset.classes:
            raise ValueError(
                f"{name} ({architecture}) has {architecture.classes} classes, and the dataset has {dataset.classes}"
            )
        for signal in signals:
            signal.shape(architecture.tap_shape)
    _check_kept(stage)
    _check_built(stage)
    _check_parts(stage)
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


def _check_built(stage: Stage) -> None:
    """Whether every piece of the objective can be built for what it reads: once, without numbers."""
    architectures = dict(_architectures(stage))
    shapes = {
        name: {signal: signal.shape(architectures[name].tap_shape) for signal in signals}
        for name, signals in stage.needs.items()
    }

    def head(name: str) -> nn.Module:
        return nn.Linear(math.prod(architectures[name].tap_shape("pooled")), architectures[name].classes)

    with (
        suppress(RuntimeError),
        torch.device("meta"),
    ):  # of a piece that needs numbers: it is built when the training starts
        stage.objective.build(Context(shapes, tuple(stage.teachers), stage.view.dataset.classes, ROWS, heads=head))


def _check_parts(stage: Stage) -> None:
    """Whether the parts that are frozen or inherited are there, and fit."""
    for path in stage.frozen:
        part(stage.student, path)
    for path, (name, theirs) in stage.inherit.items():
        if name not in stage.teachers:
            raise ValueError(
                f"{path!r} inherits from {name!r}: this stage has the teachers {', '.join(stage.teachers)}"
            )
        ours, from_them = (
            {tensor: tuple(value.shape) for tensor, value in module.state_dict().items()}
            for module in (part(stage.student, path), part(stage.teachers[name].architecture, theirs))
        )
        if ours != from_them:
            different = sorted(ours.items() ^ from_them.items())[0][0]
            raise ValueError(
                f"{path!r} of {stage.student} cannot be {theirs!r} of {name} ({stage.teachers[name].architecture}):"
                f" they differ at {different}, {ours.get(different)} and {from_them.get(different)}"
            )


def part(architecture: Architecture, path: str) -> nn.Module:
    """A module of an architecture's body, without numbers. Raises `ValueError` that names what is there."""
    body = architecture.blueprint().body
    try:
        return body.get_submodule(path)
    except AttributeError:
        there = ", ".join(name for name, _ in body.named_children())
        raise ValueError(f"{architecture} has no part {path!r}: it has {there}, and what is in them") from None


def _words(vocabulary: int) -> str:
    return f"{vocabulary} tokens" if vocabulary else "numbers"


def _architectures(stage: Stage) -> Iterator[tuple[str, Architecture]]:
    yield STUDENT, stage.student
    for name, network in stage.teachers.items():
        yield name, network.architecture
