"""What a single run adds to the memory. Trials of a search and short runs of the manager are remembered by them."""

from __future__ import annotations

from collections.abc import Mapping

from raykd.identity import fingerprint
from raykd.recipes import Recipe
from raykd.runtime import Trained
from raykd.search.axes import Configuration, Value
from raykd.search.memory import Memory
from raykd.search.meta import features
from raykd.search.record import record
from raykd.search.space import Space
from raykd.selection import cheapest
from raykd.stage import Stage
from raykd.storage import Storage


def remember(recipe: Recipe, knobs: Mapping[str, Value], trained: Trained, storage: Storage) -> None:
    """Add a finished run of a recipe to the memory of its storage, unless it is there."""
    memory, name = Memory(storage.root), fingerprint(trained.stage)
    if any(each.fingerprint == name and each.status == "done" for each in memory.read(recipe.function.__name__)):
        return
    cost = trained.counts.seconds["total"]
    memory.append([record(recipe, knobs, trained.stage, storage, features(task(recipe, knobs), storage), cost=cost)])


def task(recipe: Recipe, knobs: Configuration) -> Stage:
    """The stage that stands for the task: what is searched has its published defaults, so all of a space is one task."""
    space = getattr(recipe.function, "space", Space({}))
    return cheapest(recipe.written(**{**knobs, **space.defaults(recipe)}))
