"""Which pools, with how many actors: a pure function of the teachers, their cost, what is missing, and the cluster.

    teachers that take the same share of a device -> one pool        its work: queue(...)        its actors: seats(...)

By default every actor has a whole GPU, or a core where there are no GPUs, so all teachers share one pool, and any actor takes
any work. A teacher that needs more than one GPU, or a part of one, has a pool of its own, and pools get actors according to
what their teachers cost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from raykd.cache import Slot
from raykd.labeling.balance import Demand, Work, queue, seats
from raykd.labeling.labeler import Labeling

OTHERS = ""
"""Stands for every teacher that is not named."""


@dataclass(frozen=True)
class Pool:
    """Some teachers, their work in order, how many actors do it, and what each takes of a node."""

    labelings: tuple[Labeling, ...]
    work: Sequence[Work]
    actors: int
    """To start with, and as long as there is work."""
    most: int
    """As far as it may grow when others leave their devices, or the cluster grows."""
    cpus: float
    gpus: float = 0.0
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Actors:
    """What a person declares of the teachers' actors. Not identity: it changes no result."""

    least: int = 1
    most: int | None = None
    """Bounds for each pool; None: as many as there are devices for."""
    gpus: Mapping[str, float] = field(default_factory=dict)
    """GPUs of one actor, by teacher; under `OTHERS` for those not named; by default 1."""

    def __post_init__(self) -> None:
        if self.least < 1 or (self.most is not None and self.most < self.least):
            raise ValueError(f"actors from {self.least} to {self.most}: at least 1, and no more at least than at most")
        for name, share in self.gpus.items():
            if not share > 0 or (share > 1 and share != int(share)):
                who = f"of {name}" if name else "of a teacher"
                raise ValueError(f"{share:g} GPUs for an actor {who}: a part of one, or a whole number, would be right")

    def share(self, teacher: str) -> float:
        """GPUs of an actor of this teacher."""
        return self.gpus.get(teacher, self.gpus.get(OTHERS, 1.0))


def pools(
    labelings: Sequence[Labeling],
    missing: Mapping[Slot, Sequence[int]],
    seconds: Sequence[float],
    *,
    actors: Actors,
    devices: int,
    gpus: bool,
    environment: Mapping[str, str],
) -> list[Pool]:
    """The pools that label what is missing on so many GPUs (or cores), the one with the most work first.

    `missing` has the teachers that each slot lacks, `seconds` what a row costs each of them, in any unit. Raises `ValueError`
    for an actor that takes more GPUs than there are.
    """
    groups: dict[float, list[int]] = {}
    for place, labeling in enumerate(labelings):
        groups.setdefault(actors.share(labeling.name) if gpus else 1.0, []).append(place)
    entry = labelings[0].entries()[0]
    theirs = [_of(missing, members) for members in groups.values()]
    totals = [
        sum(len(entry.positions(slot)) * seconds[members[t]] for slot, teachers in lacking.items() for t in teachers)
        for members, lacking in zip(groups.values(), theirs, strict=True)
    ]
    for share, members in groups.items():
        if share > devices:
            name = labelings[members[0]].name
            raise ValueError(
                f"an actor of the teacher {name} takes {share:g} GPUs, and there are {devices} for teachers"
            )
    demands = [Demand(total, share, actors.least, actors.most) for share, total in zip(groups, totals, strict=True)]
    found = []
    order = sorted(range(len(demands)), key=lambda i: -demands[i].seconds)
    dealt = seats(demands, devices)
    for i, (share, members) in enumerate(groups.items()):
        start = max(1, dealt[i])  # a pool without a place yet waits for one
        work = queue(theirs[i], [seconds[m] for m in members], start)
        most = max(start, actors.most or int(devices / share))
        # half a core on paper: pools that reserve every core leave none for Ray Data itself
        found.append(
            Pool(tuple(labelings[m] for m in members), work, start, most, 0.5, share if gpus else 0.0, environment)
        )
    return [found[i] for i in order if found[i].work]


def _of(missing: Mapping[Slot, Sequence[int]], members: Sequence[int]) -> dict[Slot, list[int]]:
    """What some teachers lack, each by its place among them."""
    found = {slot: [members.index(t) for t in teachers if t in members] for slot, teachers in missing.items()}
    return {slot: places for slot, places in found.items() if places}
