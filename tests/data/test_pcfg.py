"""Grammars: strings that another parser accepts, as often as they should be, each a function of (seed, id)."""

from __future__ import annotations

import math
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from functools import cache
from itertools import product

import lark
import numpy as np
import pytest
import torch

from raykd import tokens
from raykd.data import CFG3B, PCFG, Dataset, Flip, Grammar, Rule, View
from raykd.identity import fingerprint

NESTED = Grammar.written("s", s="a s b [.3] | a b [.7]")
TOWARDS_THE_LEFT = Grammar.written("e", e="e + t | t", t="t x f | f", f="( e ) | v")
IN_BRACKETS = Grammar("s", (*TOWARDS_THE_LEFT.rules, Rule("s", (("(", "e", ")"),))))
LOOSE = Grammar.written("s", s="s s [.3] | n [.1] | x y [.6]", n="s | y y")
GRAMMARS = {
    "cfg3b": PCFG(CFG3B, 60),
    "from m": PCFG(CFG3B.starting("m"), 400, seed=2),
    "from j": PCFG(CFG3B.starting("j"), 400, first=1000),
    "nested": PCFG(NESTED, 400, length=20),
    "towards the left": PCFG(IN_BRACKETS, 200, length=30),
    "loose": PCFG(LOOSE, 200, length=25),
}  # fmt: skip
CASES = pytest.mark.parametrize("source", GRAMMARS.values(), ids=GRAMMARS.keys())


def strings(source: PCFG) -> list[list[int]]:
    """The tokens of all rows, without what is behind their ends."""
    rows = source.load()
    held = tokens.tokens(rows.inputs(np.arange(len(rows))))
    return [[token for token in row if token != tokens.NOTHING] for row in held.tolist()]


@cache
def earley(grammar: Grammar) -> lark.Lark:
    """Lark's parser of it, which reads the token t as the letter t."""
    names = {rule.symbol: f"r{number}" for number, rule in enumerate(grammar.rules)}
    names |= {symbol: f'"{chr(65 + token)}"' for token, symbol in enumerate(grammar.terminals)}
    rows = (
        f"{names[rule.symbol]}: " + " | ".join(" ".join(names[each] for each in row) for row in rule.alternatives)
        for rule in grammar.rules
    )
    return lark.Lark("\n".join(rows), start=names[grammar.start], parser="earley", lexer="dynamic")


def accepted(grammar: Grammar, string: list[int]) -> bool:
    try:
        earley(grammar).parse("".join(chr(65 + token) for token in string))
    except lark.exceptions.LarkError:
        return False
    return True


def written(grammar: Grammar, text: str) -> list[int]:
    return [grammar.terminals.index(symbol) for symbol in text.split()]


def every_string(grammar: Grammar, symbol: str) -> Counter[tuple[str, ...]]:
    """What a symbol may become in the end, and how probably: all derivations, one by one."""
    rules = {rule.symbol: rule for rule in grammar.rules}
    if symbol not in rules:
        return Counter({(symbol,): 1.0})
    found: Counter[tuple[str, ...]] = Counter()
    for row, share in zip(rules[symbol].alternatives, rules[symbol].probabilities, strict=True):
        for parts in product(*(every_string(grammar, each).items() for each in row)):
            string = tuple(token for part, _ in parts for token in part)
            found[string] += share * math.prod(probability for _, probability in parts)
    return found


def agree(found: Counter[tuple[int, ...]], expected: dict[tuple[int, ...], float]) -> bool:
    """A chi-square test whose statistic is within 5 deviations of its mean."""
    rows = sum(found.values())
    assert set(found) <= set(expected)
    surprise = sum((found[string] - rows * p) ** 2 / (rows * p) for string, p in expected.items())
    freedom = len(expected) - 1
    return surprise < freedom + 5 * math.sqrt(2 * freedom)


# --- the grammar


