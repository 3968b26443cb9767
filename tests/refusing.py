"""A runner for what must not compute: building and planning, and running what exists."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from raykd.runtime import Local


class Refusing(Local):
    """A runner that raises when it is asked to compute."""

    def label(self, labelings: object, missing: object, *, beside: object) -> Iterator[Any]:
        raise AssertionError("asked to label")

    def train(self, job: object, on_epoch: object) -> Any:
        raise AssertionError("asked to train")

    def call(self, function: object, *arguments: object) -> Any:
        raise AssertionError("asked to compute")
