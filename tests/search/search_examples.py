"""A toy world: tasks with features, a space, and a response whose best configuration depends on the task."""

from __future__ import annotations

import math
from collections.abc import Mapping

from raykd import rng
from raykd.search import Choice, Range, Space
from raykd.search.memory import Record
from raykd.search.space import Configuration

SPACE = Space(
    {"method": Choice("kd", "dkd"), "tau": Range(1.0, 16.0, log=True), "lr": Range(1e-3, 0.5, log=True),
     "beta": Range(1.0, 10.0, when={"method": "dkd"})}
)  # fmt: skip
DEFAULTS: Configuration = {"method": "kd", "tau": 4.0, "lr": 0.05}


def task(number: int) -> dict[str, float]:
    """Features: rows from 100 to 30,000 and a compression from 1 to 31 that say what is best, and one that says nothing."""
    size, gap, noise = (float(rng.uniform(77, number, which)) for which in range(3))
    return {"rows": round(10 ** (2 + 2.5 * size)), "compression": 1 + 30 * gap, "label_entropy": 1 + noise}


def best(features: Mapping[str, float]) -> Configuration:
    """A large gap asks for soft targets and dkd, many rows for a low rate."""
    size, gap = math.log10(features["rows"] / 100) / 2.5, (features["compression"] - 1) / 30
    found: dict[str, object] = {"method": "kd" if gap < 0.5 else "dkd", "tau": 2 * 6**gap, "lr": 0.3 * 0.05**size}
    return found if gap < 0.5 else found | {"beta": 8.0}  # type: ignore[return-value]


def top(features: Mapping[str, float]) -> float:
    """What the best configuration gives: tasks are unequally hard."""
    return 0.95 - 0.012 * features["compression"]


def response(features: Mapping[str, float], configuration: Mapping[str, object]) -> float:
    """Accuracy: `top` at the best configuration, less elsewhere."""
    goal = best(features)
    loss = 0.1 * math.log(configuration["tau"] / goal["tau"]) ** 2  # type: ignore[operator, arg-type]
    loss += 0.05 * math.log(configuration["lr"] / goal["lr"]) ** 2  # type: ignore[operator, arg-type]
    loss += 0.05 * (configuration["method"] != goal["method"])
    loss += 0.002 * (configuration.get("beta", 8.0) - 8.0) ** 2  # type: ignore[operator]
    return top(features) * math.exp(-loss)


def tried(features: Mapping[str, float], configuration: Configuration, number: int, **changes: object) -> Record:
    """The record of a trial; the number makes it a training of its own."""
    full = {"beta": 8.0, **configuration, "epochs": 30}
    results = {"val_top1": response(features, full)}
    values = {
        "fingerprint": f"{number:040x}",
        "recipe": "toy",
        "configuration": full,
        "features": features,
        "results": results,
    }
    return Record(**{**values, **changes})  # type: ignore[arg-type]


def history(tasks: int, trials: int, seed: int = 0) -> list[Record]:
    """The defaults and draws, on each of so many tasks."""
    return [
        tried(task(100 * seed + number), configuration, 1000 * number + place)
        for number in range(tasks)
        for place, configuration in enumerate([DEFAULTS, *SPACE.samples(50 * seed + number, trials - 1)])
    ]