def test_cfg3b_has_the_published_rules() -> None:
    text = """s->r q|q p; p->m n o|n o m; q->n m o|m n; r->o m|m o n; m->l j|j l k; n->k j l|l j k; o->l k j|k j; j->h i|i h;
    k->h g i|g h i; l->i h g|h i g; g->d f e|f e d; h->e d f|d e f; i->e f d|f d e; d->c a|a b c; e->c b|c a b; f->c b a|b a"""
    rules = dict(rule.strip().split("->") for rule in text.split(";"))
    assert len(CFG3B.rules) == len(rules) == 16
    for rule in CFG3B.rules:
        assert "|".join(" ".join(row) for row in rule.alternatives) == rules[rule.symbol]
        assert rule.probabilities == (0.5, 0.5)
    assert CFG3B.terminals == ("a", "b", "c")


@CASES
def test_every_row_is_a_string_of_the_grammar_says_a_parser_that_is_not_ours(source: PCFG) -> None:
    for string in strings(source)[:100]:
        assert source.grammar.shortest <= len(string) <= source.shape[1]
        assert accepted(source.grammar, string)
        assert source.grammar.derives(string)


@CASES
def test_both_parsers_agree_on_strings_with_a_symbol_exchanged_left_out_or_doubled(source: PCFG) -> None:
    generator = np.random.default_rng(0)
    for string in strings(source)[:60]:
        place = int(generator.integers(len(string)))
        other = int(generator.integers(source.classes))
        for broken in (
            [*string[:place], other, *string[place + 1 :]],
            [*string[:place], *string[place + 1 :]],
            [*string[: place + 1], *string[place:]],
        ):
            assert source.grammar.derives(broken) == accepted(source.grammar, broken)


def test_with_one_symbol_exchanged_hardly_any_string_is_in_the_grammar() -> None:
    generator = np.random.default_rng(0)
    for source, most in ((GRAMMARS["cfg3b"], 0.1), (GRAMMARS["from m"], 0.2)):
        kept = 0
        for string in strings(source):
            place = int(generator.integers(len(string)))
            string[place] = (string[place] + int(generator.integers(1, 3))) % 3
            kept += source.grammar.derives(string)
        assert kept < most * source.rows


def test_all_strings_that_a_small_grammar_has_are_told_from_all_others() -> None:
    for grammar, longest in ((CFG3B.starting("g"), 9), (NESTED, 8), (LOOSE, 7), (TOWARDS_THE_LEFT, 5)):
        for length in range(2, longest + 1):
            generator = np.random.default_rng(length)
            size = len(grammar.terminals)
            every = list(product(range(size), repeat=length))
            for at in generator.permutation(len(every))[:300]:
                string = list(every[at])
                assert grammar.derives(string) == accepted(grammar, string)


def test_a_parse_of_words_known_by_hand() -> None:
    grammar = TOWARDS_THE_LEFT
    for text, right in (("v + v x v", True), ("( v + v ) x v", True), ("v + x v", False), ("( v", False), ("v", True)):
        assert grammar.derives(written(grammar, text)) == right
    assert not grammar.derives([])
    assert grammar.derives(np.array([*written(grammar, "v + v"), -1, -1]))
    assert not grammar.derives([-1])
    for depth in range(1, 40):
        assert NESTED.derives([0] * depth + [1] * depth)
        assert not NESTED.derives([0] * depth + [1] * (depth + 1))


def test_the_shortest_and_longest_strings_are_those_of_a_list_of_all() -> None:
    for symbol in "dghij":
        lengths = [len(string) for string in every_string(CFG3B, symbol)]
        assert (CFG3B.starting(symbol).shortest, CFG3B.starting(symbol).longest) == (min(lengths), max(lengths))
    assert [NESTED.longest, LOOSE.longest, TOWARDS_THE_LEFT.longest] == [None] * 3
    assert [NESTED.shortest, LOOSE.shortest, TOWARDS_THE_LEFT.shortest] == [2, 2, 1]
    round_about = Grammar.written("s", s="t | a a a", t="s | a a")
    assert (round_about.shortest, round_about.longest) == (2, 3)


