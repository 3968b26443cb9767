"""A stage's metrics.jsonl while it grows: epochs written by a worker, shown by whoever waits for it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from raykd.training.loop import Epoch

POLL_S = 0.25


def read(path: Path) -> list[Epoch]:
    """The epochs written so far."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


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
        epochs = read(self.path)
        for epoch in epochs[self.seen :]:
            self.on_epoch(epoch)
        self.seen = max(self.seen, len(epochs))
