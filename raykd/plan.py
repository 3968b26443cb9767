"""What a run would do, as a value: the graph in order, what exists, what a teacher must compute, what it costs.

    online  E N (F_t + 3 F_s)        a teacher pass at every step of every epoch
    cached  V F_t + E N 3 F_s        a teacher pass once per row and replica, V = N x replicas

so labeling pays as soon as E N > V, over all epochs and trials together, and at best saves the factor 1 + F_t / (3 F_s).
Planning loads data to name it and trains nothing.

F_t, F_s: FLOPs of one forward pass of one row by the teachers and the student, as far as something is read of it; a training
step costs three.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from raykd.identity import fingerprint
from raykd.models import size
from raykd.objective import STUDENT
from raykd.order import Order
from raykd.signals import Observable
from raykd.stage import Pretrained, Stage
from raykd.storage import Storage


@dataclass(frozen=True)
class Filling:
    """What the cache must hold of one teacher before its student can be trained."""

    name: str
    teacher: Stage | Pretrained
    rows: int
    """Rows of the view: training rows times replicas; training rows times epochs where nothing is cached."""
    missing: int
    """Rows that the teacher must still compute."""
    bytes: int
    """Size of the missing part in the cache."""
    taps: tuple[str, ...] = ("logits",)
    """How far into the teacher the signals lie: nothing beyond is computed."""

    @property
    def flops(self) -> int:
        """FLOPs that the teacher will take."""
        return self.missing * size(self.teacher.architecture, self.taps).flops


@dataclass(frozen=True)
class Step:
    """One network of the graph, after all that it needs."""

    network: Stage | Pretrained
    done: bool
    fillings: tuple[Filling, ...] = ()

    @cached_property
    def flops(self) -> int:
        """FLOPs of the training that is left to do, up to the deepest tap that it reads; 0 when it is done."""
        if self.done or isinstance(self.network, Pretrained):
            return 0
        return 3 * _forward(self.network) * _rows(self.network) * self.network.budget.trained

    @property
    def updates(self) -> int:
        """Steps of the optimiser that are left to do; 0 when it is done."""
        if self.done or isinstance(self.network, Pretrained):
            return 0
        return Order.of(self.network).steps * self.network.budget.trained

    @property
    def break_even(self) -> int | None:
        """Epochs, over all trials, from which on labeling costs less than asking the teachers at every step."""
        if not isinstance(self.network, Stage) or not self.fillings or self.network.cache == "off":
            return None
        return self.network.seen.replicas

    @property
    def saving(self) -> float:
        """How many times cheaper cached training can get than asking the teachers at every step: 1 + F_t / (3 F_s)."""
        if not isinstance(self.network, Stage) or not self.fillings:
            return 1.0
        teachers = sum(size(filling.teacher.architecture, filling.taps).flops for filling in self.fillings)
        return 1 + teachers / max(3 * _forward(self.network), 1)


@dataclass(frozen=True)
class Plan:
    """The steps of a run, each after what it needs."""

    steps: tuple[Step, ...]

    @property
    def to_train(self) -> list[Stage]:
        """Stages that are not done."""
        return [step.network for step in self.steps if isinstance(step.network, Stage) and not step.done]

    def as_json(self) -> dict[str, Any]:
        """For `raykd plan --json`."""
        return {"steps": [_as_json(step) for step in self.steps], "teacher_rows": self.teacher_rows}

    @property
    def teacher_rows(self) -> dict[str, int]:
        """Rows to compute, by teacher."""
        found: dict[str, int] = {}
        for filling in (filling for step in self.steps for filling in step.fillings):
            found[filling.name] = found.get(filling.name, 0) + filling.missing
        return found


def plan(stages: Sequence[Stage], storage: Storage) -> Plan:
    """The plan that yields these stages on this storage.

    Raises `ValueError` for whatever is wrong with data or weights, before any work.
    """
    networks: dict[str, Stage | Pretrained] = {}
    for stage in stages:
        _add_parents_first(stage, networks)
    for network in networks.values():
        if isinstance(network, Stage):
            network.view.dataset.check()
    return Plan(tuple(_step(network, storage) for network in _shorter_first(networks.values())))


def needed(stage: Stage) -> dict[str, Stage | Pretrained]:
    """The teachers that some term of the stage reads."""
    return {name: teacher for name, teacher in stage.teachers.items() if name in stage.needs}


def waits(stages: Sequence[Stage]) -> list[set[int]]:
    """Of each stage, by place, which others must be done before: what it starts from, and a shorter part of its training."""
    places = {fingerprint(stage): place for place, stage in enumerate(stages)}
    before: dict[str, int] = {}
    found = []
    for place, stage in enumerate(stages):
        above = {places.get(fingerprint(network)) for _, network in stage.networks()}
        training = fingerprint(_to_the_end(stage))
        found.append({each for each in (*above, before.get(training)) if each is not None})
        before[training] = place
    return found


def _add_parents_first(network: Stage | Pretrained, found: dict[str, Stage | Pretrained]) -> None:
    """Once each: networks that teach each other in rounds are reached in very many ways."""
    name = fingerprint(network)
    if name in found:
        return
    if isinstance(network, Stage):
        for _, parent in network.networks():
            _add_parents_first(parent, found)
    found[name] = network


def _shorter_first(networks: Iterable[Stage | Pretrained]) -> Iterator[Stage | Pretrained]:
    """The same, but snapshots of one training in their order, because a longer one continues from a shorter one.

    They have the same parents, so all of them may come where the first of them came.
    """
    trainings: dict[str, list[Stage | Pretrained]] = {}
    for network in networks:
        trainings.setdefault(fingerprint(_to_the_end(network)), []).append(network)
    for snapshots in trainings.values():
        yield from sorted(snapshots, key=lambda each: each.budget.end if isinstance(each, Stage) else 0)


def _to_the_end(network: Stage | Pretrained) -> Stage | Pretrained:
    if isinstance(network, Pretrained):
        return network
    return replace(network, budget=replace(network.budget, until=None, keep="best"))


def _step(network: Stage | Pretrained, storage: Storage) -> Step:
    if isinstance(network, Pretrained):
        return Step(network, done=True)
    done = storage.result(network) is not None
    return Step(network, done, () if done else tuple(_fillings(network, storage)))


def _fillings(stage: Stage, storage: Storage) -> Iterator[Filling]:
    for name, teacher in needed(stage).items():
        if stage.cache == "off":
            asked = _rows(stage) * stage.budget.trained
            yield Filling(name, teacher, asked, asked, bytes=0, taps=_taps(stage.needs[name]))
            continue
        rows = missing = _rows(stage) * stage.seen.replicas
        kept = stage.kept[name]
        if storage.digest(teacher) is not None:
            entries = storage.entries(name, teacher, stage.view, kept)
            slots = {slot for entry in entries for slot in entry.absent(stage.seen.replicas)}
            missing = sum(len(entries[0].positions(slot)) for slot in slots)
        # two signals may be kept as one: logits as the features under them, which are a signal too
        stored = {(each.stored, each.codec): each.bytes_per_row(teacher.architecture) for each in kept}
        row = sum(stored.values())
        yield Filling(name, teacher, rows, missing, bytes=row * missing, taps=_taps(each.stored for each in kept))


def _forward(stage: Stage) -> int:
    """FLOPs of one pass of one row through the student."""
    return size(stage.student, _taps(stage.needs.get(STUDENT, ()))).flops


def _taps(signals: Iterable[Observable]) -> tuple[str, ...]:
    return tuple(sorted({tap for signal in signals for tap in signal.taps()}))


def _rows(stage: Stage) -> int:
    return len(stage.view.dataset.split("train"))


def _as_json(step: Step) -> dict[str, Any]:
    network = step.network
    return {
        "label": str(network),
        "fingerprint": fingerprint(network),
        "kind": type(network).__name__,
        "network": str(network.architecture),
        "parameters": size(network.architecture).parameters,
        "done": step.done,
        "teacher_rows": {filling.name: filling.missing for filling in step.fillings},
        "bytes": sum(filling.bytes for filling in step.fillings),
        "labeling_flops": sum(filling.flops for filling in step.fillings),
        "training_flops": step.flops,
        "break_even_epochs": step.break_even,
    }