def test_equal_rules_are_one_grammar_however_they_are_written() -> None:
    same = [
        Grammar.written("s", s="a t | t", t="b [.5] | c c [.5]"),
        Grammar.written("s", t="b|c  c", s=" a t|t "),
        Grammar("s", (Rule("t", (("b",), ("c", "c"))), Rule("s", (("a", "t"), ("t",)), (0.5, 0.5)))),
    ]
    others = [
        Grammar.written("s", s="a t | t", t="b [.4] | c c [.6]"),
        Grammar.written("s", s="t | a t", t="b | c c"),
        Grammar.written("t", t="a s | s", s="b | c c"),
    ]
    assert len({fingerprint(grammar) for grammar in same}) == len(set(same)) == 1
    assert len({fingerprint(grammar) for grammar in [*same, *others]}) == 4
    assert CFG3B.starting("s") == CFG3B
    assert [rule.symbol for rule in CFG3B.starting("g").rules] == list("defg")
    assert CFG3B.starting("m").starting("g") == CFG3B.starting("g")


# --- what is drawn


def test_strings_are_as_frequent_as_their_derivations_say() -> None:
    uneven = Grammar.written("s", s="x t [.2] | t t [.5] | y y y [.3]", t="x y [.9] | z [.1]")
    for grammar, size in ((CFG3B.starting("j"), 512), (uneven, 7)):
        numbers = {symbol: token for token, symbol in enumerate(grammar.terminals)}
        expected = {tuple(map(numbers.__getitem__, s)): p for s, p in every_string(grammar, grammar.start).items()}
        assert len(expected) == size
        assert sum(expected.values()) == pytest.approx(1)
        for seed in range(2):
            found = Counter(map(tuple, strings(PCFG(grammar, 30_000, seed))))
            assert agree(found, expected)


def test_strings_short_enough_are_as_frequent_as_among_all() -> None:
    found = Counter(map(tuple, strings(PCFG(NESTED, 30_000, length=8))))
    shares = [0.7 * 0.3**depth for depth in range(4)]
    expected = {(0,) * (n + 1) + (1,) * (n + 1): share / sum(shares) for n, share in enumerate(shares)}
    assert agree(found, expected)


def test_the_first_rule_of_a_row_says_nothing_of_the_next_row() -> None:
    firsts = np.array([string[0] for string in strings(PCFG(Grammar.written("s", s="a a | b b"), 20_000))]) * 2 - 1
    assert abs(firsts.mean()) < 5 / math.sqrt(20_000)
    assert abs((firsts[1:] * firsts[:-1]).mean()) < 5 / math.sqrt(20_000)


@CASES
def test_a_row_is_a_function_of_seed_and_id_whatever_is_drawn_with_it(source: PCFG) -> None:
    everything = source.strings(source.first + np.arange(50))
    order = np.random.default_rng(0).permutation(50)
    assert (source.strings(source.first + order) == everything[order]).all()
    for row in (0, 17, 49):
        assert (source.strings(np.array([source.first + row])) == everything[row]).all()
    later = replace(source, rows=20, first=source.first + 30).load()
    assert later.ids.tolist() == list(range(source.first + 30, source.first + 50))
    assert (tokens.tokens(later.inputs(np.arange(20))).numpy() == everything[30:]).all()


