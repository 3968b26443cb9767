"""Batches made ahead are the same batches."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from raykd.training.prefetch import ahead


def test_the_same_items_come_in_the_same_order() -> None:
    assert list(ahead(iter(range(100)))) == list(range(100))
    assert list(ahead(iter(()))) == []


def test_no_more_are_made_than_there_is_room_for() -> None:
    made = []

    def items() -> Iterator[int]:
        for i in range(50):
            made.append(i)
            yield i

    taking = ahead(items(), depth=2)
    assert next(taking) == 0
    time.sleep(0.2)
    assert len(made) <= 1 + 2 + 1  # taken, ready, in hand
    assert list(taking) == list(range(1, 50))


def test_an_error_comes_where_its_item_would_have_come() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("row 7 is not a number")

    taking = ahead(items())
    assert next(taking) == 1
    with pytest.raises(ValueError, match="row 7"):
        next(taking)


def test_leaving_early_stops_the_thread() -> None:
    before = threading.active_count()
    taking = ahead(iter(range(10**9)))
    next(taking)
    taking.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before
