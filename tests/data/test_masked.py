"""Masked language modelling: as many hidden as should be, the same ones every time, others in every replica."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from raykd import tokens
from raykd.data import (
    CFG3B,
    PCFG,
    Arrays,
    Crop,
    Dataset,
    Digits,
    Draws,
    Grammar,
    Masked,
    Mixup,
    Parity,
    ParityTokens,
    Remasked,
    Sample,
    View,
)
from raykd.identity import fingerprint
from raykd.models import BERT

NESTED = Grammar.written("s", s="a s b [.6] | a b [.4]")
SOURCES = {
    "from m": Masked(PCFG(CFG3B.starting("m"), 150)),
    "few": Masked(PCFG(CFG3B.starting("j"), 150, seed=3, first=70), 0.01, seed=9),
    "most": Masked(PCFG(NESTED, 150, length=16), 0.7),
    "half": Masked(PCFG(NESTED, 150, length=16), 0.5),
}
CASES = pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES.keys())


@cache
def shown(source: Masked) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The tokens of the source, and its own inputs and labels."""
    rows, every = source.load(), np.arange(150)
    return tokens.tokens(source.source.load().inputs(every)), rows.inputs(every), rows.labels_at(every)


@CASES
def test_the_right_number_is_hidden_and_asked_and_all_else_stays(source: Masked) -> None:
    source.check()
    assert (source.classes, source.vocabulary) == (source.source.classes, source.source.classes + 1)
    originals, inputs, labels = shown(source)
    assert torch.equal(labels, originals)
    most = 0
    for original, seen, asked in zip(originals, tokens.tokens(inputs), tokens.asked(inputs), strict=True):
        length = int((original >= 0).sum())
        assert asked.sum() == max(1, round(source.rate * length))
        assert not asked[length:].any()
        assert (seen[asked] == source.classes).all()
        assert torch.equal(seen[~asked], original[~asked])
        most = max(most, int(asked.sum()))
    assert most <= source.targets == max(1, round(source.rate * source.shape[1]))


def test_every_position_is_hidden_as_often_as_others_and_apart_from_its_neighbour() -> None:
    source = Masked(PCFG(Grammar.written("s", s="a b c a b c a b c a"), 20_000))
    asked = tokens.asked(source.load().inputs(np.arange(20_000))).double()
    assert (asked.mean(0) - 0.3).abs().max() < 5 * (0.21 / 20_000) ** 0.5
    # of ten positions three are drawn: two given ones are both hidden in 3 * 2 of 10 * 9 cases
    both = (asked.T @ asked / 20_000)[~torch.eye(10, dtype=torch.bool)]
    assert (both - 6 / 90).abs().max() < 5 * (1 / 15 / 20_000) ** 0.5
    sets = Counter(map(tuple, asked.nonzero()[:, 1].view(-1, 3).tolist()))
    assert len(sets) == 120
    assert sum((count - 20_000 / 120) ** 2 / (20_000 / 120) for count in sets.values()) < 119 + 5 * 238**0.5


def test_a_seed_hides_and_the_sources_seed_draws() -> None:
    source = SOURCES["from m"]
    originals, inputs, _ = shown(source)
    others, elsewhere, _ = shown(replace(source, seed=1))
    assert torch.equal(originals, others)
    assert (tokens.asked(inputs) != tokens.asked(elsewhere)).any(1).double().mean() > 0.9
    changed = [
        replace(source, seed=1),
        replace(source, rate=0.2),
        replace(source, source=replace(source.source, seed=1)),
    ]
    assert len({fingerprint(each) for each in (source, *changed)}) == 4


@CASES
def test_a_plain_view_asks_the_same_every_time_and_labels_are_what_was_hidden(source: Masked) -> None:
    view, positions = View(Dataset(source), (source.remasked,), replicas=5).plain(), np.arange(40)
    rows = view.dataset.split("train")
    for replica in (0, 0, 3):
        sample = view.batch(positions, np.full(40, replica))
        assert torch.equal(sample.inputs_B, rows.inputs(positions))
        originals = tokens.tokens(source.source.load().inputs(rows.ids[positions] - source.source.first))  # type: ignore[attr-defined]
        assert torch.equal(sample.labels_B, originals[tokens.asked(sample.inputs_B)])


# --- remasking


def remasked(source: Masked, replica: int, size: int = 60, seed: int = 0) -> Sample:
    view = View(Dataset(source), (source.remasked,), replicas=9, seed=seed)
    return view.batch(np.arange(size), np.full(size, replica))


