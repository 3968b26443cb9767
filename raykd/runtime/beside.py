"""Work beside the main thread: a fill of the cache while its student is trained on what is there already."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType


class Beside:
    """Runs `work` in a thread while the block runs, and ends with it.

    An error of `work` is raised when the block ends, instead of one of the block's own: what the block missed, it missed
    because of that. A block that fails by itself cancels the work.
    """

    def __init__(self, work: Callable[[], None], cancel: threading.Event):
        self.cancel = cancel
        self.error: BaseException | None = None
        self._work = work
        self._thread = threading.Thread(target=self._run, daemon=True)

    def wait_for(self, ready: Callable[[], bool], *, poll_s: float = 0.05) -> None:
        """Come back once it is ready, or the work has ended. Raises the work's error."""
        while self._thread.is_alive() and not ready():
            time.sleep(poll_s)
        if self.error is not None:
            raise self.error

    def __enter__(self) -> Beside:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if error is not None:
            self.cancel.set()
        self._thread.join()
        if self.error is not None and self.error is not error:
            raise self.error from None

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:  # it is raised where somebody waits for it
            self.error = error
