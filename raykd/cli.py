"""The command line: raykd plan | run | submit | search | eval | cite | cache | status. Knobs of recipes are options.

    raykd run jobs/digits.py:kd --tau 2 --storage /shared/raykd

Results go to standard output, everything else to standard error. A user's mistake is one line and exit code 2.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import click

from raykd import recipes, report
from raykd.cache import IncompleteEntry
from raykd.cite import bibliography, sources
from raykd.cli_cache import cache as cache_commands
from raykd.cli_options import (
    CACHE,
    JSON,
    LOG,
    OUT,
    PRECISION,
    STORAGE,
    TARGET,
    OfTarget,
    as_selection,
    asked_of,
    knobs_of,
    print_json,
    returned_of,
)
from raykd.cli_resources import resource_options, resources_of
from raykd.cli_search import search as search_command
from raykd.cli_status import status as status_command
from raykd.cli_submit import submit as submit_command
from raykd.identity import fingerprint
from raykd.plan import plan as plan_of
from raykd.printable import printable
from raykd.runtime import Display, chosen, evaluation, make_runner, open_storage, recorded, resolve
from raykd.runtime.events import remark
from raykd.runtime.progress import STYLE, Style, style_of, warned
from raykd.search.adapting import compared, settled
from raykd.search.adaptive import Adaptive
from raykd.search.remember import remember
from raykd.selection import Selection
from raykd.stage import Stage
from raykd.storage import Storage
from raykd.submission import DIVERGED, INTERRUPTED, MISTAKE
from raykd.training.loop import DivergedError

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
@CACHE
@BASELINE
@click.pass_context
def plan(
    ctx: click.Context, /, storage: str, precision: str, as_json: bool, cache: str, baseline: bool, **knobs: Any
) -> None:
    """Show what a run would do: stages, what exists, rows to compute, bytes, FLOPs. Computes nothing."""
    returned = returned_of(ctx, knobs)
    place = open_storage(storage, precision, cache=cache)
    tried = compared(returned, place) if isinstance(returned, Adaptive) else []
    selection = _selection(returned, place)
    stage, *others = selection.candidates
    short = [each.stage for each in tried]
    found = plan_of([*short, *_baseline(stage, baseline), *selection.candidates], place)
    OUT.print(report.plan_table(found))
    OUT.print(f"L = {stage.objective}", markup=False)
    if isinstance(returned, Adaptive):
        OUT.print(report.proposals_table(tried))
        if not any(each.taken for each in tried):
            many = f"{returned.proposals} to {returned.most} short runs of {returned.epochs} epochs"
            OUT.print(f"manager: {many}, then the best of them in full; shown is the published configuration")
    if others:
        OUT.print(f"candidates: {', '.join(map(str, selection.candidates))}", markup=False, soft_wrap=True)
    if as_json:
        candidates = [{"stage": fingerprint(each), "label": str(each)} for each in selection.candidates]
        more: dict[str, Any] = {"candidates": candidates} if others else {}
        if isinstance(returned, Adaptive):
            short_runs = {"least": returned.proposals, "most": returned.most, "epochs": returned.epochs}
            more |= {"proposals": report.proposals_json(tried), "short_runs": short_runs}
        print_json({"stage": fingerprint(stage), "label": str(stage), **found.as_json(), **more})


@cli.command(cls=OfTarget)
@TARGET
@STORAGE
@PRECISION
@JSON
@click.option("--local", is_flag=True, help="In this process, without Ray.")
@resource_options
@click.option(
    "--overlap/--no-overlap", default=None,
    help="Train on what is labeled while the rest still is; by default where teachers and student have GPUs of their own.",
)  # fmt: skip
@click.option(
    "--parallel", type=click.IntRange(min=1), default=None, metavar="N",
    help="Make so many stages at once that wait for none of each other; by default one for each GPU, or node, if it pays.",
)  # fmt: skip
@CACHE
@click.option(
    "--on-missing", type=click.Choice(["compute", "wait", "error"]), default="compute", show_default=True,
    help="What to do about teacher outputs that the cache lacks: compute them, wait for another run that does, stop.",
)  # fmt: skip
@click.option(
    "--any-teacher", is_flag=True, help="Accept any teacher: neither it nor what is cached of it is tried on labels."
)
@click.option(
    "--verify-all", is_flag=True, help="Check every input against what the teacher saw, not a sample of each epoch."
)
@BASELINE
@LOG
@click.pass_context
def run(
    ctx: click.Context, /, storage: str, precision: str, as_json: bool, local: bool,
    overlap: bool | None, parallel: int | None, cache: str, on_missing: Any,
    any_teacher: bool, verify_all: bool, baseline: bool, log: str, **knobs: Any,
) -> None:  # fmt: skip
    """Make the recipe's stage real: label, train, evaluate. What exists is not done again."""
    returned = returned_of(ctx, knobs)
    selection = _selection(returned)
    runner = make_runner(
        storage, local=local, precision=precision, cache=cache, overlap=overlap, parallel=parallel, on_missing=on_missing,
        any_teacher=any_teacher, verify="all" if verify_all else "sample", display=Display(style=style_of(log)),
        **resources_of(ctx, *selection.candidates),
    )  # fmt: skip
    explained = [f"{knob.name} = {knobs[knob.name]}{knob.help and ': ' + knob.help}" for knob in knobs_of(ctx).values()]
    stage = selection.candidates[0]
    runner.heading = (*explained, f"L = {stage.objective}")
    with recorded(runner, **asked_of(ctx)):
        if isinstance(returned, Adaptive):
            trained = returned.resolve(runner, speculative=parallel or 1, baseline=baseline)
        else:
            trained = resolve(selection, runner, speculative=parallel or 1, beside=_baseline(stage, baseline))
    if isinstance(returned, Adaptive):
        selection = _selection(returned, runner.storage)
        OUT.print(report.proposals_table(compared(returned, runner.storage)))
    else:
        remember(ctx.meta["recipe"], {name: knobs[name] for name in knobs_of(ctx)}, trained, runner.storage)
    others = list(selection.candidates[1:])
    if others:
        OUT.print(report.candidates_table(selection, runner.storage))
    OUT.print(report.table(trained.stage, runner.storage))
    shown = report.shown(trained.stage, runner.storage)
    for table in report.shown_tables(shown):
        OUT.print(table)
    if as_json:
        more: dict[str, Any] = {"candidates": report.candidates_json(selection, runner.storage)} if others else {}
        more |= {"shown": shown[-1]} if shown else {}
        if isinstance(returned, Adaptive):
            more |= {"proposals": report.proposals_json(compared(returned, runner.storage))}
        print_json({**report.as_json(trained), **more})


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
    place = open_storage(storage)
    selection = _selection(returned_of(ctx, knobs), place)
    stage = chosen(selection, place) or selection.candidates[0]
    found = evaluation(stage, storage, weights=weights, precision=precision)
    for name, value in found.items():
        OUT.print(f"{name:10} {value:.4f}")
    if as_json:
        print_json({"stage": fingerprint(stage), "label": str(stage), "metrics": found})