@CASES
def test_a_replica_hides_as_many_other_positions_of_the_same_row(source: Masked) -> None:
    plain = remasked(source, 0)
    rows = Dataset(source).split("train")
    originals = rows.labels_at(np.arange(60))
    seen = [plain.inputs_B, *(remasked(source, replica).inputs_B for replica in (1, 2)), rows.inputs(np.arange(60))]
    seen.append(remasked(source, 0, seed=1).inputs_B)
    for inputs in seen:
        asked = tokens.asked(inputs)
        assert torch.equal(tokens.counts(inputs), tokens.counts(seen[0]))
        assert torch.equal(tokens.tokens(inputs)[~asked], originals[~asked])
        assert (tokens.tokens(inputs)[asked] == source.classes).all()
        assert (originals[asked] >= 0).all()
    for one in range(5):
        for other in range(one):
            differ = (tokens.asked(seen[one]) != tokens.asked(seen[other])).any(1).double().mean()
            assert differ > 0.3  # of two tokens one is hidden: half of the rows of the shortest strings are alike
    assert torch.equal(plain.labels_B, originals[tokens.asked(plain.inputs_B)])


@CASES
def test_a_remasked_row_is_the_same_in_any_batch_and_order(source: Masked) -> None:
    view = View(Dataset(source), (source.remasked,), replicas=6, seed=4)
    positions, replicas = np.random.default_rng(0).permutation(90), np.arange(90) % 6
    whole = view.batch(positions, replicas)
    first = np.concatenate([[0], tokens.counts(whole.inputs_B).cumsum(0).numpy()])
    order = np.random.default_rng(1).permutation(90)[:30]
    part = view.batch(positions[order], replicas[order])
    assert torch.equal(part.inputs_B, whole.inputs_B[order])
    assert torch.equal(part.labels_B, torch.cat([whole.labels_B[first[row] : first[row + 1]] for row in order]))
    alone = view.batch(positions[7:8], replicas[7:8])
    assert torch.equal(alone.inputs_B, whole.inputs_B[7:8])


def test_remasking_twice_is_the_second_one() -> None:
    source = SOURCES["from m"]
    inputs, labels = source.load().inputs(np.arange(20)), source.load().labels_at(np.arange(20))
    draws = [Draws(0, np.arange(20), np.zeros(20, np.int64), place) for place in range(2)]
    once = source.remasked(*source.remasked(inputs, labels, draws[0]), draws[1])
    direct = source.remasked(inputs, labels, draws[1])
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(once, direct, strict=True))


def digest() -> str:
    """Of everything that is hidden."""
    samples = [remasked(source, 3).inputs_B for source in SOURCES.values()]
    return fingerprint([*samples, *(shown(source)[1] for source in SOURCES.values())])


def test_another_process_hides_the_same() -> None:
    program = f"import sys; sys.path.insert(0, {str(__file__.rsplit('/', 1)[0])!r}); import test_masked as m; print(m.digest())"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert run.stdout.strip() == digest(), run.stderr


def test_a_network_answers_at_what_is_hidden_and_nowhere_else() -> None:
    source = SOURCES["from m"]
    network = BERT(
        depth=1, heads=1, head_width=4, vocabulary=source.vocabulary, classes=source.classes, shape=source.shape
    ).build()
    sample = remasked(source, 0, size=10)
    assert network(sample.inputs_B, ("logits",))["logits"].shape == (len(sample.labels_B), source.classes)


# --- mistakes


IMAGES = Dataset(Digits())
VECTORS = Dataset(Arrays(np.zeros((20, 3)), np.arange(20) % 2))
TOKENS = Dataset(SOURCES["from m"])


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda: Masked(PCFG(), 0), "Masked has rate=0: above 0 and below 1 would be right"),
        (lambda: Masked(PCFG(), 1.0), "rate=1.0"),
        (lambda: Remasked(3, 1.5), "Remasked has rate=1.5"),
        (lambda: Masked(Digits()), "a Digits of 0 tokens and 10 classes"),
        (lambda: Masked(ParityTokens(Parity(5, 2))), "a ParityTokens of 3 tokens and 2 classes"),
        (lambda: Masked(SOURCES["from m"]), "a Masked of 4 tokens and 3 classes"),
        (lambda: View(IMAGES, (Remasked(3),)), "changes tokens, and the rows of Digits are others"),
        (lambda: View(VECTORS, (Remasked(3),)), "changes tokens, and the rows of Arrays are others"),
        (lambda: View(TOKENS, (Crop(2),)), "changes numbers, and the rows of Masked are others"),
        (lambda: View(TOKENS, (Mixup(),)), "changes numbers, and the rows of Masked are others"),
    ],
)
def test_a_mistake_is_refused_in_one_line(write, words: str) -> None:
    with pytest.raises(ValueError, match=words) as error:
        write()
    assert "\n" not in str(error.value)
