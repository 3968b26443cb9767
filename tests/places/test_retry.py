"""What failed is tried again, unless it would fail again."""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable

import pytest

from raykd.places import Folder, retry
from raykd.places.retry import LASTING, TRANSIENT, TRIES, Unavailable, impatient, persistent, retried


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "PAUSE_S", 0.001)
    monkeypatch.setenv("RAYKD_PATIENCE", "60")


def failing(times: int, number: int | None = errno.EIO) -> Callable[[], str]:
    left = [times]

    def work() -> str:
        left[0] -= 1
        if left[0] >= 0:
            raise OSError(number, "gone", "/a/file") if number else OSError("of some library")
        return "done"

    return work


@pytest.mark.parametrize("number", sorted(TRANSIENT))
def test_what_fails_for_the_moment_is_tried_until_it_is_back(number: int) -> None:
    for failures in (0, TRIES + 1):
        assert retried(failing(failures, number)) == ("done", failures)
        assert persistent(failing(failures, number))() == "done"


def test_what_never_comes_back_is_one_line_with_the_path_and_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYKD_PATIENCE", "0.3")
    began = time.monotonic()
    with pytest.raises(Unavailable, match=r"^/a/file: gone, still after 0 s and \d+ tries$") as caught:
        persistent(failing(10**9))()
    assert 0.3 <= time.monotonic() - began < 3
    assert caught.value.errno == errno.EIO
    assert caught.value.filename == "/a/file"
    # what was tried long enough is not tried again by whoever called
    calls = []

    def work() -> None:
        calls.append(1)
        raise caught.value

    with pytest.raises(Unavailable):
        retried(work)
    assert len(calls) == 1


def test_an_error_that_says_neither_is_tried_a_few_times_by_those_who_read_rows_and_not_by_the_storage() -> None:
    for failures in range(TRIES):
        assert retried(failing(failures, None)) == ("done", failures)
    with pytest.raises(OSError, match="library"):
        retried(failing(TRIES, None))
    with pytest.raises(OSError, match="library"):
        persistent(failing(1, None))()


@pytest.mark.parametrize("number", sorted(LASTING))
def test_what_lasts_is_raised_at_once(number: int) -> None:
    work = failing(1, number)
    with pytest.raises(OSError, match="gone"):
        retried(work)
    assert work() == "done"


@pytest.mark.parametrize("error", [FileNotFoundError, FileExistsError, NotADirectoryError, ValueError])
def test_an_answer_or_a_mistake_is_not_asked_for_again(error: type[Exception]) -> None:
    calls = []

    @persistent
    def work() -> None:
        calls.append(1)
        raise error("row 7")

    with pytest.raises(error, match="row 7"):
        work()
    assert len(calls) == 1


def test_pauses_double_up_to_the_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    clock = [0.0]

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        clock[0] += seconds

    monkeypatch.setattr(retry, "PAUSE_S", 0.1)
    monkeypatch.setattr(retry.time, "sleep", sleep)
    monkeypatch.setattr(retry.time, "monotonic", lambda: 1 + clock[0])
    with pytest.raises(Unavailable, match="still after 60 s and 18 tries"):
        retried(failing(10**9))
    assert pauses[:7] == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0])
    assert max(pauses) == 5.0
    assert sum(pauses) == pytest.approx(60)


def test_what_is_waited_for_is_said_once_and_so_is_its_return(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(retry, "QUIET_S", 0.0)
    with caplog.at_level(logging.WARNING):
        assert retried(failing(6)) == ("done", 6)
    first, second = caplog.messages
    assert first == "/a/file: gone: waiting for it, up to 60 s more"
    assert second.startswith("it is back after")


def test_a_short_failure_is_not_worth_a_word(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        retried(failing(3))
    assert not caplog.messages


def test_who_comes_back_by_himself_does_not_wait() -> None:
    began = time.monotonic()
    with impatient(), pytest.raises(OSError, match="gone"):
        retried(failing(10**9))
    assert time.monotonic() - began < 1
    assert retried(failing(3)) == ("done", 3)


def test_a_patience_that_is_no_number_is_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYKD_PATIENCE", "long")
    with pytest.raises(ValueError, match="RAYKD_PATIENCE=long: a number of seconds"):
        retry.patience()


def test_a_link_that_was_made_and_reported_as_failed_is_ones_own(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = retry.os.link

    def lost(source: str, target: str) -> None:
        link(source, target)
        monkeypatch.setattr(retry.os, "link", link)
        raise OSError(errno.EIO, "the answer was lost", target)

    monkeypatch.setattr(retry.os, "link", lost)
    assert Folder(tmp_path).create("name", b"bytes")
    assert not Folder(tmp_path).create("name", b"others")
    assert [path.name for path in tmp_path.iterdir()] == ["name"]
    assert (tmp_path / "name").read_bytes() == b"bytes"
