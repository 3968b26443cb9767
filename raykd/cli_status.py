"""raykd status: what is running on a storage, and what is done, unfinished, failed, missing."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

import click
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from raykd.cli_options import CACHE, JSON, OUT, STORAGE, print_json
from raykd.runtime import open_storage
from raykd.status import Seen, Status, plain
from raykd.status import status as status_of

SHOWN = 20
"""Lines of a table, at most."""


@click.command()
@STORAGE
@CACHE
@JSON
@click.option(
    "--watch", type=click.FloatRange(min=0.1), default=None, metavar="SECONDS",
    help="Look again, each time after so many seconds, until interrupted.",
)  # fmt: skip
def status(storage: str, cache: str, as_json: bool, watch: float | None) -> None:
    """Show what is running on the storage, what is done, unfinished, failed or missing, and what it takes.

    It only reads, whoever is at work there. A killed run is known at once on its own machine, elsewhere after 30 s.
    """
    place = open_storage(storage, "float32", local=True, cache=cache)
    while True:
        found = status_of(place)
        if watch is not None and OUT.is_terminal:
            OUT.clear()
        for each in shown(found):
            OUT.print(each, soft_wrap=isinstance(each, Text))
        if as_json:
            print_json(found.as_json())
        if watch is None:
            return
        time.sleep(watch)


def shown(found: Status) -> Iterator[RenderableType]:
    """Tables and lines for people. Texts from files are printed as they are: no markup, no control characters."""
    if not found.exists:
        yield Text(f"the storage {plain(found.storage)} does not exist yet")
        return
    if not (found.runs or found.stages or found.fills):
        yield Text(f"the storage {plain(found.storage)} holds no stages, and nothing is running")
    if found.runs:
        yield _table(
            "runs under way, and those that ended early",
            ("run", "state", "target", "host", "pid", "last event", "what"),
            (
                (run.run, run.state, run.target, run.host, run.pid, run.last, run.error or run.doing)
                for run in found.runs
            ),
        )
    if left := found.those("training", "failed", "unfinished", "planned", "missing"):
        columns = ("stage", "label", "state", "epochs", "val top-1", "by", "error")
        yield _table("stages to be made", columns, map(_left, left))
    if done := found.those("done"):
        yield _table("stages that are done", ("stage", "label", "val top-1", "test top-1", "seconds"), map(_done, done))
    if found.fills:
        yield _table(
            "entries of the cache that lack shards",
            ("entry", "teacher", "view", "shards", "by"),
            (
                (fill.entry[:8], fill.teacher, fill.view, f"{fill.shards:,} of {fill.of:,}", _somebody(fill.busy))
                for fill in found.fills
            ),
        )
    yield Text(_counted(found))
    for line in found.odd[:SHOWN]:
        yield Text(f"odd: {line}")
    if len(found.odd) > SHOWN:
        yield Text(f"odd: {len(found.odd) - SHOWN:,} more, which --json lists")


def _table(title: str, columns: Iterable[str], rows: Iterable[tuple[object, ...]]) -> Table:
    """The first rows; how many there are stands in the title."""
    cells = [[Text("-" if cell is None else str(cell)) for cell in row] for row in rows]
    more = f", {SHOWN} of {len(cells):,}" if len(cells) > SHOWN else ""
    grid = Table(title=Text(f"{title}{more}"))
    for column in columns:
        grid.add_column(column, overflow="fold")
    for row in cells[:SHOWN]:
        grid.add_row(*row)
    return grid


def _left(seen: Seen) -> tuple[object, ...]:
    epochs = None if seen.epoch is None else f"{seen.epoch} of {seen.epochs}"
    who = seen.who or _somebody(seen.state == "training")
    return seen.stage[:8], seen.label, seen.state, epochs, _share(seen.val_top1), who, seen.error


def _done(seen: Seen) -> tuple[object, ...]:
    seconds = None if seen.seconds is None else f"{seen.seconds:.1f}"
    return seen.stage[:8], seen.label, _share(seen.val_top1), _share(seen.test_top1), seconds


def _somebody(busy: bool) -> str:
    return "somebody" if busy else "nobody"


def _share(value: float | None) -> str | None:
    return None if value is None else f"{value:.2%}"


def _counted(found: Status) -> str:
    running = sum(run.state == "running" for run in found.runs)
    states = ("done", "training", "unfinished", "failed", "planned", "missing")
    counts = ", ".join(f"{len(those):,} {state}" for state in states if (those := found.those(state)))
    sizes = ", ".join(f"{name} {size:,}" for name, size in sorted(found.bytes.items(), key=lambda each: -each[1])[:6])
    total = sum(found.bytes.values())
    return f"{running} running; stages: {counts or 'none'}; {total:,} bytes{f' ({sizes})' if sizes else ''}"
