"""The command line: raykd plan | run | eval | cite | cache. A recipe's keyword arguments are its options.

    raykd run jobs/digits.py:kd --tau 2 --storage /shared/raykd

Results go to standard output, everything else to standard error. A user's mistake is one line and exit code 2.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

import click
from rich.console import Console

from raykd import recipes, report
from raykd.cite import bibliography
from raykd.identity import fingerprint
from raykd.plan import plan as plan_of
from raykd.runtime import PRECISIONS, Display, evaluation, make_runner, open_storage
from raykd.stage import Stage
from raykd.training.loop import DivergedError

OUT = Console(width=None if sys.stdout.isatty() else 140)


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
        return own + [_option(knob, taken) for knob in _knobs(ctx).values()]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The knobs first, in a section with the recipe's name."""
        recipe: recipes.Recipe | None = ctx.meta.get("recipe")
        help_of = [(p, p.get_help_record(ctx)) for p in self.get_params(ctx)]
        knobs = _knobs(ctx)
        if recipe is not None and knobs:
            formatter.write_paragraph()
            formatter.write_text(recipe.summary)
            with formatter.section(f"Knobs of {recipe.target}"):
                formatter.write_dl([record for p, record in help_of if record and p.name in knobs])
        with formatter.section("Options"):
            formatter.write_dl([record for p, record in help_of if record and p.name not in knobs])


def _knobs(ctx: click.Context) -> dict[str, recipes.Knob]:
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
    "--storage",
    default="storage",
    envvar="RAYKD_STORAGE",
    show_default=True,
    help="Folder of cache and stages, shared by all.",
)
JSON = click.option("--json", "as_json", is_flag=True, help="End with one JSON object on standard output.")
PRECISION = click.option(
    "--precision", type=click.Choice(["auto", *PRECISIONS]), default="auto", show_default=True,
    help="What networks compute in; auto: float32 on a CPU, mixed on a GPU.",
)  # fmt: skip

