"""What a search may vary, declared beside the recipe whose knobs it names.

    @searched(
        method=Choice(),                                   every value that a Literal or a bool has
        tau=Range(1, 8), lr=Range(1e-3, 0.5, log=True),    numbers; whole ones where the knob is an int
        beta=Range(1, 10, when={"method": "dkd"}),         only where another knob has that value, or one of several
    )
    def student(method: Literal["kd", "dkd"] = "kd", tau: float = 4.0, ...) -> Stage: ...

A configuration holds the active knobs and no other; encoded, an inactive knob is -1 in all its places. Names, types and
defaults are compared with the signature when the recipe is imported. The published defaults, which are the signature's, lie in
the space: a search starts there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from raykd import rng
from raykd.identity import digest
from raykd.recipes import Recipe
from raykd.search.axes import Axis, Choice, Configuration, Range, Value, met, same, several, words

__all__ = ["Axis", "Choice", "Configuration", "Range", "Space", "Value", "searched", "space_of"]

F = TypeVar("F", bound=Callable[..., Any])

INACTIVE = -1.0
SAMPLE = 0x5EED  # tells these draws from all others of the same seed


@dataclass(frozen=True)
class Space:
    """The axes of a search by the names of their knobs; a knob that decides about others comes before them."""

    axes: Mapping[str, Axis]
    fixed: Configuration = field(default_factory=dict)
    """Knobs that were searched and are given now: what was found with other values of them is of another space."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "axes", dict(_deciding_first(self.axes)))

    @property
    def width(self) -> int:
        """Numbers of an encoded configuration."""
        return sum(axis.width for axis in self.axes.values())

    def active(self, values: Configuration) -> Configuration:
        """Of these values those that matter beside each other: a configuration, unless some is missing."""
        found: dict[str, Value] = {}
        for name, axis in self.axes.items():
            if name in values and met(axis.when, found):
                found[name] = values[name]
        return found

    def nearest(self, values: Configuration) -> Configuration:
        """The configuration of the values that are nearest to these."""
        return self.active({name: self.axes[name].nearest(value) for name, value in values.items()})

    def check(self, configuration: Configuration) -> None:
        """Raise `ValueError`, naming the knob, unless it is a configuration of this space."""
        for name in configuration:
            if name not in self.axes:
                raise ValueError(f"{name}={configuration[name]!r} is not searched: {', '.join(self.axes)} are")
        for name, axis in self.axes.items():
            matters = met(axis.when, configuration)
            if matters and name not in configuration:
                raise ValueError(f"a configuration without {name}: {axis} would be right")
            if not matters and name in configuration:
                raise ValueError(f"{name}={configuration[name]!r} matters only when {words(axis.when)}: leave it out")
            if matters and not axis.holds(configuration[name]):
                raise ValueError(f"{name}={configuration[name]!r} is outside of {axis}")

    def project(self, values: Configuration) -> Configuration | None:
        """The configuration in the values of all knobs of a recipe; None if it lies outside of this space."""
        if not all(name in values and same(values[name], value) for name, value in self.fixed.items()):
            return None
        configuration = self.active(values)
        try:
            self.check(configuration)
        except ValueError:  # it was made under other ranges, and none of ours is meant
            return None
        return configuration

    def sample(self, seed: int, number: int) -> Configuration:
        """The configuration of this number: a function of both, and for each knob of its own axis."""
        return self.samples(seed, 1, start=number)[0]

    def samples(self, seed: int, count: int, *, start: int = 0) -> list[Configuration]:
        """Those of the numbers from `start` on."""
        numbers = np.arange(start, start + count)
        # by name: one knob more leaves the draws of the others as they are
        keys = {name: int(digest(name)[:8], 16) for name in self.axes}
        shares = {name: rng.uniform(SAMPLE, seed, numbers, key).tolist() for name, key in keys.items()}
        return [self.active({name: axis.at(shares[name][i]) for name, axis in self.axes.items()}) for i in range(count)]

    def encode(self, configuration: Configuration) -> NDArray[np.float64]:
        """A configuration as `width` numbers in [0, 1]; -1 where a knob is inactive. Raises `ValueError` as `check` does."""
        self.check(configuration)
        parts = [
            axis.encode(configuration[name]) if name in configuration else [INACTIVE] * axis.width
            for name, axis in self.axes.items()
        ]
        return np.array([number for part in parts for number in part])

    def defaults(self, recipe: Recipe) -> Configuration:
        """What the recipe does when nobody asks for anything else."""
        return self.active({name: knob.default for name, knob in recipe.knobs.items()})

    def given(self, **knobs: Value) -> Space:
        """What is left to search when these knobs are fixed. Raises `ValueError` if nothing is."""
        left: dict[str, Axis] = {}
        gone: set[str] = set()
        for name, axis in self.axes.items():
            fixed = {other: wanted for other, wanted in axis.when.items() if other in knobs}
            if name in knobs:
                continue
            if gone & axis.when.keys() or not met(fixed, knobs):
                gone.add(name)
                continue
            left[name] = axis.under({other: wanted for other, wanted in axis.when.items() if other not in fixed})
        if not left:
            raise ValueError(f"nothing is left to search when {words(knobs)}: it was {', '.join(self.axes)}")
        searched_no_more = {name: value for name, value in knobs.items() if name in self.axes}
        return Space(left, {**self.fixed, **searched_no_more})


