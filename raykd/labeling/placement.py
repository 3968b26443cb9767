"""Which pools, with how many actors: a pure function of the teachers, their cost, what is missing, and the cluster.

    teachers that take the same share of a device -> one pool        its work: queue(...)        its actors: seats(...)

By default every actor has a whole GPU, or a core where there are no GPUs, so all teachers share one pool, and any actor takes
any work. A teacher that needs more than one GPU, or a part of one, has a pool of its own, and pools get actors according to
what their teachers cost, as many as the nodes have room for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from raykd.cache import Slot
from raykd.labeling.balance import Demand, Work, queue, seats
from raykd.labeling.labeler import Labeling
from raykd.shares import Room, Share

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
    share: Share
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Actors:
    """What a person declares of the teachers' actors. Not identity: it changes no result."""

    least: int = 1
    most: int | None = None
    """Bounds for each pool; None: as many as there are devices for."""
    gpus: Mapping[str, float] = field(default_factory=dict)
    """GPUs of one actor, by teacher; under `OTHERS` for those not named; by default 1."""
    takes: Share = Share()
    """What an actor of any teacher takes of a node besides."""

    def __post_init__(self) -> None:
        if self.least < 1 or (self.most is not None and self.most < self.least):
            raise ValueError(f"actors from {self.least} to {self.most}: at least 1, and no more at least than at most")
        for name, share in self.gpus.items():
            if not share > 0 or (share > 1 and share != int(share)):
                who = f"of {name}" if name else "of a teacher"
                raise ValueError(f"{share:g} GPUs for an actor {who}: a part of one, or a whole number, would be right")

    def share(self, teacher: str) -> Share:
        """What an actor of this teacher takes, as far as it was said."""
        return replace(self.takes, gpus=self.gpus.get(teacher, self.gpus.get(OTHERS)))


def pools(
    labelings: Sequence[Labeling],
    missing: Mapping[Slot, Sequence[int]],
    seconds: Sequence[float],
    *,
    actors: Actors,
    shares: Sequence[Share],
    room: Room,
    environment: Mapping[str, str],
) -> list[Pool]:
    """The pools that label what is missing where there is room, the one with the most work first.

    `missing` has the teachers that each slot lacks; by teacher are `seconds`, what a row costs, in any unit, and `shares`, what
    an actor takes.
    """
    groups: dict[str, list[int]] = {}
    for place, share in enumerate(shares):
        groups.setdefault(str(share), []).append(place)
    takes = [shares[members[0]] for members in groups.values()]
    entry = labelings[0].entries()[0]
    theirs = [_of(missing, members) for members in groups.values()]
    totals = [
        sum(len(entry.positions(slot)) * seconds[members[t]] for slot, teachers in lacking.items() for t in teachers)
        for members, lacking in zip(groups.values(), theirs, strict=True)
    ]
    demands = [Demand(total, actors.least, actors.most) for total in totals]
    found = []
    order = sorted(range(len(demands)), key=lambda i: -demands[i].seconds)
    fitting = [room.places(share) for share in takes]
    dealt = seats(demands, lambda i, count: room.take(takes[i], count))
    for i, members in enumerate(groups.values()):
        start = max(1, dealt[i])  # a pool without a place yet waits for one
        work = queue(theirs[i], [seconds[m] for m in members], start)
        most = max(start, actors.most or fitting[i])
        found.append(Pool(tuple(labelings[m] for m in members), work, start, most, on_paper(takes[i]), environment))
    return [found[i] for i in order if found[i].work]


def on_paper(share: Share) -> Share:
    """What Ray is told: half a core less where cores are the devices, since pools that reserve all leave Ray Data none."""
    cpus = share.cpus or 1.0
    return share if share.gpus else replace(share, cpus=cpus - min(0.5, cpus / 2))


def _of(missing: Mapping[Slot, Sequence[int]], members: Sequence[int]) -> dict[Slot, list[int]]:
    """What some teachers lack, each by its place among them."""
    found = {slot: [members.index(t) for t in teachers if t in members] for slot, teachers in missing.items()}
    return {slot: places for slot, places in found.items() if places}
