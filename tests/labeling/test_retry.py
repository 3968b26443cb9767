"""What failed is tried again, unless it would fail again."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from raykd.labeling import retry
from raykd.labeling.retry import TRIES, retried


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "PAUSE_S", 0.0)


def failing(times: int, number: int = errno.EIO) -> Callable[[], str]:
    left = [times]

    def work() -> str:
        left[0] -= 1
        if left[0] >= 0:
            raise OSError(number, "gone")
        return "done"

    return work


def test_what_comes_back_in_time_is_returned_with_the_number_of_failures() -> None:
    for failures in range(TRIES):
        assert retried(failing(failures)) == ("done", failures)


def test_what_never_comes_back_is_raised() -> None:
    with pytest.raises(OSError, match="gone"):
        retried(failing(TRIES))


def test_a_full_disk_is_raised_at_once() -> None:
    work = failing(1, errno.ENOSPC)
    with pytest.raises(OSError, match="gone"):
        retried(work)
    assert work() == "done"


def test_a_mistake_is_not_tried_again() -> None:
    def work() -> None:
        raise ValueError("row 7")

    with pytest.raises(ValueError, match="row 7"):
        retried(work)
