"""HPM-KD's adaptive configuration manager, as a value: the stage that a recipe writes with knobs that a run finds.

    the published defaults and `proposals - 1` others, a short run of each
        -> the gate: is another one at least `threshold` times as good as the defaults?  if not, more, up to `most`
        -> the best of all in full

    return Adaptive(hpm, {**knobs, "adaptive": False})          in the recipe `hpm`: what it writes without the manager

A short run is the beginning of the full one, so the winner continues from it and nothing is trained twice. [interpretation]
The draft runs 10 epochs and refines "below a threshold" that it does not give. Here it is a quarter of the training, 10 epochs
at most; the threshold is relative to the defaults, which are always tried and can win; and of a selection the first stage,
which is the cheapest, is what runs short. Knobs that were asked for, so differ from their defaults, stay as they are.

Source: Haase, da Silva, "HPM-KD: Hierarchical Progressive Multi-Teacher Knowledge Distillation", arXiv 2512.09886, 2025,
 adaptive configuration manager.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from raykd.identity import fingerprint
from raykd.recipes import Deferred, Recipe, Written
from raykd.search.axes import Configuration
from raykd.search.space import Space, space_of
from raykd.selection import Selection, cheapest
from raykd.stage import Stage

if TYPE_CHECKING:
    from raykd.runtime import Runner, Trained


@dataclass(frozen=True)
class Adaptive(Deferred):
    """What a recipe writes with the configuration that the manager chooses, out of the space declared beside the recipe.

    Raises `ValueError` for a recipe without a space or with nothing left of it to choose, for a training too short to be cut,
    and for numbers that make no sense.
    """

    function: Callable[..., Written]
    """The recipe. It may be the one that returns this, if the knobs say so."""
    knobs: Configuration = field(default_factory=dict)
    """What it is called with. Knobs of the space that have their defaults here are the manager's to choose."""
    _: KW_ONLY
    fixed: tuple[str, ...] = ()
    """Knobs that are not to be chosen, though they have their defaults. What was found with other values of them is not
    compared with what is found here."""
    proposals: int = 3
    """Short runs before the gate, that of the defaults included."""
    most: int = 6
    """Short runs at most."""
    short: int = 10
    """Epochs of a short run, at most."""
    threshold: float = 1.0
    """What the best of the others must be of the defaults: a ratio of validation accuracies, both after a short run."""
    memory: bool = True
    """Whether it learns from what the storage's memory holds, and adds to it."""
    seed: int = 0
    """Of what is drawn."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "knobs", dict(sorted(self.knobs.items())))
        object.__setattr__(self, "fixed", tuple(sorted(self.fixed)))
        if not 2 <= self.proposals <= self.most:
            raise ValueError(f"{self}: 2 proposals or more, and at most as many as most={self.most}, would be right")
        if self.short < 1 or not (math.isfinite(self.threshold) and self.threshold >= 0):
            found = f"short={self.short} and threshold={self.threshold} of Adaptive"
            raise ValueError(f"{found}: 1 epoch or more and a number from 0 would be right")
        unknown = [name for name in (*self.knobs, *self.fixed) if name not in self.recipe.knobs]
        if unknown:
            raise ValueError(f"{self} of {unknown[0]!r}: its knobs are {', '.join(self.recipe.knobs)}")
        if self.first.budget.trained < 2:
            raise ValueError(
                f"{self} trains for {self.first.budget.trained} epoch: 2 or more would be right, so that there are short runs"
            )
        assert self.space.axes, "a space of which nothing is left is refused"

    def resolve(self, runner: Runner, *, speculative: int = 1, baseline: bool = False) -> Trained:
        """See `adapting.resolve`."""
        from raykd.search.adapting import (
            resolve,  # here, because recipes import this file, and need nothing that trains
        )

        return resolve(self, runner, speculative=speculative, baseline=baseline)

    @property
    def recipe(self) -> Recipe:
        """The recipe, by its name."""
        return Recipe(self.function.__name__, self.function)

    @cached_property
    def space(self) -> Space:
        """What is left to choose."""
        values = {name: self.values.get(name) for name in (*self.knobs, *self.fixed)}
        given = {name: value for name, value in values.items() if name in self.fixed or value != self._default(name)}
        left = space_of(self.recipe).given(**given)
        return Space(left.axes, {**left.fixed, **{name: values[name] for name in self.fixed}})

    @property
    def values(self) -> Configuration:
        """All knobs of the recipe, as they are without a choice."""
        return {**{name: knob.default for name, knob in self.recipe.knobs.items()}, **self.knobs}

    @property
    def defaults(self) -> Configuration:
        """The published configuration."""
        return self.space.defaults(self.recipe)

    @cached_property
    def default(self) -> Stage | Selection:
        """What the published configuration writes."""
        return self.written({})

    @cached_property
    def name(self) -> str:
        """Its fingerprint."""
        return fingerprint(self)

    @cached_property
    def first(self) -> Stage:
        """Of that the stage that runs short."""
        return cheapest(self.default)

    @property
    def epochs(self) -> int:
        """Of a short run."""
        return min(self.short, math.ceil(self.first.budget.trained / 4))

    def written(self, configuration: Configuration) -> Stage | Selection:
        """What the recipe writes with a configuration."""
        return self.recipe.written(**{**self.knobs, **configuration})

    def brief(self, configuration: Configuration) -> Stage:
        """The short run of a configuration. A longer training continues it."""
        stage = cheapest(self.written(configuration))
        until = stage.budget.start + min(self.epochs, stage.budget.trained)
        label = f"{stage}, {self.epochs} epoch{'s' * (self.epochs > 1)}"
        return replace(stage, budget=replace(stage.budget, until=until), label=label)

    def identity(self) -> object:
        """What the defaults write stands for the knobs, some of which say where things lie."""
        settings = self.proposals, self.most, self.short, self.threshold, self.memory, self.seed
        axes = {name: [str(axis), dict(axis.when)] for name, axis in self.space.axes.items()}
        return [self.recipe.target, list(self.fixed), list(settings), axes, self.default]

    def __str__(self) -> str:
        return f"Adaptive({self.function.__name__}, proposals={self.proposals}, short={self.short})"

    def _default(self, name: str) -> object:
        return self.recipe.knobs[name].default
