"""What `raykd run` is told about who takes what of a cluster.

--workers 2:4 --gpus-per-worker 1 --worker-label role=student --teacher-gpus large=2 --teacher-label role=teacher
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from raykd.labeling.placement import Actors
from raykd.runtime import check_actors
from raykd.runtime.resources import checked
from raykd.shares import Share
from raykd.stage import Stage

C = TypeVar("C", bound=Callable[..., Any])
MORE_THAN_0 = click.FloatRange(min=0, min_open=True)
ONE_AT_MOST = click.FloatRange(min=0, min_open=True, max=1)


class _Workers(click.ParamType[Any]):
    """N, MIN:MAX or auto."""

    name = "workers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """A number, two of them, or None."""
        if value == "auto" or not isinstance(value, str):
            return None if value == "auto" else value
        least, both, most = value.partition(":")
        try:
            return checked((int(least), int(most)) if both else int(least))
        except ValueError:
            self.fail(f"{value!r}: 4, 2:4 or auto would be right", param, ctx)


OPTIONS = (
    click.option(
        "--workers", type=_Workers(), default=None, metavar="N|MIN:MAX|auto",
        help="Train a stage on so many, or on as many as have a place; auto: one for each GPU that has enough to do.",
    ),
    click.option(
        "--cpus-per-worker", type=MORE_THAN_0, default=None, metavar="CORES",
        help="Cores and threads of a training worker; by default 1 on paper, and its share of the node's threads.",
    ),
    click.option(
        "--gpus-per-worker", type=ONE_AT_MOST, default=None, metavar="SHARE",
        help="GPUs of a training worker, 0.5 for two on one; by default 1 where there are any.",
    ),
    click.option(
        "--worker-resource", multiple=True, metavar="NAME=AMOUNT",
        help="A custom resource that a training worker takes of its node; can be repeated.",
    ),
    click.option(
        "--worker-label", multiple=True, metavar="KEY=VALUE",
        help="A label that the nodes of training workers have; can be repeated.",
    ),
    click.option(
        "--actors", default="1:", show_default=True, metavar="MIN[:MAX]",
        help="Teachers' actors in a pool: at least and at most; by default one for each GPU, or each core without GPUs.",
    ),
    click.option(
        "--cpus-per-actor", type=MORE_THAN_0, default=None, metavar="CORES",
        help="Cores and threads of a teacher's actor; by default 1, on paper a half.",
    ),
    click.option(
        "--teacher-gpus", multiple=True, metavar="[NAME=]SHARE",
        help="GPUs of a teacher's actor: 2 for a large one, 0.25 for a small one; can be repeated. By default 1 each.",
    ),
    click.option(
        "--teacher-resource", multiple=True, metavar="NAME=AMOUNT",
        help="A custom resource that a teacher's actor takes of its node; can be repeated.",
    ),
    click.option(
        "--teacher-label", multiple=True, metavar="KEY=VALUE",
        help="A label that the nodes of teachers' actors have; can be repeated.",
    ),
    click.option(
        "--cluster-grows", "grows", is_flag=True,
        help="The cluster has an autoscaler: wait for what has no place yet instead of refusing it.",
    ),
)  # fmt: skip


def resource_options(command: C) -> C:
    """A command with these options."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def resources_of(ctx: click.Context, *stages: Stage) -> dict[str, Any]:
    """What the options say, as `make_runner` takes it. Raises `ValueError` for what is malformed, or names no teacher."""
    said = ctx.params
    worker = Share(
        said["cpus_per_worker"],
        said["gpus_per_worker"],
        _amounts("--worker-resource", said["worker_resource"]),
        _labels("--worker-label", said["worker_label"]),
    )
    of_actor = Share(
        said["cpus_per_actor"],
        None,
        _amounts("--teacher-resource", said["teacher_resource"]),
        _labels("--teacher-label", said["teacher_label"]),
    )
    actors = check_actors(_actors(said["actors"], said["teacher_gpus"], of_actor), *stages)
    return {"workers": said["workers"], "worker": worker, "actors": actors, "grows": said["grows"]}


def _actors(bounds: str, shares: Sequence[str], takes: Share) -> Actors:
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
    return Actors(*numbers, gpus, takes)


def _amounts(option: str, words: Sequence[str]) -> dict[str, float]:
    found = {}
    for each in words:
        name, _, amount = each.rpartition("=")
        try:
            found[name] = float(amount if name else "")
        except ValueError:
            raise ValueError(f"{option} {each}: NAME=AMOUNT, such as large=1, would be right") from None
    return found


def _labels(option: str, words: Sequence[str]) -> dict[str, str]:
    found = {}
    for each in words:
        name, _, value = each.partition("=")
        if not name or not value:
            raise ValueError(f"{option} {each}: KEY=VALUE, such as role=teacher, would be right")
        found[name] = value
    return found