def test_another_process_draws_the_same_rows() -> None:
    program = (
        "from raykd.data import *; from raykd.identity import fingerprint;"
        "print(fingerprint(PCFG(CFG3B.starting('m'), 50, seed=2).load().inputs(__import__('numpy').arange(50))))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    mine = fingerprint(replace(GRAMMARS["from m"], rows=50).load().inputs(np.arange(50)))
    assert run.stdout.strip() == mine, run.stderr


def test_other_seeds_and_ids_are_other_rows_and_sources() -> None:
    source = PCFG(CFG3B.starting("m"), 300)
    others = [source, replace(source, seed=1), replace(source, first=300), replace(source, grammar=CFG3B.starting("o"))]
    assert len({fingerprint(each) for each in others}) == 4
    drawn = [tuple(string) for each in others for string in strings(each)]
    assert len(set(drawn)) > 0.99 * len(drawn)


def test_splits_and_a_test_source_have_rows_of_their_own() -> None:
    source = PCFG(CFG3B.starting("m"), 200)
    dataset = Dataset(source, replace(source, rows=50, first=200), validation=0.25)
    dataset.check()
    ids = [dataset.split(name).ids.tolist() for name in ("train", "validation", "test")]  # type: ignore[arg-type]
    assert [len(each) for each in ids] == [150, 50, 50]
    assert sorted(ids[0] + ids[1] + ids[2]) == list(range(250))


# --- what is asked


@CASES
def test_the_next_token_is_asked_at_every_position_but_the_last(source: PCFG) -> None:
    source.check()
    assert (source.vocabulary, source.targets) == (source.classes, source.shape[1] - 1)
    rows = source.load()
    inputs, labels = rows.inputs(np.arange(30)), rows.labels_at(np.arange(30))
    for row, string in enumerate(strings(source)[:30]):
        expected = [*string, *[-1] * (source.shape[1] - len(string))]
        assert tokens.tokens(inputs)[row].tolist() == expected
        assert tokens.asked(inputs)[row].nonzero().flatten().tolist() == list(range(len(string) - 1))
        assert labels[row][tokens.asked(inputs)[row]].tolist() == string[1:]
    sample = View(Dataset(source)).batch(np.arange(5), np.zeros(5, int))
    assert len(sample.labels_B) == tokens.counts(sample.inputs_B).sum()


def test_a_longer_length_is_the_same_rows_with_more_behind_them() -> None:
    short = PCFG(CFG3B.starting("j"), 20)
    wide = replace(short, length=40)
    assert (short.shape, wide.shape) == ((2, 18), (2, 40))
    assert strings(short) == strings(wide)
    assert torch.equal(short.load().inputs(np.arange(20)), wide.load().inputs(np.arange(20))[:, :, :18])


# --- mistakes


RARE = Grammar.written("s", s="a a [.000001] | b b b [.999999]")


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda: Grammar.written("s", t="a b"), "starts with 's', which has no rule: one of t"),
        (lambda: CFG3B.starting("a"), "starts with 'a', which has no rule"),
        (lambda: CFG3B.starting("nobody"), "starts with 'nobody'"),
        (lambda: Grammar.written("s", s="a b", u="a"), "never uses the rule of 'u' from 's' on"),
        (lambda: Grammar.written("s", s="a t | b", t="a t"), "'t' never ends"),
        (lambda: Grammar.written("s", s="s"), "'s' never ends"),
        (lambda: Grammar("s", (Rule("s", (("a",),)), Rule("s", (("b",),)))), "2 rules of 's': one would be right"),
        (lambda: Rule("s", ()), r"rule of 's' has \(\)"),
        (lambda: Grammar.written("s", s="a | "), "at least one symbol each"),
        (lambda: Grammar.written("s", s="a [.5] | b [.4]"), r"probabilities \(0.5, 0.4\) for 2 alternatives"),
        (lambda: Grammar.written("s", s="a [1] | b [0]"), "above 0 and 1 in sum"),
        (lambda: Rule("s", (("a",), ("b",)), (1.0,)), r"probabilities \(1.0,\) for 2"),
        (lambda: Grammar.written("s", s="a [.5] | b"), "with a probability everywhere or nowhere"),
        (lambda: Grammar.written("s", s="a [half] | b [.5]"), r"the rule of 's' is 'a \[half\]"),
        (lambda: Grammar.written("s", s="a [.5] b"), r"'a \[.5\] b'"),
        (lambda: CFG3B.derives([0, 3]), r"the token 3 is no terminal: 0\.\.2 would be right"),
        (lambda: CFG3B.derives([0, -1, 1]), "the token -1 is no terminal"),
        (lambda: PCFG(rows=0), "rows=0 from the id 0 on"),
        (lambda: PCFG(first=-1), "from the id -1"),
        (lambda: PCFG(TOWARDS_THE_LEFT, length=9), "strings of 1 token"),
        (lambda: PCFG(NESTED), "length=None: 2 or more would be right"),
        (lambda: PCFG(CFG3B.starting("j"), length=11), "length=11 and no string so short: 12 or more"),
        (lambda: PCFG(RARE, length=2).load(), "no string of row 0 has at most 2 tokens, of 1000 drawn"),
        (lambda: View(Dataset(PCFG()), (Flip(),)), "changes numbers, and the rows of PCFG are others"),
    ],
)  # fmt: skip
def test_a_mistake_is_refused_in_one_line(write, words: str) -> None:
    with pytest.raises(ValueError, match=words) as error:
        write()
    assert "\n" not in str(error.value)
