"""Work beside the main thread: its error wins, and a block that fails ends it."""

from __future__ import annotations

import threading
import time

import pytest

from raykd.runtime.beside import Beside


def test_the_block_runs_while_the_work_does_and_ends_after_it() -> None:
    done = []

    def work() -> None:
        time.sleep(0.1)
        done.append("work")

    with Beside(work, threading.Event()) as beside:
        beside.wait_for(lambda: bool(done), poll_s=0.01)
        assert done == ["work"]


def test_waiting_ends_with_the_work_although_nothing_is_ready() -> None:
    with Beside(lambda: None, threading.Event()) as beside:
        beside.wait_for(lambda: False, poll_s=0.01)


def test_the_error_of_the_work_is_raised_instead_of_what_it_caused() -> None:
    def work() -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"), Beside(work, threading.Event()) as beside:
        beside.wait_for(lambda: False, poll_s=0.01)
    with pytest.raises(OSError, match="disk full"), Beside(work, threading.Event()):
        raise LookupError("a shard is missing")


def test_a_block_that_fails_cancels_the_work() -> None:
    cancel = threading.Event()

    def work() -> None:
        assert cancel.wait(10)

    with pytest.raises(ValueError, match="not finite"), Beside(work, cancel):
        raise ValueError("the loss is not finite")
