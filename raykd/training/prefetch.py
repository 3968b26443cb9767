"""The next batches are made ready in a thread while the device works on this one."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator
from typing import TypeVar

T = TypeVar("T")
DEPTH = 2
"""Batches ready ahead: one being taken, one behind it."""


def ahead(items: Iterator[T], depth: int = DEPTH) -> Generator[T, None, None]:
    """The same items in the same order, made by a thread of its own. An error comes where its item would have come.

    Leaving early stops the thread.
    """
    ready: queue.Queue[tuple[T | None, BaseException | None, bool]] = queue.Queue(depth)
    left = threading.Event()

    def put(item: tuple[T | None, BaseException | None, bool]) -> bool:
        while not left.is_set():
            try:
                ready.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def make() -> None:
        try:
            for item in items:
                if not put((item, None, False)):
                    return
            put((None, None, True))
        except BaseException as error:
            put((None, error, True))

    thread = threading.Thread(target=make, daemon=True)
    thread.start()
    try:
        while True:
            item, error, over = ready.get()
            if error is not None:
                raise error
            if over:
                return
            yield item  # type: ignore[misc]
    finally:
        left.set()
        thread.join()
