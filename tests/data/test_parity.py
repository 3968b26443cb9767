"""Sparse parity: rows that are a function of (seed, id), labels that are products of signs, replicas that are new rows."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from raykd import tokens
from raykd.data import Dataset, Digits, Parity, ParityTokens, Redrawn, RedrawnTokens, View
from raykd.identity import fingerprint
from raykd.models import BERT, MLP

CASES = [Parity(50, 5, 3000), Parity(7, 7, 500, seed=3), Parity(130, 2, 400, seed=1, first=1000), Parity(1, 1, 64)]

SPOKEN = Dataset(ParityTokens(Parity(5, 2)))


def everything(source: Parity) -> tuple[torch.Tensor, np.ndarray]:
    rows = source.load()
    return rows.inputs(np.arange(len(rows))), rows.labels


@pytest.mark.parametrize("source", CASES, ids=repr)
def test_the_label_says_whether_the_product_of_the_supports_signs_is_positive(source: Parity) -> None:
    inputs, labels = everything(source)
    assert inputs.shape == (source.rows, source.d)
    assert set(inputs.unique().tolist()) <= {-1.0, 1.0}
    assert len(set(source.support)) == source.k
    assert set(source.support) <= set(range(source.d))
    for row, label in zip(inputs.tolist(), labels, strict=True):
        assert label == (math.prod(row[place] for place in source.support) > 0)


def test_signs_are_even_and_independent_of_the_label_one_by_one() -> None:
    inputs, labels = everything(Parity(40, 3, 20_000))
    products = inputs * torch.from_numpy(2 * labels[:, None] - 1)
    bound = 5 / math.sqrt(20_000)
    assert inputs.mean(0).abs().max() < bound
    assert products.mean(0).abs().max() < bound
    correlation = inputs.T @ inputs / 20_000 - torch.eye(40)
    assert correlation.abs().max() < bound + 0.01
    assert abs(labels.mean() - 0.5) < bound


def test_a_row_is_a_function_of_seed_and_id_whatever_source_it_is_in() -> None:
    whole, part = Parity(50, 5, 1000), Parity(50, 5, 300, first=600)
    assert whole.support == part.support
    (inputs, labels), (later, theirs) = everything(whole), everything(part)
    assert torch.equal(inputs[600:900], later)
    assert (labels[600:900] == theirs).all()
    assert part.load().ids.tolist() == list(range(600, 900))


def test_another_seed_is_another_task_with_other_rows() -> None:
    tasks = [Parity(50, 5, 100, seed=seed) for seed in range(20)]
    assert len({task.support for task in tasks}) == 20
    assert len({fingerprint(task) for task in tasks}) == 20
    assert not torch.equal(everything(tasks[0])[0], everything(tasks[1])[0])


def test_every_place_is_in_the_support_as_often_as_others() -> None:
    counts = np.bincount([place for seed in range(2000) for place in Parity(10, 3, 1, seed).support], minlength=10)
    assert np.abs(counts - 600).max() < 5 * math.sqrt(2000 * 0.3 * 0.7)


def test_splits_of_one_source_and_a_test_source_share_no_row() -> None:
    source = Parity(50, 5, 2000)
    dataset = Dataset(source, replace(source, rows=500, first=2000), validation=0.25)
    dataset.check()
    splits = {name: dataset.split(name) for name in ("train", "validation", "test")}  # type: ignore[arg-type]
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 1500, "validation": 500, "test": 500}
    rows = torch.cat([each.inputs(np.arange(len(each))) for each in splits.values()])
    assert len(rows.unique(dim=0)) == 2500


@pytest.mark.parametrize("source", CASES, ids=repr)
def test_a_replica_is_a_new_row_with_the_same_label(source: Parity) -> None:
    view = View(Dataset(source, validation=0.2, holdout=0.2), (source.redrawn,), replicas=4)
    positions = np.arange(len(view.dataset.split("train")))
    shown = [view.batch(positions, np.full_like(positions, replica)) for replica in range(4)]
    for sample in shown:
        assert torch.equal(sample.inputs_B[:, source.support].prod(1) > 0, sample.labels_B > 0)
        assert set(sample.inputs_B.unique().tolist()) <= {-1.0, 1.0}
    if source.d >= 50:
        assert len(torch.cat([sample.inputs_B for sample in shown]).unique(dim=0)) == 4 * len(positions)
    few = view.batch(positions[7:3:-1], np.array([0, 3, 2, 1]))
    expected = [shown[replica].inputs_B[place] for place, replica in zip((7, 6, 5, 4), (0, 3, 2, 1), strict=True)]
    assert torch.equal(few.inputs_B, torch.stack(expected))


def test_redrawn_signs_are_uniform_over_the_rows_of_their_label() -> None:
    source = Parity(3, 2, 16_000)
    view = View(Dataset(source, validation=0.1, holdout=0.1), (source.redrawn,))
    positions = np.arange(len(view.dataset.split("train")))
    sample = view.batch(positions, np.zeros_like(positions))
    numbers = ((sample.inputs_B > 0) * torch.tensor([1, 2, 4])).sum(1)
    for label in (0, 1):
        counts = numbers[sample.labels_B == label].bincount(minlength=8).double()
        there = counts[counts > 0]
        assert len(there) == 4  # half of the eight rows have it
        assert (there - there.mean()).abs().max() < 5 * math.sqrt(there.mean())


def test_a_perceptron_reads_the_signs_as_they_are() -> None:
    inputs, _ = everything(Parity(50, 5, 8))
    network = MLP((4,), classes=2, shape=(50,)).build()
    weights = network.body.layer1[0]
    expected = inputs @ weights.weight.T + weights.bias
    torch.testing.assert_close(network(inputs, ("layer1.0",))["layer1.0"], expected)


# --- as tokens


def spelled(inputs: torch.Tensor) -> torch.Tensor:
    """Signs as tokens, and where an answer is asked."""
    rows = [[*(int(sign > 0) for sign in row), 2] for row in inputs.tolist()]
    return torch.tensor([[row, [0] * (len(row) - 1) + [1]] for row in rows])


@pytest.mark.parametrize("source", CASES, ids=repr)
def test_tokens_are_the_signs_and_one_answer_is_asked_behind_them(source: Parity) -> None:
    spoken = ParityTokens(source)
    spoken.check()
    assert (spoken.classes, spoken.vocabulary, spoken.targets) == (2, 3, 1)
    assert (spoken.shape, spoken.support) == ((2, source.d + 1), source.support)
    (inputs, labels), rows = everything(source), spoken.load()
    assert torch.equal(rows.inputs(np.arange(source.rows)), spelled(inputs))
    assert (rows.labels == labels).all()
    assert (rows.ids == source.load().ids).all()
    assert fingerprint(spoken) != fingerprint(source)
    assert len({fingerprint(ParityTokens(replace(source, seed=seed))) for seed in range(5)}) == 5


@pytest.mark.parametrize("split", ["train", "validation", "test"])
@pytest.mark.parametrize("source", CASES, ids=repr)
def test_a_view_of_tokens_shows_what_one_of_signs_shows_in_every_replica(source: Parity, split) -> None:
    spoken = ParityTokens(source)
    for ours, theirs in (
        ((), ()),
        ((source.redrawn,), (spoken.redrawn,)),
        ((source.redrawn,) * 2, (spoken.redrawn,) * 2),
    ):
        views = [View(Dataset(each), ops, 4, 1) for each, ops in ((source, ours), (spoken, theirs))]  # type: ignore[arg-type]
        positions = np.arange(len(views[0].dataset.split(split)))
        signs, seen = (view.batch(positions, positions % 4, split) for view in views)
        assert torch.equal(seen.inputs_B, spelled(signs.inputs_B))
        assert torch.equal(seen.labels_B, signs.labels_B)
        assert torch.equal(seen.ids_B, signs.ids_B)


def test_a_transformer_answers_once_a_row() -> None:
    source = ParityTokens(Parity(9, 3, 40))
    network = BERT(depth=1, heads=1, head_width=4, vocabulary=3, classes=2, shape=source.shape).build()
    sample = View(Dataset(source), (source.redrawn,)).batch(np.arange(6), np.zeros(6, int))
    assert network(sample.inputs_B, ("logits",))["logits"].shape == (6, 2)
    assert tokens.counts(sample.inputs_B).tolist() == [1] * 6


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda: Parity(5, 6), "k=6 of d=5"),
        (lambda: Parity(5, 0), "k=0 of d=5"),
        (lambda: Parity(5, 2, 0), "rows=0 from the id 0 on"),
        (lambda: Parity(5, 2, first=-1), "from the id -1"),
        (lambda: Redrawn(()), "at least one place"),
        (lambda: Redrawn((2, -1)), r"support=\(2, -1\)"),
        (lambda: View(Dataset(Parity(5, 2)), (Redrawn((5,)),)), r"more than 5 signs, and the inputs have \(5,\)"),
        (lambda: View(Dataset(Digits()), (Redrawn((5,)),)), r"the inputs have \(1, 8, 8\)"),
        (lambda: View(Dataset(Digits()), (RedrawnTokens((5,)),)), "changes tokens, and the rows of Digits are others"),
        (
            lambda: View(Dataset(Parity(5, 2)), (RedrawnTokens((3,)),)),
            "changes tokens, and the rows of Parity are others",
        ),
        (lambda: View(SPOKEN, (Redrawn((3,)),)), "changes numbers, and the rows of ParityTokens are others"),
        (
            lambda: View(SPOKEN, (RedrawnTokens((5,)),)),
            r"more than 5 signs, .* \(5,\)",
        ),
        (lambda: RedrawnTokens(()), "at least one place"),
    ],
)
def test_a_mistake_is_refused_when_it_is_written(write, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        write()
