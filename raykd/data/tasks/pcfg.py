"""Probabilistic context-free grammars: strings whose structure is known, to be learned token by token.

    s -> r q [.5] | q p [.5]        r -> o m | m o n        ...        until there are terminals only

    PCFG(CFG3B, rows)                        causal: the next token at every position but the last
    PCFG(CFG3B.starting("m"), rows)          a part of the same grammar, for small machines
    Masked(PCFG(...))                        hidden tokens, see masked.py

A string is drawn level by level, all its symbols at once, each by a number of its own: a function of (seed, id, level, place).
What is too long is drawn again: strings follow the grammar's distribution, given that they are short enough.

Source: Z. Allen-Zhu, Y. Li, "Physics of Language Models: Part 1, Learning Hierarchical Language Structures", 2023 (`CFG3B`).

Shapes: B strings, L tokens of the longest one, M symbols of all strings, K symbols of an alternative, A alternatives, S symbols
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from raykd import rng, tokens
from raykd.data.rows import Rows
from raykd.data.source import BLOCK, Source
from raykd.identity import fingerprint

STRINGS = 4
"""Tells the draws of strings from those of operations on them, which may have the same seed."""

ATTEMPTS = 1000
"""Draws of one string, until one is short enough."""

ALTERNATIVE = re.compile(r"([^\[\]]*)(?:\[(\d*\.?\d+)\])?")
"""Symbols, and perhaps a probability in brackets."""


@dataclass(frozen=True)
class Rule:
    """What a symbol may become: one of the alternatives, each a row of symbols.

    Raises `ValueError` for no alternative, one without symbols, and for probabilities that are not one for each alternative,
    above 0 and 1 in sum.
    """

    symbol: str
    alternatives: tuple[tuple[str, ...], ...]
    probabilities: tuple[float, ...] = ()
    """One for each alternative; none: all are as probable."""

    def __post_init__(self) -> None:
        alternatives = tuple(tuple(alternative) for alternative in self.alternatives)
        if not alternatives or not all(alternatives):
            raise ValueError(f"the rule of {self.symbol!r} has {alternatives}: at least one symbol each would be right")
        shares = tuple(self.probabilities) or (1 / len(alternatives),) * len(alternatives)
        if len(shares) != len(alternatives) or min(shares) <= 0 or not math.isclose(math.fsum(shares), 1, abs_tol=1e-9):
            found = f"the rule of {self.symbol!r} has the probabilities {shares} for {len(alternatives)} alternatives"
            raise ValueError(f"{found}: one for each, above 0 and 1 in sum, would be right")
        object.__setattr__(self, "alternatives", alternatives)
        object.__setattr__(self, "probabilities", shares)

    @classmethod
    def written(cls, symbol: str, text: str) -> Rule:
        """Read from "a s b [.3] | a b [.7]". Raises `ValueError` for what it cannot read."""
        found = [match for part in text.split("|") if (match := ALTERNATIVE.fullmatch(part.strip()))]
        given = [match[2] for match in found if match[2] is not None]
        if len(found) <= text.count("|") or len(given) not in (0, len(found)):
            right = "'a b [.5] | c d [.5]', with a probability everywhere or nowhere, would be right"
            raise ValueError(f"the rule of {symbol!r} is {text!r}: {right}")
        return cls(symbol, tuple(tuple(match[1].split()) for match in found), tuple(map(float, given)))


@dataclass(frozen=True)
class Grammar:
    """Rules, and the symbol that all strings come from. Symbols without a rule are terminals.

    Raises `ValueError` for two rules of one symbol, a start without a rule, a rule that is never used (as after a slip in a
    name) and a symbol that never ends.
    """

    start: str
    rules: tuple[Rule, ...]
    """Kept in the order of their symbols, so that grammars with equal rules are equal."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "rules", tuple(sorted(self.rules, key=lambda rule: rule.symbol)))
        named = [rule.symbol for rule in self.rules]
        for symbol in named:
            if named.count(symbol) > 1:
                raise ValueError(f"Grammar has {named.count(symbol)} rules of {symbol!r}: one would be right")
        if unused := sorted(set(named) - self._reached()):
            raise ValueError(f"Grammar never uses the rule of {unused[0]!r} from {self.start!r} on: leave it out")
        for symbol, least in self.least().items():
            if math.isinf(least):
                raise ValueError(
                    f"{symbol!r} never ends: an alternative of terminals, or of symbols that end, would be right"
                )

    @classmethod
    def written(cls, start: str, **rules: str) -> Grammar:
        """`Grammar.written("s", s="a s b [.3] | a b [.7]")`: bars between alternatives, blanks between symbols; a probability
        in brackets behind each alternative, or none. Raises `ValueError` for what it cannot read.
        """
        return cls(start, tuple(Rule.written(symbol, text) for symbol, text in rules.items()))

    def starting(self, symbol: str) -> Grammar:
        """The part of this grammar that this symbol needs. Raises `ValueError` for a symbol that has no rule."""
        used = self._reached(symbol)
        return replace(self, start=symbol, rules=tuple(rule for rule in self.rules if rule.symbol in used))

    @property
    def terminals(self) -> tuple[str, ...]:
        """In alphabetical order: the token t is the terminal t."""
        return tuple(sorted(self._reached() - {rule.symbol for rule in self.rules}))

    @property
    def shortest(self) -> int:
        """Tokens of its shortest string."""
        return int(self.least()[self.start])

    @property
    def longest(self) -> int | None:
        """Tokens of its longest string; None: there is none."""
        most = dict.fromkeys(self.terminals, 1) | {rule.symbol: 0 for rule in self.rules}
        for _ in range(len(self.rules) + 1):
            before = dict(most)
            for rule in self.rules:
                most[rule.symbol] = max(sum(before[each] for each in row) for row in rule.alternatives)
            if most == before:
                return most[self.start]
        return None  # without recursion, each round settles the symbols of one more level

    def derives(self, tokens_L: Sequence[int] | NDArray[np.int64]) -> bool:
        """Whether these tokens are a string of this grammar; places of `NOTHING` behind the end are left out.

        Chart parsing from right to left: of each place and symbol the set of ends, as the bits of a whole number. Raises
        `ValueError` for a token that is no terminal.
        """
        string = _string(tokens_L, self.terminals)
        ends: list[dict[str, int]] = [{} for _ in range(len(string) + 1)]
        for place in range(len(string) - 1, -1, -1):
            here = ends[place]
            here[string[place]] = 2 << place
            grown = True
            while grown:  # more than once for symbols that begin with each other
                before = dict(here)
                for rule in self.rules:
                    for row in rule.alternatives:
                        if reached := _after(row, place, ends):
                            here[rule.symbol] = here.get(rule.symbol, 0) | reached
                grown = here != before
        return bool(ends[0].get(self.start, 0) >> len(string))

    def _reached(self, start: str | None = None) -> set[str]:
        """The symbols that come from `start`, itself included."""
        rules = {rule.symbol: rule for rule in self.rules}
        waiting, reached = [self.start if start is None else start], set[str]()
        if waiting[0] not in rules:
            raise ValueError(f"Grammar starts with {waiting[0]!r}, which has no rule: one of {', '.join(rules)}")
        while waiting:
            symbol = waiting.pop()
            if symbol not in reached:
                reached.add(symbol)
                waiting += [each for row in (rules[symbol].alternatives if symbol in rules else ()) for each in row]
        return reached

    def least(self) -> dict[str, float]:
        """How many tokens at least each symbol becomes; infinity: it never ends."""
        least = dict.fromkeys(self.terminals, 1.0) | {rule.symbol: math.inf for rule in self.rules}
        for _ in self.rules:
            for rule in self.rules:
                least[rule.symbol] = min(sum(least[each] for each in row) for row in rule.alternatives)
        return least


