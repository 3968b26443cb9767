"""Random numbers as pure functions of their coordinates."""

from __future__ import annotations

import math

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest, norm

from raykd import rng


def test_the_mixing_function_is_that_of_splitmix64() -> None:
    # first outputs of the published generator for the seed 1234567
    state, outputs = np.uint64(1234567), []
    with np.errstate(over="ignore"):
        for _ in range(3):
            outputs.append(int(rng._mix(state)))
            state = state + rng.GOLDEN
    assert outputs == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@given(st.integers(-(2**63), 2**63 - 1), st.lists(st.integers(0, 2**62), min_size=1, max_size=20))
def test_a_number_depends_on_its_coordinates_alone(seed: int, ids: list[int]) -> None:
    together = rng.bits(seed, np.array(ids), 3)
    alone = [int(rng.bits(seed, one, 3)) for one in ids]
    assert together.tolist() == alone


@given(st.integers(-(2**63), 2**63 - 1), st.lists(st.integers(0, 2**62), min_size=1, max_size=20))
def test_numbers_drawn_where_tensors_lie_are_the_same(seed: int, ids: list[int]) -> None:
    drawn = rng.bits_there(seed, torch.tensor(ids)[:, None], 3, torch.arange(4))
    assert drawn.numpy().astype(np.uint64).tolist() == rng.bits(seed, np.array(ids)[:, None], 3, np.arange(4)).tolist()


def test_coordinates_broadcast_and_their_order_matters() -> None:
    assert rng.bits(1, np.arange(4)[:, None], np.arange(3)).shape == (4, 3)
    assert int(rng.bits(1, 2)) != int(rng.bits(2, 1))
    assert len(np.unique(rng.bits(0, np.arange(1000)[:, None], np.arange(1000)))) == 10**6


def test_uniform_numbers_fill_the_unit_interval_evenly_and_are_uncorrelated() -> None:
    ids = np.arange(200_000)
    one, other = rng.uniform(0, ids, 0), rng.uniform(0, ids, 1)
    assert one.min() >= 0
    assert one.max() < 1
    counts = np.histogram(one, bins=20, range=(0, 1))[0]
    assert np.square(counts - 10_000).sum() / 10_000 < 45.3  # chi-squared with 19 degrees of freedom, p = .0006
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.01
    assert abs(np.corrcoef(one[:-1], one[1:])[0, 1]) < 0.01


def test_a_permutation_has_each_number_once_and_changes_with_its_coordinates() -> None:
    order = rng.permutation(1000, 7, 0)
    assert sorted(order) == list(range(1000))
    assert order.tolist() != rng.permutation(1000, 7, 1).tolist()
    assert order.tolist() == rng.permutation(1000, 7, 0).tolist()


def test_normal_numbers_are_box_and_mullers_of_two_uniform_ones() -> None:
    ids = np.arange(3000)
    expected = [
        math.sqrt(-2 * math.log(1 - u)) * math.cos(2 * math.pi * v - math.pi)
        for u, v in zip(rng.uniform(5, ids, 0).tolist(), rng.uniform(5, ids, 1).tolist(), strict=True)
    ]
    np.testing.assert_allclose(rng.normal(5, ids), expected, rtol=0, atol=1e-13)


def test_normal_numbers_are_normal_and_uncorrelated() -> None:
    drawn = rng.normal(3, np.arange(400)[:, None], np.arange(250))
    assert kstest(drawn.ravel(), norm.cdf).pvalue > 0.001
    assert abs(np.mean(drawn**4) - 3) < 5 * math.sqrt(96 / drawn.size)
    assert abs(np.corrcoef(drawn[:, :-1].ravel(), drawn[:, 1:].ravel())[0, 1]) < 0.02
    assert abs(np.corrcoef(drawn.ravel(), rng.normal(4, np.arange(400)[:, None], np.arange(250)).ravel())[0, 1]) < 0.02


def test_logarithm_and_cosine_are_right_to_the_fourteenth_digit_where_they_are_used() -> None:
    x = np.concatenate([rng.uniform(1, np.arange(5000)) + 2.0**-53, [2.0**-53, 0.5, np.nextafter(0.5, 0), 1.0]])
    np.testing.assert_allclose(rng._log(x), np.log(x), rtol=1e-14, atol=1e-15)
    angle = np.linspace(-math.pi, math.pi, 5001)
    np.testing.assert_allclose(rng._cos(angle), np.cos(angle), rtol=0, atol=1e-14)
