"""raykd submit: `raykd run` as a job of a cluster, followed from here.

    raykd submit jobs/digits.py:kd --tau 2 --storage /shared/raykd --address http://HEAD:8265

Its own options are taken out of the words; the others are parsed by `raykd run`, here, before anything is sent.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from importlib.metadata import version
from pathlib import Path

import click
from click.core import ParameterSource

from raykd import recipes
from raykd.cli_options import as_selection, knobs_of, returned_of
from raykd.identity import fingerprint
from raykd.submission import (
    INTERRUPTED,
    Followed,
    Submission,
    check_address,
    check_storage,
    entry_point,
    headers,
    read_runtime_env,
)

RUNTIME_ENV = Path("cluster/runtime-env.yaml")


class Submit(click.Command):
    """A command whose help ends with that of `raykd run`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Remember the target for the help, which is shown before anything else is parsed."""
        ctx.meta["target"] = [argument for argument in args if recipes.TARGET.match(argument)][:1]
        return super().parse_args(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Its own options, then the recipe's knobs and the options of `raykd run`."""
        with formatter.section("Options of submitting"):
            formatter.write_dl([record for each in self.get_params(ctx) if (record := each.get_help_record(ctx))])
        run = _run_of(ctx)
        with run.make_context("run", list(ctx.meta["target"]), resilient_parsing=True) as inner:
            run.format_options(inner, formatter)


@click.command(cls=Submit, context_settings={"ignore_unknown_options": True})
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="TARGET [KNOBS AND OPTIONS OF RUN]")
@click.option(
    "--address", default="", envvar=["RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"], show_envvar=True, metavar="URL",
    help="The cluster's job server, http://HEAD:8265. Without one, the command runs here.",
)  # fmt: skip
@click.option(
    "--working-dir",
    default=".",
    show_default=True,
    metavar="FOLDER",
    help="What travels: the target's file lies in it.",
)
@click.option(
    "--runtime-env", default=None, metavar="FILE",
    help=f"What else the job needs, as YAML.  [default: {RUNTIME_ENV} of the working directory, if it is there]",
)  # fmt: skip
@click.option(
    "--retries", type=click.IntRange(min=0), default=3, show_default=True,
    help="Submit again so many times, to continue, if the job fails otherwise than by a user's mistake.",
)  # fmt: skip
@click.option(
    "--wait/--no-wait", default=True, show_default=True,
    help="Follow the log until the job is over, and end with its exit code; else nothing is submitted again.",
)  # fmt: skip
@click.option(
    "--check/--no-check", default=True, show_default=True,
    help="Write the recipe's stage here first. Without it where that takes data which only the cluster has.",
)  # fmt: skip
@click.option(
    "--stop-on-interrupt", is_flag=True,
    help="Ctrl-C stops the job. Without it the job goes on, and the same command follows it again.",
)  # fmt: skip
@click.pass_context
def submit(
    ctx: click.Context, /, words: tuple[str, ...], address: str, working_dir: str, runtime_env: str | None, retries: int,
    wait: bool, check: bool, stop_on_interrupt: bool,
) -> int:  # fmt: skip
    """`raykd run` on a cluster, as a job that is followed from here, and submitted again when it is lost.

    What runs already is followed, not started twice. Ctrl-C leaves the job running.
    """
    run = _run_of(ctx)
    with run.make_context("run", list(words), parent=ctx) as inner:
        taken = {parameter.name for parameter in ctx.command.params if isinstance(parameter, click.Option)}
        for name in taken & knobs_of(inner).keys():
            raise ValueError(f"the knob {name!r} of the recipe is an option of raykd submit too: rename it")
        if not address:
            _say("no cluster is named by --address or RAY_ADDRESS: it runs here")
            run.invoke(inner)
            return 0
        shown = check_address(address)
        submission = _submission(inner, words, Path(working_dir), runtime_env, check=check)
    from raykd.runtime.cluster import job_client  # here, because importing Ray takes a second that --help need not pay

    jobs = job_client(address, headers())
    followed = Followed(jobs, submission, _show, _say)
    try:
        if not wait:
            followed.submit()
            click.echo(followed.job)
            return 0
        return followed.run(retries)
    except KeyboardInterrupt:
        if not followed.job:
            raise
        if stop_on_interrupt:
            jobs.stop_job(followed.job)
            _say(f"the job {followed.job} is stopped; the same command continues")
        else:
            stop = f"ray job stop --address {shown} {followed.job}"
            _say(f"the job {followed.job} goes on; the same command follows it, `{stop}` stops it")
        return INTERRUPTED


def _submission(
    inner: click.Context, words: Sequence[str], folder: Path, runtime_env: str | None, *, check: bool
) -> Submission:
    """What is submitted, all of it checked. Raises `ValueError` for a mistake, as `raykd run` would."""
    recipe: recipes.Recipe | None = inner.meta.get("recipe")
    if recipe is None:
        raise ValueError(f"the target {inner.params['target']!r} names no recipe: write file.py:recipe")
    if not folder.is_dir():
        raise ValueError(f"no working directory {str(folder)!r}: the folder that has {recipe.target} would be right")
    default = folder / RUNTIME_ENV
    file = Path(runtime_env) if runtime_env is not None else default if default.is_file() else None
    environment = {} if file is None else read_runtime_env(file)
    variables = environment.get("env_vars", {})
    more = _from_variables(inner, variables.keys())
    said = inner.get_parameter_source("storage") is ParameterSource.COMMANDLINE or "--storage" in more
    check_storage(inner.params["storage"] if said else variables.get("RAYKD_STORAGE"))
    place = recipe.target.rpartition(":")[0]
    module = recipes.load_file(place) if place.endswith(".py") else sys.modules[place]
    rest = list(words)
    rest.remove(inner.params["target"])
    entrypoint = entry_point(
        recipe.target, [*rest, *more], folder=folder, file=Path(str(module.__file__)),
        by_itself=getattr(vars(module).get("job"), "__module__", "") == "raykd.cli",
    )  # fmt: skip
    metadata = {"target": recipe.target, "raykd": version("raykd")}
    if check:
        knobs = {name: inner.params[name] for name in knobs_of(inner)}
        written = returned_of(inner, knobs)
        try:
            plain = written.default if isinstance(written, recipes.Deferred) else written
            metadata["stage"] = fingerprint(as_selection(plain).candidates[0])
        except ValueError as error:  # the bytes of data and of weights, which may lie on the cluster alone
            _say(f"the job will tell which stage this is: {error}")
    return Submission(entrypoint, environment | {"working_dir": str(folder.resolve())}, metadata)


def _run_of(ctx: click.Context) -> click.Command:
    """`raykd run`, which this is a form of."""
    group = ctx.find_root().command
    assert isinstance(group, click.Group)
    return group.commands["run"]


def _from_variables(inner: click.Context, known: Collection[str]) -> list[str]:
    """What variables say here, as options: it would be lost there, unless the job's own are `known` to say it."""
    words = []
    for parameter in inner.command.params:
        variables = [parameter.envvar] if isinstance(parameter.envvar, str) else list(parameter.envvar or [])
        said = inner.get_parameter_source(parameter.name or "") is ParameterSource.ENVIRONMENT
        if said and not any(variable in known for variable in variables):
            words += [parameter.opts[0], str(inner.params[parameter.name or ""])]
    return words


def _show(text: str) -> None:
    click.echo(text, nl=False)


def _say(text: str) -> None:
    click.echo(f"raykd: {text}", err=True)
