"""One training that somebody paid for: the task, what was tried, what came of it."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Literal, get_args

from raykd.identity import digest, fingerprint
from raykd.models import size
from raykd.recipes import Recipe
from raykd.search.axes import Configuration
from raykd.stage import Stage
from raykd.storage import Storage
from raykd.training import metrics

FINGERPRINT = re.compile("[0-9a-f]{40}")

Status = Literal["failed", "stopped", "done"]


@dataclass(frozen=True)
class Record:
    """One training that somebody paid for."""

    fingerprint: str
    """Of its stage."""
    recipe: str
    """Name of the function that wrote it."""
    configuration: Configuration
    """All its knobs, those that were left at their defaults too."""
    features: Mapping[str, float]
    """Of the task (`meta.features`); one and the same for all trials of a search. NaN is unknown."""
    curve: tuple[float, ...] = ()
    """Validation accuracy after each epoch."""
    results: Mapping[str, float] = field(default_factory=dict)
    """`val_*` and `test_*` metrics, `parameters`, `flops` of a forward pass of a row, `seconds` of training, `epochs`."""
    cost: float = 0.0
    """Seconds that it took in all, the teachers' answers included."""
    time: float = 0.0
    """Seconds since 1970 at which it ended, by its writer's clock."""
    status: Status = "done"
    """"stopped": by a scheduler, before its last epoch; its results are those of the epochs that it had."""
    error: str = ""
    """Type and message of what ended a failed one."""

    def __post_init__(self) -> None:
        if not FINGERPRINT.fullmatch(self.fingerprint) or not self.recipe or self.status not in get_args(Status):
            named = f"fingerprint {self.fingerprint!r}, recipe {self.recipe!r}, status {self.status!r}"
            raise ValueError(
                f"a record of {named}: 40 digits, a name and one of {', '.join(get_args(Status))} are right"
            )
        for name, value in self.configuration.items():
            if not (value is None or isinstance(value, bool | int | float | str)) or value != value:
                raise ValueError(f"a record with {name}={value!r}: a knob is a number, a text, a bool or None")
        if not math.isfinite(self.cost + self.time):
            raise ValueError(f"a record of cost={self.cost} and time={self.time}: finite numbers would be right")
        for name in ("features", "results"):
            object.__setattr__(self, name, {key: float(value) for key, value in sorted(getattr(self, name).items())})
        object.__setattr__(self, "configuration", dict(sorted(self.configuration.items())))
        object.__setattr__(self, "curve", tuple(map(float, self.curve)))

    @cached_property
    def task(self) -> str:
        """Name of its task: records of equal features are of one task."""
        return task_of(self.features)

    @property
    def diverged(self) -> bool:
        """Whether the configuration itself is to blame for the failure."""
        return self.status == "failed" and self.error.startswith("DivergedError")

    @cached_property
    def content(self) -> str:
        """All of it as text: equal for equal records, NaN included."""
        return json.dumps(asdict(self), sort_keys=True)


def task_of(features: Mapping[str, float]) -> str:
    """The name of the task with these features; what differs by float noise is one task."""
    return digest({name: f"{value:.6g}" for name, value in features.items()})


def record(
    recipe: Recipe, knobs: Configuration, stage: Stage, storage: Storage, features: Mapping[str, float], *,
    cost: float, error: BaseException | None = None,
) -> Record:  # fmt: skip
    """The record of a stage that a recipe wrote with these knobs, as it lies on the storage; `cost` in seconds.

    Without a result and without an error it was stopped.
    """
    folder, result = storage.folder(stage), storage.result(stage)
    epochs = metrics.read(folder / "metrics.jsonl")
    measured = {} if result is None else {**result["metrics"], "seconds": result["seconds"]}
    if result is None and epochs:
        best = max(epochs, key=lambda epoch: float(epoch["val_top1"]))
        seconds = sum(float(epoch["seconds"]) for epoch in epochs)
        measured = {"val_top1": best["val_top1"], "val_nll": best["val_nll"], "seconds": seconds}
    sizes = {"parameters": size(stage.student).parameters, "flops": size(stage.student).flops}
    return Record(
        fingerprint(stage),
        recipe.function.__name__,
        {name: knob.default for name, knob in recipe.knobs.items()} | dict(knobs),
        features,
        tuple(float(epoch["val_top1"]) for epoch in epochs),
        {**measured, **sizes, "epochs": len(epochs)},
        cost=cost,
        time=time.time(),
        status="failed" if error is not None else "stopped" if result is None else "done",
        error="" if error is None else " ".join(f"{type(error).__name__}: {error}".split()),
    )
