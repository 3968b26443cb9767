"""The command line: raykd plan | run | search | eval | cite | cache. A recipe's keyword arguments are its options.

    raykd run jobs/digits.py:kd --tau 2 --storage /shared/raykd

Results go to standard output, everything else to standard error. A user's mistake is one line and exit code 2.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import click

from raykd import recipes, report
from raykd.cache import IncompleteEntry
from raykd.cite import bibliography, sources
from raykd.cli_cache import cache as cache_commands
from raykd.cli_options import (
    CACHE,
    JSON,
    OUT,
    PRECISION,
    STORAGE,
    TARGET,
    OfTarget,
    as_selection,
    knobs_of,
    print_json,
    returned_of,
)
from raykd.cli_search import search as search_command
from raykd.identity import fingerprint
from raykd.labeling.placement import Actors
from raykd.plan import plan as plan_of
from raykd.runtime import Display, check_actors, chosen, evaluation, make_runner, open_storage, resolve
from raykd.search.adapting import compared, settled
from raykd.search.adaptive import Adaptive
from raykd.search.remember import remember
from raykd.selection import Selection
from raykd.stage import Stage
from raykd.storage import Storage
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
@click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Train a stage on so many.")
@click.option(
    "--actors", default="1:", show_default=True, metavar="MIN[:MAX]",
    help="Teachers' actors in a pool: at least and at most; by default one for each GPU, or each core without GPUs.",
)  # fmt: skip
@click.option(
    "--teacher-gpus", multiple=True, metavar="[NAME=]SHARE",
    help="GPUs of a teacher's actor: 2 for a large one, 0.25 for a small one; can be repeated. By default 1 each.",
)  # fmt: skip
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
@click.pass_context
def run(
    ctx: click.Context, /, storage: str, precision: str, as_json: bool, local: bool, workers: int, actors: str,
    teacher_gpus: tuple[str, ...], overlap: bool | None, parallel: int | None, cache: str, on_missing: Any,
    any_teacher: bool, verify_all: bool, baseline: bool, **knobs: Any,
) -> None:  # fmt: skip
    """Make the recipe's stage real: label, train, evaluate. What exists is not done again."""
    returned = returned_of(ctx, knobs)
    selection = _selection(returned)
    runner = make_runner(
        storage, local=local, workers=workers, precision=precision, cache=cache, overlap=overlap, parallel=parallel,
        actors=check_actors(_actors(actors, teacher_gpus), *selection.candidates), on_missing=on_missing,
        any_teacher=any_teacher, verify="all" if verify_all else "sample", display=Display(),
    )  # fmt: skip
    explained = [f"{knob.name} = {knobs[knob.name]}{knob.help and ': ' + knob.help}" for knob in knobs_of(ctx).values()]
    stage = selection.candidates[0]
    runner.heading = (*explained, f"L = {stage.objective}")
    if isinstance(returned, Adaptive):
        trained = returned.resolve(runner, speculative=parallel or 1, baseline=baseline)
        selection = _selection(returned, runner.storage)
        OUT.print(report.proposals_table(compared(returned, runner.storage)))
    else:
        trained = resolve(selection, runner, speculative=parallel or 1, beside=_baseline(stage, baseline))
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
    except (
        ValueError,
        DivergedError,
        IncompleteEntry,
        OSError,
    ) as error:  # OSError: a full disk, a network that is gone
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


def _actors(bounds: str, shares: Sequence[str]) -> Actors:
    """What --actors and --teacher-gpus say."""
    least, _, most = bounds.partition(":")
    try:
        numbers = int(least or 1), int(most) if most else None
    except ValueError:
        raise ValueError(f"--actors {bounds}: MIN:MAX, such as 2:8, would be right") from None
    gpus = {}
    for each in shares:
        name, _, share = each.rpartition("=")
        try:
            gpus[name] = float(share)
        except ValueError:
            raise ValueError(f"--teacher-gpus {each}: a number, or NAME=number, would be right") from None
    return Actors(*numbers, gpus)


def _selection(returned: recipes.Written, storage: Storage | None = None) -> Selection:
    """What a recipe returned as stages to choose from; of what only a run decides, what it decided or else the default."""
    if not isinstance(returned, recipes.Deferred):
        return as_selection(returned)
    found = settled(returned, storage) if storage is not None and isinstance(returned, Adaptive) else None
    return as_selection(found or returned.default)


def _baseline(stage: Stage, baseline: bool) -> list[Stage]:
    """The same student without teachers, to compare with."""
    return [stage.alone()] if baseline and stage.teachers else []


def _stop(message: str, code: int) -> None:
    click.echo(f"raykd: {' '.join(message.split())}", err=True)
    sys.exit(code)