@cli.command(cls=OfTarget)
@TARGET
@click.pass_context
def cite(ctx: click.Context, /, **knobs: Any) -> None:
    """Print the sources of exactly what the recipe uses."""
    returned = returned_of(ctx, knobs)
    found: dict[str, list[str]] = {}
    for stage in _selection(returned).candidates:
        for source, pieces in bibliography(stage).items():
            found[source] = list(dict.fromkeys([*found.get(source, []), *pieces]))
    if isinstance(returned, Adaptive):
        for source in sources(Adaptive):
            found[source] = [*found.get(source, []), Adaptive.__name__]
    for source, pieces in found.items():
        click.echo(f"{source}  [{', '.join(pieces)}]")


cli.add_command(cache_commands)
cli.add_command(search_command)
cli.add_command(submit_command)
cli.add_command(status_command)


def main(arguments: Sequence[str] | None = None) -> None:
    """The `raykd` command. Exits with 2 for a user's mistake, 3 for a loss that is not finite, 1 for what failed otherwise."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    style = _style(words)
    try:
        with warned(style):
            sys.exit(cli.main(words, prog_name="raykd", standalone_mode=False) or 0)
    except click.exceptions.Abort:
        _stop("interrupted; the same command continues", INTERRUPTED, style)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        sys.exit(0)
    except click.ClickException as error:
        _stop(error.format_message(), MISTAKE, style)
    except (
        ValueError,
        DivergedError,
        IncompleteEntry,
        OSError,
    ) as error:  # OSError: a full disk, a network that is gone
        if "--traceback" in words[:1]:
            raise
        diverged = DIVERGED if isinstance(error, DivergedError) else 1
        _stop(str(error), MISTAKE if isinstance(error, ValueError) else diverged, style)


def job(file: str, arguments: Sequence[str] | None = None) -> None:
    """What `python jobs/digits.py kd --tau 4` does: `raykd run jobs/digits.py:kd --tau 4`."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0].startswith("-"):
        module = recipes.load_file(file)
        known = "\n".join(f"  {name:12} {recipes.load(f'{file}:{name}').summary}" for name in recipes.names(module))
        click.echo(f"usage: python {file} RECIPE [--KNOB VALUE ...] [options of raykd run]\n\nrecipes:\n{known}")
        sys.exit(0 if words[:1] in (["-h"], ["--help"]) else 2)
    main(["run", f"{file}:{words[0]}", *words[1:]])


def _selection(returned: recipes.Written, storage: Storage | None = None) -> Selection:
    """What a recipe returned as stages to choose from; of what only a run decides, what it decided or else the default."""
    if not isinstance(returned, recipes.Deferred):
        return as_selection(returned)
    found = settled(returned, storage) if storage is not None and isinstance(returned, Adaptive) else None
    return as_selection(found or returned.default)


def _baseline(stage: Stage, baseline: bool) -> list[Stage]:
    """The same student without teachers, to compare with."""
    return [stage.alone()] if baseline and stage.teachers else []


def _style(words: Sequence[str]) -> Style:
    """How a mistake is said; one in the words themselves too."""
    given = [word.removeprefix("--log=") for word in words if word.startswith("--log=")]
    given += [value for name, value in pairwise(words) if name == "--log"]
    return "json" if "json" in (given or [os.environ.get(STYLE, "")]) else "text"


def _stop(message: str, code: int, style: Style) -> None:
    text = printable(f"raykd: {' '.join(message.split())}")
    click.echo(json.dumps({**remark(text), "code": code}) if style == "json" else text, err=True)
    sys.exit(code)
