"""The values of one knob of a search: numbers between two ends, or some to choose from.

encoded: Range     1 number, its place between the ends, in logarithms if `log`
         Choice    1 number a value: 1 for the one that it has, else 0
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field, replace

from raykd.recipes import Knob

Value = bool | int | float | str | None
Configuration = Mapping[str, Value]
When = Mapping[str, Value | tuple[Value, ...]]
"""Other knobs, each with the value or values under which this one matters."""

DIGITS = 4  # of a drawn number, counted from the size of its range: a command line that people can read


class Axis(ABC):
    """The values of one knob, and when it matters."""

    when: When

    @property
    @abstractmethod
    def width(self) -> int:
        """How many numbers it is encoded in."""

    @abstractmethod
    def holds(self, value: object) -> bool:
        """Whether the knob may have this value."""

    @abstractmethod
    def at(self, share: float) -> Value:
        """The value at a share of the axis, in [0, 1): an even share gives an even draw."""

    @abstractmethod
    def nearest(self, value: Value) -> Value:
        """The value that it holds, or would draw, which is nearest to this one."""

    @abstractmethod
    def encode(self, value: Value) -> list[float]:
        """A value that it holds as `width` numbers in [0, 1]."""

    @abstractmethod
    def bound(self, knob: Knob) -> Axis:
        """The same for this knob. Raises `ValueError` if its type has no such values."""

    @abstractmethod
    def under(self, when: When) -> Axis:
        """The same under other conditions."""


@dataclass(frozen=True)
class Range(Axis):
    """The numbers from `low` to `high`, both of them included."""

    low: float
    high: float
    _: KW_ONLY
    log: bool = False
    """Even in logarithms: for what counts in factors, such as a learning rate."""
    when: When = field(default_factory=dict)
    whole: bool = False
    """Whole numbers only; `searched` finds out."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "when", conditions(self.when))
        if not 0 < self.high - self.low < math.inf:
            raise ValueError(f"{self} is empty: two numbers, the smaller one first, would be right")
        if self.log and self.low <= 0:
            raise ValueError(f"{self} has no logarithm: a low end above 0 would be right")

    @property
    def width(self) -> int:
        """1."""
        return 1

    def holds(self, value: object) -> bool:
        """A number between the ends, a whole one if it must be."""
        if isinstance(value, bool) or not isinstance(value, int if self.whole else int | float):
            return False
        return bool(self.low <= value <= self.high)

    def at(self, share: float) -> Value:
        """Rounded to four digits of the range."""
        beyond = self.high + self.whole  # each whole number has a part of the axis, the highest too
        value = self.low * (beyond / self.low) ** share if self.log else self.low + share * (beyond - self.low)
        return self.nearest(math.floor(value) if self.whole else value)

    def nearest(self, value: Value) -> Value:
        """Between the ends, a whole number or one of four digits of the range."""
        assert isinstance(value, int | float)
        value = min(max(value, self.low), self.high)
        if self.whole:
            return round(value)
        step = value * min(1.0, math.log(self.high / self.low)) if self.log else self.high - self.low
        return float(min(max(round(value, DIGITS - math.floor(math.log10(step))), self.low), self.high))

    def encode(self, value: Value) -> list[float]:
        """0 at `low`, 1 at `high`."""
        assert isinstance(value, int | float)
        if self.log:
            return [math.log(value / self.low) / math.log(self.high / self.low)]
        return [(value - self.low) / (self.high - self.low)]

    def bound(self, knob: Knob) -> Range:
        """Whole for an int."""
        if knob.kind is int and self.low == int(self.low) and self.high == int(self.high):
            return replace(self, low=int(self.low), high=int(self.high), whole=True)
        if knob.kind is not float:
            right = "whole ends" if knob.kind is int else "a Choice"
            raise ValueError(f"{self} for {_type(knob)}: {right} would be right")
        return replace(self, low=float(self.low), high=float(self.high))

    def under(self, when: When) -> Range:
        """Of the same numbers."""
        return replace(self, when=when)

    def __str__(self) -> str:
        return f"Range({self.low:g}, {self.high:g}{', log=True' if self.log else ''})"


@dataclass(frozen=True, init=False)
class Choice(Axis):
    """One of these values; without any, all that a Literal or a bool can have."""

    values: tuple[Value, ...]
    when: When

    def __init__(self, *values: Value, when: When | None = None):
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "when", conditions(when or {}))

    @property
    def width(self) -> int:
        """One for each value."""
        return len(self.values)

    def holds(self, value: object) -> bool:
        """One of the values; True is not 1."""
        return any(same(value, each) for each in self.values)

    def at(self, share: float) -> Value:
        """Each value has an equal part."""
        return self.values[int(share * len(self.values))]

    def nearest(self, value: Value) -> Value:
        """Itself. Raises `ValueError` for another one: values have no order."""
        if not self.holds(value):
            raise ValueError(f"{value!r} is outside of {self}")
        return value

    def encode(self, value: Value) -> list[float]:
        """A 1 at its place."""
        return [float(same(value, each)) for each in self.values]

    def bound(self, knob: Knob) -> Choice:
        """All values of a bool or a Literal if it has none of its own; whole numbers become floats for a float."""
        every = knob.kind if isinstance(knob.kind, tuple) else (False, True) if knob.kind is bool else ()
        values = self.values or every
        if knob.kind is float:
            values = tuple(float(each) if type(each) is int else each for each in values)
        for value in values:
            if not (value is None and knob.default is None) and not _fits(value, knob):
                raise ValueError(f"{self} for {_type(knob)}: it cannot be {value!r}")
        if len(values) < 2 or any(same(a, b) for i, a in enumerate(values) for b in values[:i]):
            raise ValueError(f"{self} for {_type(knob)}: two different values or more would be right")
        return Choice(*values, when=self.when)

    def under(self, when: When) -> Choice:
        """Of the same values."""
        return Choice(*self.values, when=when)

    def __str__(self) -> str:
        return f"Choice({', '.join(map(repr, self.values))})"


def conditions(when: When) -> When:
    """The same, each with a tuple of the values under which it is met."""
    return {name: several(wanted) for name, wanted in when.items()}


def met(when: When, values: Configuration) -> bool:
    """Whether these values meet the conditions; an absent one meets none."""
    return all(
        name in values and any(same(values[name], each) for each in several(wanted)) for name, wanted in when.items()
    )


def words(when: When) -> str:
    """The conditions for people."""
    return " and ".join(f"{name} is {' or '.join(map(repr, several(wanted)))}" for name, wanted in when.items())


def several(wanted: Value | tuple[Value, ...]) -> tuple[Value, ...]:
    """One value or several, as several."""
    return wanted if isinstance(wanted, tuple) else (wanted,)


def same(one: object, other: object) -> bool:
    """Equal, and True is not 1."""
    return isinstance(one, bool) == isinstance(other, bool) and one == other


def _fits(value: Value, knob: Knob) -> bool:
    if isinstance(knob.kind, tuple):
        return any(same(value, each) for each in knob.kind)
    return type(value) is knob.kind and (not isinstance(value, float) or math.isfinite(value))


def _type(knob: Knob) -> str:
    if isinstance(knob.kind, tuple):
        return f"one of {', '.join(map(repr, knob.kind))}"
    return f"{'an' if knob.kind is int else 'a'} {knob.kind.__name__}"
