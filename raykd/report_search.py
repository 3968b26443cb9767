"""What came out of a search: tables for people, an object for programs."""

from __future__ import annotations

from typing import Any

from rich.markup import escape
from rich.table import Table

from raykd.identity import fingerprint
from raykd.search.axes import Configuration
from raykd.search.search import Found, Tried


def trials_table(found: Found) -> Table:
    """All trials, the best of those that finished marked."""
    search = found.search
    grid = Table(title=f"{len(found.tried)} trials of {search.recipe.target} for {search.goal.metric}")
    for column in ("trial", "knobs", "", "epochs", search.goal.metric, *search.against, "seconds", "error"):
        grid.add_column(column, justify="left" if column in ("knobs", "", "error") else "right")
    best = found.best
    for each in found.tried:
        status = "best" if best is not None and each.number == best.number else each.status
        figures = [_figure(each, name) for name in (search.goal.metric, *search.against)]
        grid.add_row(
            str(each.number), escape(_knobs(each.configuration)), status, str(each.epochs), *figures,
            f"{each.seconds:.1f}", escape(each.error),
        )  # fmt: skip
    return grid


def front_table(found: Found) -> Table:
    """The Pareto front: the finished trials that no other one beats in everything."""
    search = found.search
    grid = Table(title=f"Pareto front: {search.goal.metric} against {', '.join(search.against)}")
    for column in ("trial", search.goal.metric, *search.against, "knobs"):
        grid.add_column(column, justify="left" if column == "knobs" else "right")
    for each in found.front:
        figures = [_figure(each, name) for name in (search.goal.metric, *search.against)]
        grid.add_row(str(each.number), *figures, escape(_knobs(each.configuration)))
    return grid


def as_json(found: Found) -> dict[str, Any]:
    """`best`, `trials` and `front` in the last line of `raykd search --json`."""
    trials = [_trial(each) for each in found.tried]
    front = {"front": [each.number for each in found.front]} if found.search.against else {}
    best = {} if found.best is None else {"best": trials[found.best.number]}
    return {**best, "trials": trials, **front}


def _trial(each: Tried) -> dict[str, Any]:
    changes = {"parts": [[dict(knobs), until] for knobs, until in each.parts]} if each.parts else {}
    return {
        "trial": each.number,
        "knobs": dict(each.configuration),
        "status": each.status,
        "metrics": dict(each.metrics),
        "epochs": each.epochs,
        "seconds": each.seconds,
        "stage": None if each.stage is None else fingerprint(each.stage),
        "teacher_rows": each.teacher_rows,
        "error": each.error,
        **changes,
    }


def _knobs(configuration: Configuration) -> str:
    return ", ".join(f"{name}={value}" for name, value in configuration.items())


def _figure(each: Tried, name: str) -> str:
    value = each.metrics.get(name)
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.4f}"