def searched(**axes: Axis) -> Callable[[F], F]:
    """Declare what a search may vary of a recipe. The function stays what it is.

    Raises `ValueError` for what is no knob of it, cannot have such values, or has a default that lies outside.
    """

    def attach(function: F) -> F:
        vars(function)["space"] = _space(Recipe(function.__name__, function), axes)
        return function

    return attach


def space_of(recipe: Recipe) -> Space:
    """The space declared beside a recipe. Raises `ValueError` if there is none."""
    space = getattr(recipe.function, "space", None)
    if not isinstance(space, Space):
        raise ValueError(f"the recipe {recipe.target} has no space: write @searched(...) above it")
    return space


def _space(recipe: Recipe, axes: Mapping[str, Axis]) -> Space:
    try:
        return Space(dict(_bound(recipe, axes)))
    except ValueError as error:
        raise ValueError(f"searched of {recipe.target}: {error}") from None


def _bound(recipe: Recipe, axes: Mapping[str, Axis]) -> Iterator[tuple[str, Axis]]:
    knobs = recipe.knobs
    if not axes:
        raise ValueError(f"it names nothing: of {', '.join(knobs) or 'no knobs'} some would be right")
    for name, axis in axes.items():
        if name not in knobs:
            raise ValueError(f"{name} is no knob: {', '.join(knobs) or 'none'} would be right")
        if knobs[name].required:
            raise ValueError(f"{name} has no default, and a search starts at the defaults")
        try:
            axis = axis.bound(knobs[name])
        except ValueError as error:
            raise ValueError(f"{name}={error}") from None
        if not axis.holds(knobs[name].default):
            raise ValueError(
                f"{name}={axis}: its default {knobs[name].default!r} lies outside, and a search starts there"
            )
        yield name, axis


def _deciding_first(axes: Mapping[str, Axis]) -> Iterator[tuple[str, Axis]]:
    for name, axis in axes.items():
        for other, wanted in axis.when.items():
            if other not in axes:
                raise ValueError(f"{name} asks for {other}, which is not searched: {', '.join(axes)} are")
            if odd := [value for value in several(wanted) if not axes[other].holds(value)]:
                raise ValueError(f"{name} asks for {other}={odd[0]!r}, which is outside of {axes[other]}")
    left, placed = dict(axes), set[str]()
    while left:
        ready = next((name for name, axis in left.items() if axis.when.keys() <= placed), None)
        if ready is None:
            raise ValueError(f"{', '.join(left)} ask for each other in a circle")
        placed.add(ready)
        yield ready, left.pop(ready)