CFG3B = Grammar.written(
    "s",
    s="r q | q p",
    p="m n o | n o m", q="n m o | m n", r="o m | m o n",
    m="l j | j l k", n="k j l | l j k", o="l k j | k j",
    j="h i | i h", k="h g i | g h i", l="i h g | h i g",
    g="d f e | f e d", h="e d f | d e f", i="e f d | f d e",
    d="c a | a b c", e="c b | c a b", f="c b a | b a",
)  # fmt: skip
"""Six levels above the terminals a, b and c. `CFG3B.starting("m")` has four of them, `CFG3B.starting("j")` three."""


@dataclass(frozen=True)
class PCFG(Source):
    """`rows` strings of a grammar, drawn from (seed, id), with the next token asked at every position but the last.

    Ids are first, first + 1, ...: sources with other ids are other draws, and of a small grammar the same strings again. All
    are drawn on reading and held in memory, a byte a token.

    Raises `ValueError` for fewer than 1 row, for a grammar with strings of one token, for a length that no string has, and for
    no length where there is no longest string; on reading where strings of that length are too rare.
    """

    grammar: Grammar = CFG3B
    rows: int = 10_000
    seed: int = 0
    first: int = 0
    """The first row's id."""
    length: int | None = None
    """Tokens of a row at most; None: as many as the longest string has."""

    def __post_init__(self) -> None:
        if self.rows < 1 or self.first < 0:
            raise ValueError(f"PCFG has rows={self.rows} from the id {self.first} on: at least 1, and an id from 0 on")
        shortest, longest = self.grammar.shortest, self.grammar.longest
        if shortest < 2:
            raise ValueError(
                "PCFG has a grammar with strings of 1 token: at least 2, so that there is a next one, would be right"
            )
        if self.length is None and longest is None:
            raise ValueError(
                f"PCFG has a grammar without a longest string and length=None: {shortest} or more would be right"
            )
        if self.length is not None and self.length < shortest:
            raise ValueError(f"PCFG has length={self.length} and no string so short: {shortest} or more would be right")

    @property
    def classes(self) -> int:
        """How many terminals there are."""
        return len(self.grammar.terminals)

    @property
    def vocabulary(self) -> int:
        """How many terminals there are."""
        return self.classes

    @property
    def shape(self) -> tuple[int, ...]:
        """(2, L)"""
        return (2, self._length)

    @property
    def targets(self) -> int:
        """All positions of the longest row, but the last."""
        return self._length - 1

    @property
    def revision(self) -> str:
        """A digest of the first rows: of how they are drawn."""
        return _revision(self)

    def read(self) -> Rows:
        """Draw the strings."""
        ids_N = self.first + np.arange(self.rows, dtype=np.int64)
        kind = np.int8 if self.classes < 128 else np.int32
        blocks = (ids_N[start : start + BLOCK] for start in range(0, self.rows, BLOCK))
        strings_NL = torch.from_numpy(np.concatenate([self.strings(ids_B).astype(kind) for ids_B in blocks]))

        def gather(places_B: NDArray[np.int64]) -> Tensor:
            tokens_BL = strings_NL[torch.from_numpy(places_B)].long()
            return tokens.pack(tokens_BL, _next(tokens_BL) != tokens.NOTHING)

        def labels(places_B: NDArray[np.int64]) -> Tensor:
            return _next(strings_NL[torch.from_numpy(places_B)].long())

        return Rows(ids_N, np.zeros(self.rows, np.int64), gather, gather_labels=labels)

    def strings(self, ids_B: NDArray[np.int64]) -> NDArray[np.int64]:
        """The tokens of the rows with these ids, and `NOTHING` behind them. [B, L]

        Raises `ValueError` where strings that are short enough are too rare.
        """
        found_BL = np.full((len(ids_B), self._length), tokens.NOTHING, np.int64)
        left = np.arange(len(ids_B))
        for attempt in range(ATTEMPTS):
            owner_M, tokens_M = _drawn(_tables(self.grammar), self._length, self.seed, ids_B[left], attempt)
            found_BL[left[owner_M], _places(owner_M)] = tokens_M
            left = np.delete(left, owner_M)
            if not len(left):
                return found_BL
        found = f"no string of row {ids_B[left[0]]} has at most {self._length} tokens, of {ATTEMPTS} drawn"
        raise ValueError(f"PCFG: {found}: a greater length, or rules that end sooner, would be right")

    @property
    def _length(self) -> int:
        length = self.grammar.longest if self.length is None else self.length
        assert length is not None
        return length


