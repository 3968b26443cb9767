"""Splits: disjoint, covering, stratified, and a function of ids alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from source_cases import noise

from raykd.data import Arrays, Dataset, Digits
from raykd.identity import fingerprint

NAMES = ("train", "validation", "test")


def vectors(labels: np.ndarray, ids: np.ndarray | None = None) -> Arrays:
    return Arrays(np.zeros((len(labels), 1), np.float32), labels, ids, classes=int(labels.max()) + 1)


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=12),
    validation=st.floats(0.05, 0.5),
    holdout=st.floats(0.05, 0.5),
    seed=st.integers(0, 5),
)
def test_splits_are_disjoint_cover_everything_and_keep_the_shares_of_classes(sizes, validation, holdout, seed) -> None:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    total = len(labels)
    tested = round(holdout * total)
    expected = {"test": tested, "validation": round(validation * (total - tested))}
    expected["train"] = total - sum(expected.values())
    if min(expected.values()) == 0:
        return
    dataset = Dataset(vectors(labels), validation=validation, holdout=holdout, seed=seed)
    splits = {name: dataset.split(name) for name in NAMES}
    assert {name: len(rows) for name, rows in splits.items()} == expected
    assert sorted(np.concatenate([rows.ids for rows in splits.values()])) == list(range(total))
    for rows in splits.values():
        assert rows.labels.tolist() == labels[rows.ids].tolist()
        counts = np.bincount(rows.labels, minlength=len(sizes))
        assert (np.abs(counts - np.array(sizes) * len(rows) / total) <= 2).all()


def test_membership_and_order_do_not_depend_on_the_order_of_storage() -> None:
    labels, ids = np.arange(300) % 7, np.arange(300) * 11
    order = np.random.default_rng(0).permutation(300)
    one, other = Dataset(vectors(labels, ids)), Dataset(vectors(labels[order], ids[order]))
    for name in NAMES:
        assert one.split(name).ids.tolist() == other.split(name).ids.tolist()


def test_another_seed_cuts_otherwise_and_the_same_seed_the_same() -> None:
    cuts = [set(Dataset(Digits(), seed=seed).split("test").ids) for seed in (0, 0, 1)]
    assert cuts[0] == cuts[1]
    assert len(cuts[0] & cuts[2]) == pytest.approx(0.2 * len(cuts[0]), abs=40)


def test_added_rows_move_few_others() -> None:
    labels = np.arange(2000) % 10
    before, after = (Dataset(vectors(labels[:size])).split("test") for size in (1980, 2000))
    assert len(set(before.ids) - set(after.ids)) <= 20


def test_any_block_of_the_train_split_is_a_random_sample_of_its_classes() -> None:
    rows = Dataset(Digits()).split("train")
    for start in range(0, len(rows) - 256, 256):
        counts = np.bincount(rows.labels[start : start + 256], minlength=10)
        assert np.abs(counts - 25.6).max() < 5 * 25.6**0.5
    # and of the ids, which the source has in the order it was recorded
    ranks = np.corrcoef(np.arange(len(rows)), rows.ids)[0, 1]
    assert abs(ranks) < 4 / len(rows) ** 0.5


def test_a_limit_takes_that_many_training_rows_stratified_and_leaves_the_other_splits() -> None:
    whole = Dataset(Digits())
    previous: set[int] = set()
    for limit in (50, 200, 1000):
        small = Dataset(Digits(), limit=limit)
        rows = small.split("train")
        assert len(rows) == limit
        assert previous < set(rows.ids) < set(whole.split("train").ids)
        assert np.abs(np.bincount(rows.labels, minlength=10) - limit / 10).max() <= limit / 100 + 2
        assert small.split("test").ids.tolist() == whole.split("test").ids.tolist()
        assert small.split("validation").ids.tolist() == whole.split("validation").ids.tolist()
        previous = set(rows.ids)


def test_a_test_source_is_the_whole_test_split_and_gives_nothing_to_the_others() -> None:
    test = Arrays(noise(30, 1, 8, 8), np.arange(30) % 10)
    dataset = Dataset(Digits(), test)
    dataset.check()
    assert sorted(dataset.split("test").ids) == list(range(30))
    assert dataset.split("test").ids.tolist() != list(range(30))
    assert len(dataset.split("validation")) == 180
    assert len(dataset.split("train")) == 1797 - 180
    assert torch.equal(dataset.split("test").inputs(np.array([4])), test.load().inputs(dataset.split("test").ids[[4]]))


def test_splits_are_remembered_also_for_an_equal_dataset() -> None:
    assert Dataset(Digits()).split("train") is Dataset(Digits()).split("train")


def test_a_dataset_has_the_classes_and_shape_of_its_source_and_its_own_fingerprint() -> None:
    assert (Dataset(Digits()).classes, Dataset(Digits()).shape) == (10, (1, 8, 8))
    variants = [
        Dataset(Digits(), **change)
        for change in ({}, {"seed": 1}, {"validation": 0.2}, {"limit": 9}, {"test": Digits()})
    ]
    assert len({fingerprint(dataset) for dataset in variants}) == 5
