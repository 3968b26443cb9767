"""What the commands share: how a recipe becomes options, where things lie, and how results are printed.

raykd COMMAND file.py:recipe --knob value        each keyword argument of the recipe is an option
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import Any

import click
from rich.console import Console, ConsoleOptions
from rich.segment import Segment

from raykd import recipes
from raykd.device import PRECISIONS
from raykd.printable import printable
from raykd.selection import Selection
from raykd.stage import Stage


class _Printable(Console):
    """Shows texts from data, and obeys none of them: what is no visible character is escaped (`printable`)."""

    def render(self, renderable: Any, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As its parent does it, of printable texts."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text, but="\n"), segment.style)


OUT = _Printable(width=None if sys.stdout.isatty() else 140)


class OfTarget(click.Command):
    """A command on a recipe: the recipe's knobs are options of their own."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Load the recipe that the arguments name, so that its knobs are known before they are parsed."""
        target = next((argument for argument in args if recipes.TARGET.match(argument)), None)
        if target is not None:
            ctx.meta["recipe"] = recipes.load(target)
        return super().parse_args(ctx, args)

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """raykd's own options, then the recipe's."""
        own = super().get_params(ctx)
        taken: set[str | None] = {parameter.name for parameter in own}
        return own + [_option(knob, taken) for knob in knobs_of(ctx).values()]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The knobs first, in a section with the recipe's name."""
        recipe: recipes.Recipe | None = ctx.meta.get("recipe")
        help_of = [(p, p.get_help_record(ctx)) for p in self.get_params(ctx)]
        knobs = knobs_of(ctx)
        if recipe is not None and knobs:
            formatter.write_paragraph()
            formatter.write_text(recipe.summary)
            with formatter.section(f"Knobs of {recipe.target}"):
                formatter.write_dl([record for p, record in help_of if record and p.name in knobs])
        with formatter.section("Options"):
            formatter.write_dl([record for p, record in help_of if record and p.name not in knobs])


def knobs_of(ctx: click.Context) -> dict[str, recipes.Knob]:
    """The knobs of the recipe that the arguments name."""
    recipe: recipes.Recipe | None = ctx.meta.get("recipe")
    return {} if recipe is None else recipe.knobs


def _option(knob: recipes.Knob, taken: set[str | None]) -> click.Option:
    if knob.name in taken:
        raise ValueError(f"the knob {knob.name!r} of the recipe is an option of raykd too: rename it")
    flag = "--" + knob.name.replace("_", "-")
    kind: Any = knob.kind
    if knob.kind is bool:
        return click.Option(
            [f"{flag}/--no-{flag[2:]}", knob.name], default=knob.default, help=knob.help, show_default=True
        )
    if isinstance(knob.kind, tuple):
        kind = _Choice(knob.kind)
    given: dict[str, Any] = {"required": True} if knob.required else {"default": knob.default, "show_default": True}
    return click.Option([flag, knob.name], type=kind, help=knob.help, **given)


class _Choice(click.ParamType[Any]):
    """One of the values of a `Literal`, whatever their types."""

    name = "choice"

    def __init__(self, values: tuple[Any, ...]):
        self.values = values

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return "|".join(map(str, self.values))

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The value whose text was given."""
        chosen = [each for each in self.values if value in (each, str(each))]
        if not chosen:
            self.fail(f"{value!r} is not one of {', '.join(map(str, self.values))}", param, ctx)
        return chosen[0]


TARGET = click.argument("target", metavar="TARGET")
STORAGE = click.option(
    "--storage", default="storage", envvar="RAYKD_STORAGE", show_envvar=True, show_default=True,
    help="Folder of cache and stages, shared by all.",
)  # fmt: skip
JSON = click.option("--json", "as_json", is_flag=True, help="End with one JSON object on standard output.")
PRECISION = click.option(
    "--precision", type=click.Choice(["auto", *PRECISIONS]), default="auto", show_default=True,
    help="What networks compute in; auto: float32 on a CPU, mixed on a GPU.",
)  # fmt: skip
CACHE = click.option(
    "--cache", default="", envvar="RAYKD_CACHE", show_envvar=True, metavar="FOLDER|URL",
    help="Where teacher outputs lie, if not in the storage: a folder, or a URL such as s3://bucket/raykd.",
)  # fmt: skip

LOG = click.option(
    "--log", type=click.Choice(["text", "json"]), default="text", envvar="RAYKD_LOG", show_envvar=True, show_default=True,
    help="Standard error for people, or for machines: an event a line, as JSON.",
)  # fmt: skip


def asked_of(ctx: click.Context) -> dict[str, Any]:
    """What was asked for, for the log of a run."""
    knobs = {name: ctx.params[name] for name in knobs_of(ctx) if name in ctx.params}
    options = {name: value for name, value in ctx.params.items() if name not in (*knobs, "target")}
    return {"target": ctx.params.get("target"), "knobs": knobs, "options": options}


def returned_of(ctx: click.Context, knobs: dict[str, Any]) -> recipes.Written:
    """What the recipe returns for these knobs. Raises `ValueError` for no target."""
    recipe: recipes.Recipe | None = ctx.meta.get("recipe")
    if recipe is None:
        target = ctx.params["target"]
        raise ValueError(f"the target {target!r} names no recipe: write file.py:recipe or package.module:recipe")
    return recipe.returned(**{name: value for name, value in knobs.items() if name in recipe.knobs})


def selection_of(ctx: click.Context, knobs: dict[str, Any]) -> Selection:
    """What the recipe writes with just these knobs; a stage is a selection of one. Raises `ValueError` for no target."""
    returned = returned_of(ctx, knobs)
    return as_selection(returned.default if isinstance(returned, recipes.Deferred) else returned)


def as_selection(written: Stage | Selection) -> Selection:
    """A stage is a selection of one."""
    return Selection((written,)) if isinstance(written, Stage) else written


def print_json(content: dict[str, Any]) -> None:
    """One line on standard output."""
    click.echo(json.dumps(content))
