"""What the driver of a search says and keeps of its trials. No Ray in here.

A trial is remembered as soon as it has ended, because a driver may be killed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from raykd.identity import fingerprint
from raykd.runtime import Runner
from raykd.search.memory import Memory
from raykd.search.record import Record, record
from raykd.search.search import Found, Search, Tried
from raykd.search.trial import joined, read_parts

PARTS = "parts"
"""What a population's trial reports of its knobs."""
BEGAN = "began"
"""When a trial's process began with it, in seconds since 1970, by its own clock."""


def in_order(results: Sequence[Any]) -> list[Any]:
    """Tune's results in the order in which trials began; those that never said anything are the last."""
    return sorted(results, key=lambda result: ((result.metrics or {}).get(BEGAN, math.inf), str(result.path)))


@dataclass
class Watch:
    """One search under way. `task`: its features. `memory`: whether its trials are remembered."""

    search: Search
    runner: Runner
    task: Mapping[str, float]
    memory: bool
    remembered: set[str] = field(default_factory=set, init=False)
    count: int = field(default=0, init=False)
    """Trials that ended while it watched."""

    def ended(self, config: Mapping[str, Any], result: Mapping[str, Any], *, failed: bool) -> None:
        """Say what came of a trial, and remember it: a driver may be killed."""
        self.count += 1
        tried = self._tried(self.count, config, result, "it failed" if failed else "")
        metric = self.search.goal.metric
        value = f"{metric} {tried.metrics[metric]:.4f}" if metric in tried.metrics else ""
        knobs = ", ".join(f"{name}={value}" for name, value in tried.configuration.items())
        self.runner.display.line(
            f"  {self.count} of {self.search.trials} trials: {tried.status} after {tried.epochs} epochs: {value}  {knobs}"
        )
        if not failed:  # what the error was is known at the end
            self._append([tried])

    def tried(self, number: int, result: Any) -> Tried:
        """What Tune's result is."""
        return self._tried(number, result.config, result.metrics or {}, _words(result.error))

    def remember(self, found: Found) -> None:
        """Of all trials what is not in the memory yet."""
        self._append(found.tried)

    def _tried(self, number: int, config: Mapping[str, Any], result: Mapping[str, Any], error: str) -> Tried:
        configuration = self.search.space.nearest(config)
        parts = read_parts(result[PARTS]) if PARTS in result else []
        stage = None
        try:
            stage = self.runner.place(joined(parts, self.search.stage) if parts else self.search.stage(configuration))
        except ValueError as problem:
            error = f"ValueError: {problem}"
        lying = None if stage is None else self.runner.storage.result(stage)
        metrics = {name: float(value) for name, value in result.items() if _told(name)}
        if lying is not None:
            metrics |= lying["metrics"]
        status = "failed" if error else "stopped" if lying is None and "test_top1" not in metrics else "done"
        return Tried(
            number, configuration, status, metrics, int(result.get("epoch", 0)), float(result.get("time_total_s", 0.0)),  # type: ignore[arg-type]
            stage, error, int(result.get("teacher_rows", 0)), parts,
        )  # fmt: skip

    def _append(self, tried: Sequence[Tried]) -> None:
        """A training whose knobs changed on the way is of no configuration, so it is not remembered."""
        new = {
            fingerprint(each.stage): each
            for each in tried
            if each.stage is not None and len(each.parts) < 2 and fingerprint(each.stage) not in self.remembered
        }
        self.remembered |= new.keys()
        if self.memory:
            Memory(self.runner.storage.root).append(map(self._record, new.values()))

    def _record(self, tried: Tried) -> Record:
        assert tried.stage is not None, "only what has a stage is remembered"
        knobs = {**self.search.given, **tried.configuration}
        found = record(self.search.recipe, knobs, tried.stage, self.runner.storage, self.task, cost=tried.seconds)
        return replace(found, status="failed", error=tried.error) if tried.error else found


def _told(name: str) -> bool:
    return name.startswith(("val_", "test_")) or name in ("parameters", "flops", "latency_ms", "agreement")


def _words(error: Exception | None) -> str:
    """Type and message: the last line of what Tune says, without the module of the type."""
    if error is None:
        return ""
    said = [line for line in str(error).splitlines() if line.strip()][-1].strip()
    kind, colon, message = said.partition(": ")
    return f"{kind.rpartition('.')[2]}{colon}{message}"
