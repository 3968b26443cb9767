"""What a training worker is told: specs and places, a few kilobytes, no tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from raykd.objective import STUDENT
from raykd.signals import Observable
from raykd.stage import Stage
from raykd.storage import Storage


@dataclass(frozen=True)
class TrainingJob:
    """Train one stage whose teachers are finished and whose signals are in the cache."""

    stage: Stage
    storage: Storage
    precision: str = "auto"
    """What the student trains in; auto: settled by the worker for its device. float16 scales its gradients."""
    verify: Literal["sample", "all"] = "sample"
    """Which rows' inputs are compared with what the teachers saw: those of an epoch's first batch, or all."""

    @cached_property
    def folder(self) -> Path:
        """Where the stage's files lie."""
        return self.storage.folder(self.stage)

    @property
    def teacher_signals(self) -> Mapping[str, frozenset[Observable]]:
        """The signals to read from the cache, by teacher."""
        return {name: signals for name, signals in self.stage.needs.items() if name != STUDENT}
