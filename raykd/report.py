"""What came out of a run: a table for people, an object for programs."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.markup import escape
from rich.table import Table

from raykd.cache import Entry
from raykd.cache.pins import pins
from raykd.identity import fingerprint
from raykd.models import Architecture, size
from raykd.plan import Plan, needed
from raykd.runtime.selecting import compared
from raykd.runtime.trained import Trained
from raykd.search.adapting import METRIC, Tried
from raykd.selection import Selection
from raykd.stage import Pretrained, Stage
from raykd.storage import Storage
from raykd.training.evaluate import evaluated
from raykd.training.metrics import read

CLASSES = 20
"""Rows of a table by class, at most."""


@dataclass(frozen=True)
class Row:
    """One network of the table. Accuracy and negative log-likelihood (nats) are those of the test split."""

    role: str
    network: Architecture
    top1: float
    nll: float
    seconds: float | None
    """Time of its training; None for a network that came trained."""


def rows(stage: Stage, storage: Storage) -> Iterator[Row]:
    """The teachers, the student alone if it was trained, the student."""
    for name, teacher in needed(stage).items():
        if (row := _row(name, teacher, stage, storage)) is not None:
            yield row
    others = (
        [("student alone", stage.alone()), ("student distilled", stage)] if stage.teachers else [("student", stage)]
    )
    for role, other in others:
        if (row := _row(role, other, stage, storage)) is not None:
            yield row


def table(stage: Stage, storage: Storage) -> Table:
    """Top-1 and negative log-likelihood on the test split, size, and what compression costs."""
    found = list(rows(stage, storage))
    teacher = max((row for row in found if row.role in needed(stage)), key=lambda row: row.top1, default=None)
    grid = Table(title=f"{stage} ({fingerprint(stage)[:8]}), test split of {stage.view.dataset}")
    for column in ("", "network", "top-1", "NLL", "parameters", "compression", "retention", "seconds"):
        grid.add_column(column, justify="left" if column in ("", "network") else "right")
    for row in found:
        parameters = size(row.network).parameters
        smaller = f"{size(teacher.network).parameters / parameters:.1f}x" if teacher else "-"
        retained = f"{row.top1 / teacher.top1:.1%}" if teacher and teacher.top1 else "-"
        grid.add_row(
            row.role,
            str(row.network),
            f"{row.top1:.2%}",
            f"{row.nll:.4f}",
            f"{parameters:,}",
            smaller,
            retained,
            "-" if row.seconds is None else f"{row.seconds:.1f}",
        )
    return grid


def as_json(trained: Trained) -> dict[str, Any]:
    """The last line of `raykd run --json`."""
    counts = trained.counts
    return {
        "stage": fingerprint(trained.stage),
        "label": str(trained.stage),
        "metrics": dict(trained.metrics),
        "teacher_rows": {name: counts.teacher_rows[name] for name in trained.stage.teachers}
        | dict(counts.teacher_rows),
        **counts.as_json(),
        "network": trained.weights,
    }


def shown(stage: Stage, storage: Storage) -> list[dict[str, Any]]:
    """What its learned pieces showed, by piece, with the `epoch`: of every epoch that had something to show."""
    lines = read(storage.folder(stage) / "metrics.jsonl")
    return [{"epoch": line["epoch"], **line["shown"]} for line in lines if "shown" in line]


def shown_tables(epochs: Sequence[Mapping[str, Any]]) -> Iterator[Table]:
    """Of each piece: its numbers in the first, the middle and the last epoch; and of the last one what it has by class.

    Of more than `CLASSES` classes, those that are farthest from their mean.
    """
    if not epochs:
        return
    some = list({each["epoch"]: each for each in (epochs[0], epochs[len(epochs) // 2], epochs[-1])}.values())
    for piece, told in epochs[-1].items():
        if piece == "epoch":
            continue
        numbers = [dict(_numbers(each[piece])) for each in some]
        grid = _titled(f"{piece}: what it learned")
        grid.add_column("")
        for each in some:
            grid.add_column(f"epoch {each['epoch'] + 1}", justify="right")
        for name in numbers[-1]:
            grid.add_row(escape(name), *(_number(each.get(name)) for each in numbers))
        yield grid
        for name, columns in told.items():
            if isinstance(columns, Mapping) and all(isinstance(column, list) for column in columns.values()):
                title = f"{piece}: mean {name} of a teacher by class, epoch {epochs[-1]['epoch'] + 1}"
                yield _by_class(title, columns)


def _numbers(told: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, float | None]]:
    for name, value in told.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{before}{name} ")
        elif not isinstance(value, list):
            yield f"{before}{name}", value


def _by_class(title: str, columns: Mapping[str, Sequence[float | None]]) -> Table:
    rows_CM = list(zip(*columns.values(), strict=True))
    seen = [c for c, row_M in enumerate(rows_CM) if None not in row_M]
    mean_M = [sum(rows_CM[c][m] or 0.0 for c in seen) / max(len(seen), 1) for m in range(len(columns))]

    def off(c: int) -> float:
        return max((abs((x or 0.0) - mean) for x, mean in zip(rows_CM[c], mean_M, strict=True)), default=0.0)

    chosen = sorted(sorted(seen, key=off, reverse=True)[:CLASSES])
    grid = _titled(title if len(chosen) == len(seen) else f"{title}, the {CLASSES} farthest from their mean")
    grid.add_column("class", justify="right")
    for name in columns:
        grid.add_column(escape(name), justify="right")
    for c in chosen:
        grid.add_row(str(c), *map(_number, rows_CM[c]))
    return grid


def _titled(title: str) -> Table:
    """As wide as its title, which is on one line."""
    return Table(title=escape(title), min_width=len(title))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def candidates_table(selection: Selection, storage: Storage) -> Table:
    """What the candidates of a selection that were made came to."""
    least = f"{selection.epsilon:g}{' of it' if selection.relative else ''}"
    grid = Table(title=f"candidates: the next one must gain {least} {selection.metric}")
    columns = ("links", "networks", "parameters", selection.metric, "gain", "seconds of training")
    for column in ("candidate", *columns, ""):
        grid.add_column(column, justify="left" if column in ("candidate", "networks", "") else "right")
    for each in candidates_json(selection, storage):
        grid.add_row(
            each["label"],
            str(each["links"]),
            " > ".join(each["networks"]),
            " ".join(f"{parameters:,}" for parameters in each["parameters"]),
            f"{each['value']:.4f}",
            "-" if each["gain"] is None else f"{each['gain']:+.4f}",
            f"{each['seconds']:.1f}",
            "taken" if each["taken"] else "",
        )
    return grid


def candidates_json(selection: Selection, storage: Storage) -> list[dict[str, Any]]:
    """`candidates` in the last line of `raykd run --json`, where a recipe writes a selection."""
    return [
        {
            "stage": fingerprint(each.stage),
            "label": str(each.stage),
            "links": len(each.made) - 1,
            "networks": [str(stage.student) for stage in each.made],
            "parameters": [size(stage.student).parameters for stage in each.made],
            "metric": selection.metric,
            "value": each.value,
            "gain": each.gain,
            "seconds": each.seconds,
            "taken": each.taken,
        }
        for each in compared(selection, storage)
    ]


def proposals_table(found: Sequence[Tried]) -> Table:
    """What the configuration manager proposed, why, and what came of it."""
    grid = Table(title="proposals of the configuration manager: a short run of each, the best in full")
    for column in ("configuration", "why", "epochs", METRIC, "seconds", ""):
        grid.add_column(column, justify="right" if column in ("epochs", METRIC, "seconds") else "left")
    for each in found:
        said = " ".join(f"{name}={value}" for name, value in each.configuration.items())
        value = "-" if each.value is None else f"{each.value:.4f}"
        state = "taken" if each.taken else "diverged" if each.error else ""
        grid.add_row(escape(said), each.reason, str(each.stage.budget.trained), value, f"{each.seconds:.1f}", state)
    return grid


def proposals_json(found: Sequence[Tried]) -> list[dict[str, Any]]:
    """`proposals` of `raykd run --json` and `raykd plan --json`, where a recipe leaves its configuration to the manager."""
    return [
        {
            "stage": fingerprint(each.stage),
            "configuration": dict(each.configuration),
            "reason": each.reason,
            "round": each.round,
            "epochs": each.stage.budget.trained,
            "metric": METRIC,
            "value": each.value,
            "seconds": each.seconds,
            "error": each.error,
            "taken": each.taken,
        }
        for each in found
    ]


def plan_table(plan: Plan) -> Table:
    """What a run would do."""
    grid = Table(title="plan")
    columns = (
        "stage",
        "network",
        "state",
        "teacher rows to compute",
        "cache bytes",
        "labeling FLOPs",
        "training FLOPs",
    )
    for column in (*columns, "pays after"):
        grid.add_column(column, justify="left" if column in ("stage", "network", "state") else "right")
    for step in plan.steps:
        pretrained = isinstance(step.network, Pretrained)
        missing = [f"{filling.name} {filling.missing:,} of {filling.rows:,}" for filling in step.fillings]
        grid.add_row(
            str(step.network),
            str(step.network.architecture),
            "given" if pretrained else "done" if step.done else "to train",
            "\n".join(missing) or "-",
            f"{sum(filling.bytes for filling in step.fillings):,}",
            f"{sum(filling.flops for filling in step.fillings):.2e}",
            f"{step.flops:.2e}",
            f"{step.break_even} epochs, up to {step.saving:.2f}x" if step.break_even else "-",
        )
    return grid


def cache_table(lines: Sequence[Mapping[str, Any]]) -> Table:
    """The entries of a cache, of each what `entry_json` says."""
    grid = Table(title="cache")
    words, numbers = ("teacher", "dataset", "view", "signal", "codec"), ("rows", "replicas", "shards", "bytes")
    for column in ("entry", *words, *numbers, "last used", "pinned"):
        grid.add_column(column, justify="right" if column in numbers else "left")
    for line in lines:
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(line["last_used"])) if line["last_used"] else "-"
        cells = [escape(str(line[name])) for name in words], [f"{line[name]:,}" for name in numbers]
        grid.add_row(line["entry"][:8], *cells[0], *cells[1], used, ", ".join(line["pinned"]) or "-")
    return grid


def entry_json(entry: Entry) -> dict[str, Any]:
    """One line of `raykd cache ls --json`. `rows` are those of one replica, `replicas` the complete ones."""
    holdings = entry.holdings()
    return {
        "entry": entry.key_digest,
        **{name: entry.about.get(name, "?") for name in ("teacher", "dataset", "view", "signal")},
        "codec": "?" if entry.codec is None else str(entry.codec),
        "rows": entry.rows,
        "replicas": len(holdings.complete),
        "shards": sum(holdings.shards.values()),
        "bytes": holdings.bytes,
        "last_used": holdings.last_used,
        "pinned": pins(entry),
    }


def _row(role: str, network: Stage | Pretrained, stage: Stage, storage: Storage) -> Row | None:
    """None for what is not there yet."""
    if storage.digest(network) is None:
        return None
    metrics = evaluated(storage.evaluation(storage.finished(network), stage.view))
    if not metrics:
        return None
    result = storage.result(network) if isinstance(network, Stage) else None
    seconds = None if result is None else float(result["seconds"])
    return Row(role, network.architecture, metrics["test_top1"], metrics["test_nll"], seconds)
