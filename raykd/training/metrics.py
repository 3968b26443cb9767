"""A stage's metrics.jsonl while it grows: epochs written by a worker, shown by whoever waits for it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from raykd import storage
from raykd.training.epochs import Epoch, of_lines

POLL_S = 0.25


def read(path: Path) -> list[Epoch]:
    """The epochs written so far. Raises `ValueError` for a file that holds anything else."""
    return of_lines(storage.read(path) or b"", path)


class Tail:
    """Hands every epoch that appears in the file while the block runs to `on_epoch`, once."""

    def __init__(self, path: Path, on_epoch: Callable[[Epoch], None]):
        self.path, self.on_epoch = path, on_epoch
        self.seen = len(read(path))
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Tail:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(POLL_S):
            self._show()
        self._show()

    def _show(self) -> None:
        try:
            epochs = read(self.path)
        except (OSError, ValueError):  # whoever works there says so
            return
        for epoch in epochs[self.seen :]:
            self.on_epoch(epoch)
        self.seen = max(self.seen, len(epochs))
