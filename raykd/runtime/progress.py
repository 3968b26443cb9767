"""What a person sees of a run: bars with rate and time left on a terminal, a line for each epoch everywhere.

All of it goes to standard error: standard output is for results.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Task as RichTask
from rich.text import Text


class Advance(Protocol):
    """Says that `amount` more is done."""

    def __call__(self, amount: int) -> None:
        """Moves the bar."""


class _Rate(ProgressColumn):
    def render(self, task: RichTask) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f}/s")


@dataclass(frozen=True)
class Display:
    """Where a run reports to. `quiet` shows nothing at all."""

    quiet: bool = False
    console: Console = field(default_factory=lambda: Console(stderr=True, highlight=False, soft_wrap=True))

    def line(self, text: str) -> None:
        """One line of text."""
        if not self.quiet:
            self.console.print(text, markup=False)

    @contextmanager
    def bar(self, what: str, total: int) -> Iterator[Advance]:
        """A bar while the block runs, when standard error is a terminal."""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
        hidden = self.quiet or not self.console.is_terminal
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
