"""All recipes of jobs/, and knobs with which they are small."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from raykd import recipes
from raykd.recipes import Deferred, Knob, Recipe, Written
from raykd.search.adaptive import cheapest
from raykd.stage import Pretrained, Stage

ROOT = Path(__file__).parents[2]
JOBS = sorted((ROOT / "jobs").glob("*.py"))
RECIPES: dict[str, Recipe] = {
    f"{path.stem}:{name}": recipes.load(f"{path}:{name}")
    for path in JOBS
    for name in recipes.names(recipes.load_file(path))
}
METHODS = [target for target in RECIPES if target.partition(":")[2] not in ("teacher", "student")]
SMALL: dict[str, dict[str, Any]] = {
    "progressive": {"snapshots": 1},
    "curriculum": {"layers": 1},
    "dml_rounds": {"rounds": 2},
    "dgkd": {"assistants": 1},
    "classroom": {"peers": 2, "quality": "weak"},
    "smskd": {"extra": 1},
    "crd": {"negatives": 64},
    "hpm": {"adaptive": False, "chain": False},
}
"""What a recipe needs besides few epochs and few rows."""


def of(job: str) -> list[str]:
    """The names of a job's recipes."""
    return [target.partition(":")[2] for target in RECIPES if target.startswith(f"{job}:")]


def module(job: str) -> ModuleType:
    """The job's file."""
    return recipes.load_file(ROOT / "jobs" / f"{job}.py")


def returned(target: str, data: Path, **knobs: Any) -> Written:
    """What a recipe returns; `data` is where CIFAR-100 is, for those that ask."""
    recipe = RECIPES[target]
    return recipe.returned(**({"data": str(data)} if "data" in recipe.knobs else {}), **knobs)


def written(target: str, data: Path, **knobs: Any) -> Stage:
    """The stage that it writes with these knobs; of several, the first."""
    found = returned(target, data, **knobs)
    return cheapest(found.default if isinstance(found, Deferred) else found)


def write_cifar100(folder: Path, train: int = 100, test: int = 40) -> Path:
    """CIFAR-100 in its own binary format: a coarse and a fine label, then the pixels, which are noise."""
    (folder / "cifar-100-binary").mkdir(parents=True)
    for name, rows in (("train", train), ("test", test)):
        draw = np.random.default_rng(rows)
        fine = np.arange(rows, dtype=np.uint8) % 100
        pixels = draw.integers(0, 256, (rows, 3072), dtype=np.uint8)
        content = np.hstack([fine[:, None] // 5, fine[:, None], pixels])
        (folder / "cifar-100-binary" / f"{name}.bin").write_bytes(content.tobytes())
    return folder


@contextmanager
def small(job: str, **changes: Any) -> Iterator[ModuleType]:
    """The job's file with a teacher that is trained in a moment, and what else is changed in it."""
    with pytest.MonkeyPatch.context() as patch:
        found = module(job)
        for name, value in changes.items():
            patch.setattr(found, name, value)
        patch.setattr(found, "teacher", functools.partial(found.teacher, epochs=2))
        yield found


def another(knob: Knob) -> Any:
    """Another value that the knob may have."""
    special = {
        "then": "dkd,fitnet", "first": "dkd", "tap": "stage3", "seed": 1, "replicas": 2, "pair": "vgg13-vgg8",
        "target_params": 90_000, "compression": 2.0, "files": __file__, "cache": "dense_f16", "dim": 4,
    }  # fmt: skip
    if knob.name in special:
        return special[knob.name]
    if isinstance(knob.kind, tuple):
        return next(value for value in knob.kind if value != knob.default)
    if knob.kind is bool:
        return not knob.default
    if knob.default is None:
        return 50
    return knob.default - 1 if knob.kind is int else knob.default / 2


def graph(network: Stage | Pretrained) -> list[Stage | Pretrained]:
    """A network, and all that it starts from."""
    if isinstance(network, Pretrained):
        return [network]
    return [network, *(each for _, parent in network.networks() for each in graph(parent))]