BASELINE = click.option(
    "--baseline/--no-baseline", default=True, show_default=True, help="Also train the student alone, to compare."
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--traceback", is_flag=True, help="Show where an error came from.")
@click.version_option(package_name="raykd")
def cli(traceback: bool) -> None:
    """Distil large models into small ones: a teacher sees an input once, ever.

    TARGET is a recipe, file.py:recipe or package.module:recipe; `raykd run TARGET --help` lists its knobs.
    """


@cli.command(cls=OfTarget)
@TARGET
@STORAGE
@PRECISION
@JSON
@BASELINE
@click.pass_context
def plan(ctx: click.Context, /, storage: str, precision: str, as_json: bool, baseline: bool, **knobs: Any) -> None:
    """Show what a run would do: stages, what exists, rows to compute, bytes, FLOPs. Computes nothing."""
    stage = _stage(ctx, knobs)
    place = open_storage(storage, precision)
    found = plan_of(_with_baseline(stage, baseline), place)
    OUT.print(report.plan_table(found))
    OUT.print(f"L = {stage.objective}", markup=False)
    if as_json:
        _print_json({"stage": fingerprint(stage), "label": str(stage), **found.as_json()})


@cli.command(cls=OfTarget)
@TARGET
@STORAGE
@PRECISION
@JSON
@click.option("--local", is_flag=True, help="In this process, without Ray.")
@click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Train a stage on so many.")
@click.option(
    "--on-missing", type=click.Choice(["compute", "wait", "error"]), default="compute", show_default=True,
    help="What to do about teacher outputs that the cache lacks: compute them, wait for another run that does, stop.",
)  # fmt: skip
@click.option("--any-teacher", is_flag=True, help="Accept a teacher that is no better than chance.")
@click.option(
    "--verify-all", is_flag=True, help="Check every input against what the teacher saw, not a sample of each epoch."
)
@BASELINE
@click.pass_context
def run(
    ctx: click.Context, /, storage: str, precision: str, as_json: bool, local: bool, workers: int, on_missing: Any,
    any_teacher: bool, verify_all: bool, baseline: bool, **knobs: Any,
) -> None:  # fmt: skip
    """Make the recipe's stage real: label, train, evaluate. What exists is not done again."""
    stage = _stage(ctx, knobs)
    runner = make_runner(
        storage, local=local, workers=workers, precision=precision, on_missing=on_missing, any_teacher=any_teacher,
        verify="all" if verify_all else "sample", display=Display(),
    )  # fmt: skip
    explained = [f"{knob.name} = {knobs[knob.name]}{knob.help and ': ' + knob.help}" for knob in _knobs(ctx).values()]
    runner.heading = (*explained, f"L = {stage.objective}")
    trained = runner.run(*_with_baseline(stage, baseline))[-1]
    OUT.print(report.table(trained.stage, runner.storage))
    if as_json:
        _print_json(report.as_json(trained))


@cli.command("eval", cls=OfTarget)
@TARGET
@STORAGE
@PRECISION
@JSON
@click.option(
    "--weights", default=None, help="Weights file to evaluate; by default what the recipe's run left in the storage."
)
@click.pass_context
def evaluate(
    ctx: click.Context, /, storage: str, precision: str, as_json: bool, weights: str | None, **knobs: Any
) -> None:
    """Evaluate a network of the recipe's student on its validation and test splits."""
    stage = _stage(ctx, knobs)
    found = evaluation(stage, storage, weights=weights, precision=precision)
    for name, value in found.items():
        OUT.print(f"{name:10} {value:.4f}")
    if as_json:
        _print_json({"stage": fingerprint(stage), "label": str(stage), "metrics": found})


@cli.command(cls=OfTarget)
@TARGET
@click.pass_context
def cite(ctx: click.Context, /, **knobs: Any) -> None:
    """Print the sources of exactly what the recipe uses."""
    for source, pieces in bibliography(_stage(ctx, knobs)).items():
        click.echo(f"{source}  [{', '.join(pieces)}]")


@cli.group()
def cache() -> None:
    """Look into the cache of teacher outputs."""


@cache.command("ls")
@STORAGE
@JSON
def cache_ls(storage: str, as_json: bool) -> None:
    """List the entries: teacher, dataset, view, signal, rows, bytes."""
    entries = open_storage(storage, "float32").cache.entries()
    OUT.print(report.cache_table(entries))
    if as_json:
        _print_json({"entries": [report.entry_json(entry) for entry in entries]})


@cache.command("verify")
@STORAGE
@JSON
def cache_verify(storage: str, as_json: bool) -> None:
    """Read every shard and check it against its checksum. Exit code 1 if some were bad: they count as missing from now on."""
    reports = {entry.key_digest: entry.verify() for entry in open_storage(storage, "float32").cache.entries()}
    corrupt = [str(path) for found in reports.values() for path in found.corrupt]
    shards, size = sum(found.shards for found in reports.values()), sum(found.bytes for found in reports.values())
    OUT.print(f"{len(reports)} entries, {shards} good shards, {size:,} bytes, {len(corrupt)} corrupt")
    for path in corrupt:
        OUT.print(f"corrupt: {path}", markup=False)
    if as_json:
        _print_json({"entries": len(reports), "shards": shards, "bytes": size, "corrupt": corrupt})
    if corrupt:
        raise click.exceptions.Exit(1)


def main(arguments: Sequence[str] | None = None) -> None:
    """The `raykd` command. Exits with 2 for a user's mistake, 1 for a run that failed."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        sys.exit(cli.main(words, prog_name="raykd", standalone_mode=False) or 0)
    except click.exceptions.Abort:
        _stop("interrupted; the same command continues", 130)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        sys.exit(0)
    except click.ClickException as error:
        _stop(error.format_message(), 2)
    except (ValueError, DivergedError) as error:
        if "--traceback" in words[:1]:
            raise
        _stop(str(error), 2 if isinstance(error, ValueError) else 1)


def job(file: str, arguments: Sequence[str] | None = None) -> None:
    """What `python jobs/digits.py kd --tau 4` does: `raykd run jobs/digits.py:kd --tau 4`."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0].startswith("-"):
        module = recipes.load_file(file)
        known = "\n".join(f"  {name:12} {recipes.load(f'{file}:{name}').summary}" for name in recipes.names(module))
        click.echo(f"usage: python {file} RECIPE [--KNOB VALUE ...] [options of raykd run]\n\nrecipes:\n{known}")
        sys.exit(0 if words[:1] in (["-h"], ["--help"]) else 2)
    main(["run", f"{file}:{words[0]}", *words[1:]])


def _stage(ctx: click.Context, knobs: dict[str, Any]) -> Stage:
    recipe: recipes.Recipe | None = ctx.meta.get("recipe")
    if recipe is None:
        target = ctx.params["target"]
        raise ValueError(f"the target {target!r} names no recipe: write file.py:recipe or package.module:recipe")
    return recipe.stage(**{name: value for name, value in knobs.items() if name in recipe.knobs})


def _with_baseline(stage: Stage, baseline: bool) -> list[Stage]:
    """The stage, and before it the same student without teachers, to compare with."""
    return [stage.alone(), stage] if baseline and stage.teachers else [stage]


def _print_json(content: dict[str, Any]) -> None:
    click.echo(json.dumps(content))


def _stop(message: str, code: int) -> None:
    click.echo(f"raykd: {' '.join(message.split())}", err=True)
    sys.exit(code)
