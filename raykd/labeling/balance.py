"""Who labels what: an order of work for any number of seats, and how many seats each pool gets. Pure functions.

    seat s takes the next work of the queue when it is free        makespan <= (total + (W - 1) longest) / W
    longest first                                                  makespan <= (4/3 - 1/(3 W)) optimum

A seat is an actor with its device, and seats of one pool take work of any of its teachers: whoever is free works, so a teacher
that is done frees its devices at once, and all end together. What teachers share, the rows of a slot, is read once for all of
them; only the last rounds are dealt out teacher by teacher, longest first, so that no seat ends long before another.

Source: Graham, "Bounds on multiprocessing timing anomalies", 1969 (both bounds).

Shapes: W seats.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from raykd.cache import Slot

TAIL_ROUNDS = 2
"""Rounds of the seats that are dealt out teacher by teacher at the end. They read their rows once for each teacher."""


@dataclass(frozen=True)
class Work:
    """The rows of one slot, for some of the teachers of a pool (by their place in it)."""

    slot: Slot
    teachers: tuple[int, ...]


def queue(missing: Mapping[Slot, Sequence[int]], seconds: Sequence[float], seats: int) -> list[Work]:
    """The order in which the seats of one pool take what is missing: slot by slot, as training will ask for it.

    `missing` has the teachers that each slot lacks, `seconds` what a slot costs each teacher, in any unit.
    """
    slots = sorted(missing)
    whole = slots[: max(0, len(slots) // seats - TAIL_ROUNDS) * seats]
    tail = [Work(slot, (teacher,)) for slot in slots[len(whole) :] for teacher in missing[slot]]
    return [Work(slot, tuple(missing[slot])) for slot in whole] + longest_first(
        tail, [seconds[w.teachers[0]] for w in tail]
    )


def longest_first(work: Sequence[Work], seconds: Sequence[float]) -> list[Work]:
    """The same work, the longest first; what takes the same time stays in order."""
    return [work[i] for i in sorted(range(len(work)), key=lambda i: -seconds[i])]


@dataclass(frozen=True)
class Demand:
    """What one pool wants of the devices that pools share."""

    seconds: float
    """Work that it has to do, on one seat."""
    least: int = 1
    most: int | None = None
    """Bounds on its seats; None: as many as there are devices for."""


def seats(demands: Sequence[Demand], take: Callable[[int, int], bool]) -> list[int]:
    """Seats for each pool, such that all end as nearly together as the devices allow.

    `take(i, n)` takes the devices of n more seats of pool i, all or none, and says whether they were there. Each pool gets its
    least; then whoever would end last gets one more, while one fits. Pools whose least does not fit all at once share by turns:
    the longest come first, and the others get 0 until they are done.
    """
    found = [0] * len(demands)
    for i in sorted(range(len(demands)), key=lambda i: -demands[i].seconds):
        if take(i, demands[i].least):
            found[i] = demands[i].least
    growing = [i for i in range(len(demands)) if found[i]]
    while growing:
        last = max(growing, key=lambda i: demands[i].seconds / found[i])
        if found[last] != demands[last].most and take(last, 1):
            found[last] += 1
        else:
            growing.remove(last)
    return found
