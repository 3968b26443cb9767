"""What a training worker is told: specs and places, a few kilobytes, no tensors."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from raykd.answers import Answers, Cached
from raykd.stage import Stage
from raykd.storage import Storage


@dataclass(frozen=True)
class TrainingJob:
    """Train one stage whose teachers are finished."""

    stage: Stage
    storage: Storage
    precision: str = "auto"
    """What the student trains in; auto: settled by the worker for its device. float16 scales its gradients."""
    answers: Answers = Cached()
    """Where what the teachers say comes from."""

    @cached_property
    def folder(self) -> Path:
        """Where the stage's files lie."""
        return self.storage.folder(self.stage)
