"""What one run did, phase by phase."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Counts:
    """What one run did. Other runs on the same storage count for themselves."""

    teacher_rows: Counter[str] = field(default_factory=Counter)
    """Rows that each teacher computed: into the cache, or for a training that caches nothing."""
    preflight_rows: Counter[str] = field(default_factory=Counter)
    """Rows that each teacher was tried on."""
    cache_rows: int = 0
    """Rows that training read from the cache."""
    seconds: Counter[str] = field(default_factory=Counter)
    """Wall-clock seconds by phase."""
    phases: dict[str, Counter[str]] = field(default_factory=dict)
    """Phase -> what -> how many: rows, bytes, waits (for what another run computes), retries (of what another run left
    undone, and of a file system that failed), quarantines (of corrupt shards)."""

    def add(self, phase: str, what: str, amount: float) -> None:
        """So much more of something in a phase."""
        if amount:
            self.phases.setdefault(phase, Counter())[what] += amount  # type: ignore[assignment]

    def merge(self, other: Counts) -> None:
        """What another did, too. Seconds of what is done at once add up, so that phases may be longer than the total."""
        self.teacher_rows += other.teacher_rows
        self.preflight_rows += other.preflight_rows
        self.cache_rows += other.cache_rows
        self.seconds += other.seconds
        for phase, counted in other.phases.items():
            for what, amount in counted.items():
                self.add(phase, what, amount)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time what the block does."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - started  # type: ignore[assignment]

    def as_json(self) -> dict[str, Any]:
        """For `raykd run --json`."""
        return {
            "preflight_rows": dict(self.preflight_rows),
            "cache_rows": self.cache_rows,
            "phases": {phase: dict(counted) for phase, counted in self.phases.items()},
            "seconds": {phase: round(float(seconds), 3) for phase, seconds in self.seconds.items()},
        }
