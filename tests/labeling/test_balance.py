"""Order of work and seats: bounds that hold for any costs, and the optimum of small cases by trying everything."""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from raykd.cache import Slot
from raykd.labeling.balance import Demand, Work, longest_first, queue, seats

costs = st.lists(st.floats(0.01, 100), min_size=1, max_size=30)


def makespan(seconds: list[float], seats: int) -> float:
    """When the last seat is done, if each takes the next piece of work as soon as it is free."""
    free = [0.0] * seats
    for each in seconds:
        heapq.heappush(free, heapq.heappop(free) + each)
    return max(free)


def lower_bound(seconds: list[float], seats: int) -> float:
    """No schedule ends before: the longest piece, or all of them shared evenly."""
    return max(max(seconds, default=0.0), sum(seconds) / seats)


def deal(seconds: list[float]) -> list[float]:
    """The same costs, longest first."""
    work = [Work(Slot(0, i), (0,)) for i in range(len(seconds))]
    return [seconds[each.slot.index] for each in longest_first(work, seconds)]


def optimum(seconds: list[float], workers: int) -> float:
    """By trying every assignment."""
    loads = (Counter() for _ in itertools.count())
    best = float("inf")
    for assignment in itertools.product(range(workers), repeat=len(seconds)):
        load = next(loads)
        for worker, each in zip(assignment, seconds, strict=True):
            load[worker] += each  # type: ignore[assignment]
        best = min(best, max(load.values()))
    return best


@given(costs, st.integers(1, 9))
def test_no_order_beats_the_bound_and_any_order_is_within_twice_of_it(seconds: list[float], workers: int) -> None:
    bound, found = lower_bound(seconds, workers), makespan(seconds, workers)
    assert bound <= found * (1 + 1e-9)
    assert found <= sum(seconds) / workers + (1 - 1 / workers) * max(seconds) + 1e-9


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=7), st.integers(1, 3))
def test_longest_first_is_within_grahams_bound_of_the_optimum(seconds: list[float], workers: int) -> None:
    best = optimum(seconds, workers)
    assert best <= makespan(deal(seconds), workers) * (1 + 1e-9)
    assert makespan(deal(seconds), workers) <= (4 / 3 - 1 / (3 * workers)) * best * (1 + 1e-9)


def test_grahams_worst_case_is_reached() -> None:
    # two of each of 5, 4 and three of 3 on three workers: the classic case in which longest first is worst
    assert makespan(deal([5, 5, 4, 4, 3, 3, 3]), 3) == 11
    assert optimum([5, 5, 4, 4, 3, 3, 3], 3) == 9


@given(
    st.dictionaries(
        st.builds(Slot, st.integers(0, 3), st.integers(0, 20)),
        st.sets(st.integers(0, 3), min_size=1).map(sorted),
        max_size=60,
    ),
    st.lists(st.floats(0.1, 10), min_size=4, max_size=4),
    st.integers(1, 8),
)
def test_a_queue_has_every_piece_once_and_ends_within_a_teachers_slot_of_the_bound(
    missing: dict[Slot, list[int]], seconds: list[float], workers: int
) -> None:
    order = queue(missing, seconds, workers)
    dealt = [(work.slot, teacher) for work in order for teacher in work.teachers]
    assert sorted(dealt) == sorted((slot, teacher) for slot, teachers in missing.items() for teacher in teachers)
    shared = [work for work in order if len(work.teachers) > 1]
    assert [work.slot for work in shared] == sorted(work.slot for work in shared)
    spans = [sum(seconds[t] for t in work.teachers) for work in order]
    if spans and all(len(teachers) == 4 for teachers in missing.values()):  # all slots alike: only the tail is uneven
        assert makespan(spans, workers) <= sum(spans) / workers + max(seconds) + 1e-9


def test_four_teachers_of_cost_1_2_4_8_on_8_seats_end_together() -> None:
    missing = {Slot(0, i): [0, 1, 2, 3] for i in range(44)}  # 44 is no multiple of 8
    seconds = [1.0, 2.0, 4.0, 8.0]
    spans = [sum(seconds[t] for t in work.teachers) for work in queue(missing, seconds, 8)]
    bound = 44 * 15 / 8
    assert makespan(spans, 8) <= 1.02 * bound
    equal_split = max(44 * each / 2 for each in seconds)  # two seats for each teacher
    assert equal_split > 2 * bound


def devices(number: float, *sizes: float) -> Callable[[int, int], bool]:
    """So many devices, of which a seat of each pool takes its size, by default a whole one."""
    taken = [0.0]

    def take(pool: int, count: int) -> bool:
        wanted = count * (sizes[pool] if sizes else 1.0)
        fits = sum(taken) + wanted <= number
        taken.append(wanted if fits else 0.0)
        return fits

    return take


demands = st.lists(
    st.tuples(
        st.builds(Demand, st.floats(0.1, 100), st.integers(1, 3), st.one_of(st.none(), st.integers(3, 6))),
        st.sampled_from([0.25, 0.5, 1.0, 2.0]),
    ),
    min_size=1,
    max_size=5,
)


@given(demands, st.integers(1, 16))
def test_seats_fit_the_devices_and_the_declared_bounds(wanted: list[tuple[Demand, float]], number: int) -> None:
    asked, sizes = zip(*wanted, strict=True)
    found = seats(asked, devices(number, *sizes))
    left = number - sum(n * size for n, size in zip(found, sizes, strict=True))
    assert left >= 0
    for n, each, size in zip(found, asked, sizes, strict=True):
        assert n == 0 or each.least <= n <= (each.most or n)
        assert n in (0, each.most) or left < size  # no device that a pool could take is idle
    if sum(each.least * size for each, size in wanted) <= number:
        assert all(found)


@settings(deadline=None)
@given(st.lists(st.floats(0.1, 100), min_size=1, max_size=4), st.integers(4, 8))
def test_with_whole_devices_no_other_split_ends_earlier(seconds: list[float], number: int) -> None:
    found = seats([Demand(each) for each in seconds], devices(number))
    ends = max(each / n for each, n in zip(seconds, found, strict=True))
    splits = itertools.product(range(1, number + 1), repeat=len(seconds))
    best = min(
        max(each / n for each, n in zip(seconds, split, strict=True)) for split in splits if sum(split) <= number
    )
    assert ends <= best * (1 + 1e-9)


def test_on_fewer_devices_than_pools_the_longest_come_first() -> None:
    assert seats([Demand(1), Demand(5), Demand(3)], devices(2)) == [0, 1, 1]
