"""raykd search: a recipe tried over the space that is declared beside it."""

from __future__ import annotations

from typing import Any

import click
from click.core import ParameterSource

from raykd import recipes, report
from raykd.cli_options import CACHE, JSON, OUT, PRECISION, STORAGE, TARGET, OfTarget, asked_of, knobs_of, print_json
from raykd.report_search import as_json as as_json_of
from raykd.report_search import front_table, trials_table
from raykd.runtime import Display, make_runner, recorded
from raykd.search import space_of
from raykd.search.search import Search
from raykd.search.surrogate import Goal
from raykd.selection import METRICS


@click.command(cls=OfTarget)
@TARGET
@STORAGE
@PRECISION
@JSON
@CACHE
@click.option(
    "--trials", type=click.IntRange(min=1), default=16, show_default=True, help="How many configurations to try."
)
@click.option(
    "--metric", type=click.Choice(METRICS), default="val_top1", show_default=True,
    help="What is searched for; less of val_nll is better. The test split is for the report.",
)  # fmt: skip
@click.option(
    "--searcher", type=click.Choice(["optuna", "random", "memory"]), default="optuna", show_default=True,
    help="Who suggests: Optuna, begun with what the memory proposes; draws; or the memory and its surrogate alone.",
)  # fmt: skip
@click.option(
    "--scheduler", type=click.Choice(["asha", "median", "pbt", "pb2", "none"]), default=None,
    help="Who stops trials early (asha, the default; median; none), or changes their knobs in flight (pbt, pb2).",
)  # fmt: skip
@click.option(
    "--against", multiple=True, type=click.Choice(["parameters", "flops", "latency_ms"]),
    help="Weigh the metric against this cost, and show the Pareto front; can be repeated. Nothing is stopped early then.",
)  # fmt: skip
@click.option(
    "--interval", type=click.IntRange(min=0), default=0, metavar="EPOCHS",
    help="Epochs before a trial may be stopped, or between changes in flight; by default a sixth of the training.",
)  # fmt: skip
@click.option("--trial-cpus", type=float, default=1.0, show_default=True, help="CPUs of a trial.")
@click.option(
    "--trial-gpus", type=float, default=None,
    help="GPUs of a trial, 0.25 for four on one; by default 1 where there are any.",
)  # fmt: skip
@click.option(
    "--at-once", type=click.IntRange(min=1), default=None, metavar="N",
    help="Trials at once; by default as many as fit.",
)  # fmt: skip
@click.option(
    "--search-seed", type=int, default=0, show_default=True, help="Of what is drawn; the recipe's seed is its own."
)
@click.option(
    "--remember/--no-remember", default=True, show_default=True,
    help="Begin with what earlier runs found, and add to it.",
)  # fmt: skip
@click.option(
    "--state", default=None, envvar="RAYKD_STATE", show_envvar=True, metavar="FOLDER",
    help="Where an interrupted search is kept, yours alone: code is loaded from it.  [default: ~/.local/state/raykd]",
)  # fmt: skip
@click.option("--any-teacher", is_flag=True, help="Accept any teacher: it is not tried on labels.")
@click.pass_context
def search(
    ctx: click.Context, /, storage: str, precision: str, as_json: bool, cache: str, trials: int, metric: str, searcher: Any,
    scheduler: Any, against: Any, interval: int, trial_cpus: float, trial_gpus: float | None, at_once: int | None,
    search_seed: int, remember: bool, state: str | None, any_teacher: bool, **knobs: Any,
) -> None:  # fmt: skip
    """Search the recipe's space, declared beside it with @searched. A knob that is given is not searched.

    Teachers label once, before the first trial. The same command continues an interrupted search.
    """
    recipe: recipes.Recipe | None = ctx.meta.get("recipe")
    if recipe is None:
        raise ValueError(f"the target {ctx.params['target']!r} names no recipe: write file.py:recipe")
    asked = {
        name: knobs[name] for name in knobs_of(ctx) if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE
    }
    planned = Search(
        recipe, space_of(recipe).given(**asked), Goal(metric, larger=metric != "val_nll"), trials, asked, searcher,
        scheduler or ("none" if against else "asha"), against, interval, search_seed,
    )  # fmt: skip
    from raykd.search.tune import Resources  # here, because importing Ray takes a second that --help need not pay
    from raykd.search.tune import search as carry_out

    runner = make_runner(
        storage, local=False, precision=precision, cache=cache, any_teacher=any_teacher, display=Display()
    )
    resources = Resources(trial_cpus, trial_gpus, at_once)
    with recorded(runner, **asked_of(ctx)):
        found = carry_out(planned, runner, resources=resources, state=state, memory=remember)  # type: ignore[arg-type]
        OUT.print(trials_table(found))
        if against:
            OUT.print(front_table(found))
        if found.best is None or found.best.stage is None:
            raise ValueError(f"all {len(found.tried)} trials failed; the first: {found.tried[0].error}")
        (best,) = runner.run(found.best.stage)
    OUT.print(report.table(best.stage, runner.storage))
    if as_json:
        print_json({**report.as_json(best), **as_json_of(found)})