@dataclass(frozen=True, eq=False)
class _Tables:
    """A grammar in numbers: terminals first, then the other symbols; a terminal becomes itself."""

    terminals: int
    start: int
    shortest_S: NDArray[np.float64]
    first_S: NDArray[np.int64]
    """The first of each symbol's alternatives."""
    bounds_SA: NDArray[np.float64]
    """Where one alternative ends and the next begins, in [0, 1)."""
    symbols_AK: NDArray[np.int64]
    widths_A: NDArray[np.int64]


@lru_cache(maxsize=16)
def _tables(grammar: Grammar) -> _Tables:
    rules = (*(Rule(symbol, ((symbol,),)) for symbol in grammar.terminals), *grammar.rules)
    numbers = {rule.symbol: number for number, rule in enumerate(rules)}
    least = grammar.least()
    rows = [[numbers[symbol] for symbol in row] for rule in rules for row in rule.alternatives]
    choices_S = np.array([len(rule.alternatives) for rule in rules])
    symbols_AK = np.zeros((len(rows), max(map(len, rows))), np.int64)
    bounds_SA = np.ones((len(rules), choices_S.max()))
    for number, row in enumerate(rows):
        symbols_AK[number, : len(row)] = row
    for number, rule in enumerate(rules):
        bounds_SA[number, : choices_S[number] - 1] = np.cumsum(rule.probabilities)[:-1]
    return _Tables(
        terminals=len(grammar.terminals),
        start=numbers[grammar.start],
        shortest_S=np.array([least[rule.symbol] for rule in rules]),
        first_S=np.cumsum(choices_S) - choices_S,
        bounds_SA=bounds_SA,
        symbols_AK=symbols_AK,
        widths_A=np.array([len(row) for row in rows]),
    )


