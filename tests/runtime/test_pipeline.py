"""Which stages are made at once and which first: bounds for any costs, errors, interrupts; and a real one on Ray."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raykd.runtime.pipeline import Pipeline, Turn, bound, carry_out, paths, span, timetable

Graph = tuple[list[float], list[set[int]]]

costs = st.lists(st.floats(0.01, 100), min_size=1, max_size=20)


@st.composite
def graphs(draw: st.DrawFn, most: int = 14) -> Graph:
    """Stages, each of which may wait for some of those before it."""
    seconds = draw(st.lists(st.floats(0.01, 100), min_size=1, max_size=most))
    parents = [draw(st.sets(st.integers(0, max(0, i - 1)), max_size=3)) if i else set() for i in range(len(seconds))]
    return seconds, parents


def alone(seconds: Sequence[float]) -> list[set[int]]:
    """Stages that wait for none."""
    return [set() for _ in seconds]


def optimum(seconds: list[float], seats: int) -> float:
    """Of stages that wait for none, by trying every assignment."""
    return min(
        max(sum(each for each, at in zip(seconds, seat, strict=True) if at == w) for w in range(seats))
        for seat in itertools.product(range(seats), repeat=len(seconds))
    )


def longest_path(seconds: Sequence[float], parents: Sequence[set[int]]) -> float:
    """By following every path."""

    def ending_in(stage: int) -> float:
        return seconds[stage] + max((ending_in(parent) for parent in parents[stage]), default=0.0)

    return max(map(ending_in, range(len(seconds))))


@given(graphs(), st.integers(1, 5))
def test_every_stage_has_a_seat_to_itself_once_its_parents_are_done(graph: Graph, seats: int) -> None:
    seconds, parents = graph
    turns = timetable(seconds, parents, seats)
    for stage, turn in enumerate(turns):
        assert turn.end == turn.start + seconds[stage]
        assert 0 <= turn.seat < seats
        assert all(turns[parent].end <= turn.start for parent in parents[stage])
    for one, other in itertools.combinations(turns, 2):
        assert one.seat != other.seat or one.end <= other.start or other.end <= one.start


@given(graphs(), st.integers(1, 5))
def test_no_timetable_beats_the_bound_and_all_are_within_grahams(graph: Graph, seats: int) -> None:
    seconds, parents = graph
    found = span(timetable(seconds, parents, seats))
    path = longest_path(seconds, parents)
    assert bound(seconds, parents, seats) == pytest.approx(max(path, sum(seconds) / seats))
    assert bound(seconds, parents, seats) <= found * (1 + 1e-9)
    assert found <= sum(seconds) / seats + (1 - 1 / seats) * path + 1e-9


@settings(max_examples=80, deadline=None)
@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=7), st.integers(1, 3))
def test_stages_that_wait_for_none_end_within_grahams_bound_of_the_optimum(seconds: list[float], seats: int) -> None:
    found, best = span(timetable(seconds, alone(seconds), seats)), optimum(seconds, seats)
    assert best <= found * (1 + 1e-9)
    assert found <= (4 / 3 - 1 / (3 * seats)) * best * (1 + 1e-9)


@given(costs, st.integers(1, 6))
def test_stages_that_wait_for_none_go_to_the_seat_whose_queue_and_their_time_are_least(
    seconds: list[float], seats: int
) -> None:
    queue = [0.0] * seats
    for each in sorted(seconds, reverse=True):  # longest first
        seat = min(range(seats), key=lambda w: queue[w] + each)
        queue[seat] += each
    turns = timetable(seconds, alone(seconds), seats)
    loads = [sum(turn.end - turn.start for turn in turns if turn.seat == w) for w in range(seats)]
    assert sorted(loads) == pytest.approx(sorted(queue))


@given(graphs())
def test_on_one_seat_all_takes_as_long_as_its_parts_together(graph: Graph) -> None:
    assert span(timetable(*graph, 1)) == pytest.approx(sum(graph[0]))


@given(graphs())
def test_with_a_seat_for_each_all_takes_as_long_as_the_longest_path(graph: Graph) -> None:
    assert span(timetable(*graph, len(graph[0]))) == pytest.approx(longest_path(*graph))


def test_what_the_longest_path_waits_for_goes_first_though_it_is_short() -> None:
    # a short teacher of a long chain, and two longer ones that nobody waits for
    seconds, parents = [1.0, 3.0, 3.0, 4.0, 4.0], [set(), set(), set(), {0}, {3}]
    assert paths(seconds, parents) == [9.0, 3.0, 3.0, 8.0, 4.0]
    turns = timetable(seconds, parents, 2)
    assert turns[0] == Turn(0, 0.0, 1.0)
    assert span(turns) == bound(seconds, parents, 2) == 9.0


def test_of_equals_the_one_that_comes_first_goes_first() -> None:
    pipeline = Pipeline([1.0, 1.0, 1.0], alone([1.0] * 3), 3)
    assert [pipeline.take() for _ in range(4)] == [0, 1, 2, None]


class Made:
    """Makes stages in threads, each when it is told to; notes which were made here."""

    def __init__(self, threads: ThreadPoolExecutor, failing: dict[int, Exception] | None = None):
        self.threads, self.failing = threads, failing or {}
        self.begun: list[int] = []
        self.here: list[int] = []
        self.done: list[int] = []
        self.most = 0
        self._now = 0
        self._lock = threading.Lock()

    def begin(self, stage: int) -> Future[None]:
        self.begun.append(stage)
        return self.threads.submit(self._make, stage)

    def alone(self, stage: int) -> None:
        self.here.append(stage)
        self._make(stage)

    def _make(self, stage: int) -> None:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        threading.Event().wait(0.005)
        with self._lock:
            self._now -= 1
            if stage in self.failing:
                raise self.failing[stage]
            self.done.append(stage)


@settings(max_examples=25, deadline=None)
@given(graphs(most=8), st.integers(1, 4))
def test_all_are_made_each_after_its_parents_and_never_more_at_once_than_seats(graph: Graph, seats: int) -> None:
    seconds, parents = graph
    with ThreadPoolExecutor(seats) as threads:
        made = Made(threads)
        carry_out(Pipeline(seconds, parents, seats), made.begin, made.alone)
    assert sorted(made.done) == list(range(len(seconds)))
    for stage, above in enumerate(parents):
        assert all(made.done.index(parent) < made.done.index(stage) for parent in above)
    assert made.most <= seats


def test_a_stage_beside_which_nothing_could_be_made_is_made_here() -> None:
    # two teachers, their student, and a student of that one
    with ThreadPoolExecutor(2) as threads:
        made = Made(threads)
        carry_out(Pipeline([1.0] * 4, [set(), set(), {0, 1}, {2}], 2), made.begin, made.alone)
    assert (made.begun, made.here) == ([0, 1], [2, 3])


@pytest.mark.parametrize("seats", [1, 2, 3])
def test_an_error_ends_those_that_wait_for_it_and_no_other_and_is_raised_at_the_end(seats: int) -> None:
    parents: list[set[int]] = [set(), set(), {0}, {1}, {2}, {3}]
    pipeline = Pipeline([3.0, 1.0, 1.0, 1.0, 1.0, 1.0], parents, seats)
    with ThreadPoolExecutor(seats) as threads:
        made = Made(threads, {0: ValueError("no such rows")})
        with pytest.raises(ValueError, match="no such rows"):
            carry_out(pipeline, made.begin, made.alone)
    assert sorted(made.done) == [1, 3, 5]
    assert pipeline.waiting == {2, 4}


def test_of_several_errors_the_first_is_raised() -> None:
    gate = threading.Event()

    def second() -> None:
        gate.wait(10)
        raise LookupError("second")

    def first() -> None:
        raise OSError("first")

    works: list[Callable[[], None]] = [second, first, gate.set]
    with ThreadPoolExecutor(2) as threads:
        pipeline = Pipeline([2.0, 2.0, 1.0], alone([1.0] * 3), 2)
        with pytest.raises(OSError, match="first"):
            carry_out(pipeline, lambda stage: threads.submit(works[stage]), lambda stage: works[stage]())


def test_an_interrupt_is_raised_at_once_and_nothing_more_is_begun() -> None:
    begun: list[int] = []

    def interrupted(stage: int) -> Future[None]:
        begun.append(stage)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        carry_out(Pipeline([1.0] * 5, alone([1.0] * 5), 2), interrupted, lambda _: None)
    assert begun == [0]
    with pytest.raises(KeyboardInterrupt):
        carry_out(Pipeline([1.0] * 2, [set(), {0}], 2), lambda _: Future(), _interrupt)


def _interrupt(_: int) -> None:
    raise KeyboardInterrupt
