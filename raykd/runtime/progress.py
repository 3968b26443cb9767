"""What is seen of a run: bars with rate and time left on a terminal, a line for each epoch everywhere; or, with
RAYKD_LOG=json, for machines, the events of `events.py` and nothing else, a JSON object a line.

All of it goes to standard error: standard output is for results.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, get_args

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Task as RichTask
from rich.text import Text

from raykd.runtime.events import Events

Style = Literal["text", "json"]
STYLE = "RAYKD_LOG"


class Advance(Protocol):
    """Says that `amount` more is done."""

    def __call__(self, amount: int) -> None:
        """Moves the bar."""


class _Rate(ProgressColumn):
    def render(self, task: RichTask) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f}/s")


def style_of(text: str | None = None) -> Style:
    """How standard error is written; by default as RAYKD_LOG says, for people. Raises `ValueError` for anything else."""
    found = text or os.environ.get(STYLE) or "text"
    for style in get_args(Style):
        if found == style:
            return style  # type: ignore[no-any-return]
    raise ValueError(f"{STYLE}={found!r}: {' or '.join(get_args(Style))} would be right")


@dataclass(frozen=True)
class Display:
    """Where a run reports to. `quiet` shows nothing at all."""

    quiet: bool = False
    console: Console = field(default_factory=lambda: Console(stderr=True, highlight=False, soft_wrap=True))
    style: Style = field(default_factory=style_of)
    events: Events = field(default_factory=Events)
    """Where events are kept, seen or not."""

    def __post_init__(self) -> None:
        if self.style == "json" and not self.quiet:
            self.events.echo = self._write

    def line(self, text: str) -> None:
        """One line of text; for machines a `note`."""
        self.events.remark(text)
        self._print(text)

    def tell(self, event: str, text: str = "", /, **fields: object) -> None:
        """An event of those in `events.py`, and what people see of it, if anything."""
        self.events.note(event, **fields)
        if text:
            self._print(text)

    def _print(self, text: str) -> None:
        if not self.quiet and self.style == "text":
            self.console.print(text, markup=False)

    def _write(self, noted: Mapping[str, Any]) -> None:
        self.console.file.write(json.dumps(noted) + "\n")  # in one piece: lines of several threads do not mix
        self.console.file.flush()

    @contextmanager
    def bar(self, what: str, total: int) -> Iterator[Advance]:
        """A bar while the block runs, when standard error is a terminal."""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
        hidden = self.quiet or self.style == "json" or not self.console.is_terminal
        with Progress(*columns, console=self.console, transient=True, disable=hidden) as progress:
            task = progress.add_task(what, total=total)
            yield lambda amount: progress.advance(task, amount)


def epoch_line(epoch: Mapping[str, Any], epochs: int) -> str:
    """An epoch's losses, each term with its share of the sum, so that a badly scaled term is seen at once."""
    total = epoch["loss"] or 1.0
    terms = " + ".join(f"{name} {value:.4g} ({value / total:.0%})" for name, value in epoch["terms"].items())
    return (
        f"  epoch {epoch['epoch'] + 1}/{epochs}  loss {epoch['loss']:.4g} = {terms}  val_top1 {epoch['val_top1']:.2%}"
        f"  val_nll {epoch['val_nll']:.4g}  lr {epoch['lr']:.3g}  {epoch['rows_per_second']:,.0f} rows/s"
    )


def epoch_fields(epoch: Mapping[str, Any], epochs: int) -> dict[str, object]:
    """The fields of an epoch's event."""
    numbers = ("loss", "terms", "val_top1", "val_nll", "lr", "seconds", "rows_per_second")
    return {"phase": "train", "epoch": epoch["epoch"] + 1, "epochs": epochs} | {name: epoch[name] for name in numbers}


def gauges(event: str, fields: Mapping[str, Any]) -> dict[str, float]:
    """What an event says of how far a stage is, for whoever watches: progress from 0 to 1, loss and val_top1 of an epoch."""
    if event in ("labeling progress", "labeling done") and fields["of"]:
        return {"progress": fields["done"] / fields["of"]}
    if event == "epoch":
        numbers = {name: float(fields[name]) for name in ("loss", "val_top1")}
        return {"progress": fields["epoch"] / max(fields["epochs"], 1), **numbers}
    return {}


@contextmanager
def warned(style: Style) -> Iterator[None]:
    """For machines, what modules of raykd warn of meanwhile are notes too."""
    handler = _Notes(Display(style=style))
    if style == "json":
        logging.getLogger("raykd").addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger("raykd").removeHandler(handler)


class _Notes(logging.Handler):
    def __init__(self, display: Display) -> None:
        super().__init__(logging.WARNING)
        self.display = display

    def emit(self, record: logging.LogRecord) -> None:
        self.display.line(f"warning: {record.getMessage()}")