def _drawn(
    grammar: _Tables, length: int, seed: int, ids_B: NDArray[np.int64], attempt: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The tokens of the strings that are short enough, one string after the other, and whose they are. [M], [M]"""
    owner_M, symbols_M, level = np.arange(len(ids_B)), np.full(len(ids_B), grammar.start), 0
    while (symbols_M >= grammar.terminals).any():
        drawn_M = rng.uniform(seed, ids_B[owner_M], STRINGS, attempt, level, _places(owner_M))
        chosen_M = grammar.first_S[symbols_M] + (drawn_M[:, None] >= grammar.bounds_SA[symbols_M]).sum(1)
        widths_M = grammar.widths_A[chosen_M]
        there_MK = np.arange(grammar.symbols_AK.shape[1]) < widths_M[:, None]
        owner_M, symbols_M, level = owner_M.repeat(widths_M), grammar.symbols_AK[chosen_M][there_MK], level + 1
        fits_B = np.bincount(owner_M, grammar.shortest_S[symbols_M], minlength=len(ids_B)) <= length
        owner_M, symbols_M = owner_M[fits_B[owner_M]], symbols_M[fits_B[owner_M]]
    return owner_M, symbols_M


def _places(owner_M: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of each symbol, in its own string."""
    places_M: NDArray[np.int64] = np.arange(len(owner_M)) - np.searchsorted(owner_M, owner_M)
    return places_M


def _next(tokens_BL: Tensor) -> Tensor:
    """The token behind each one; `NOTHING` behind the last."""
    return F.pad(tokens_BL[:, 1:], (0, 1), value=tokens.NOTHING)


@lru_cache(maxsize=64)
def _revision(source: PCFG) -> str:
    return fingerprint(source.strings(source.first + np.arange(min(16, source.rows))))


def _string(tokens_L: Sequence[int] | NDArray[np.int64], terminals: tuple[str, ...]) -> list[str]:
    numbers = [int(token) for token in tokens_L]
    while numbers and numbers[-1] == tokens.NOTHING:
        numbers.pop()
    for token in numbers:
        if not 0 <= token < len(terminals):
            raise ValueError(f"the token {token} is no terminal: 0..{len(terminals) - 1} would be right")
    return [terminals[token] for token in numbers]


def _after(row: tuple[str, ...], place: int, ends: list[dict[str, int]]) -> int:
    """The places where an alternative that begins at `place` may end, as bits."""
    reached = 1 << place
    for symbol in row:
        starts, reached = reached, 0
        while starts:
            lowest = starts & -starts
            reached |= ends[lowest.bit_length() - 1].get(symbol, 0)
            starts ^= lowest
    return reached
