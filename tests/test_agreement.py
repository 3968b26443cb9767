"""Stored and fresh values: float noise agrees in every codec, anything else does not."""

from __future__ import annotations

import numpy as np
import pytest

from raykd.agreement import difference
from raykd.cache.codecs import Codec, DenseF16, DenseU8, Positions, Sampled, TopKF16, TopKU8

CODECS: list[Codec] = [DenseF16(), DenseU8(), TopKF16(8), TopKU8(8), TopKF16(500), Sampled(64)]
NOISE = 2.0**-8
R, C = 64, 200


def logits(seed: int, scale: float = 3.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, scale, (R, C)).astype(np.float32)


def far(codec: Codec, stored: np.ndarray, fresh: np.ndarray) -> np.ndarray:
    ids = np.arange(R)
    return difference(codec, codec.encode(stored, ids, 3), fresh, ids, 3, NOISE)


@pytest.mark.parametrize("scale", [0.01, 3.0, 30.0])
@pytest.mark.parametrize("codec", CODECS, ids=repr)
def test_float_noise_is_agreement(codec, scale):
    fresh = logits(0, scale)
    for level in (0.0, 1e-7, 1e-5, 2e-4):
        noisy = (fresh * (1 + level * np.random.default_rng(1).normal(size=fresh.shape))).astype(np.float32)
        assert (far(codec, noisy, fresh) <= 1).all()


@pytest.mark.parametrize("codec", CODECS, ids=repr)
def test_the_values_of_another_row_or_teacher_are_not(codec):
    fresh = logits(0)
    assert (far(codec, np.roll(fresh, 1, axis=0), fresh) > 1).all()
    assert (far(codec, logits(1), fresh) > 1).all()
    assert (far(codec, -fresh, fresh) > 1).all()


@pytest.mark.parametrize("codec", CODECS[:-1], ids=repr)
def test_values_a_tenth_off_are_not(codec):
    fresh = logits(0)
    assert (far(codec, 1.1 * fresh, fresh) > 1).all()


@pytest.mark.parametrize("codec", [DenseF16(), DenseU8()], ids=repr)
def test_features_of_any_shape_can_be_compared(codec):
    fresh = logits(0).reshape(R, 2, 10, 10)
    assert (far(codec, fresh, fresh) <= 1).all()
    assert (far(codec, fresh + 1, fresh) > 1).all()
    zeros = np.zeros_like(fresh)
    assert (far(codec, zeros, zeros) <= 1).all()
    assert (far(codec, fresh, zeros) > 1).all()


def test_what_is_no_number_agrees_with_nothing():
    fresh = logits(0)
    stored = {"values": np.full((R, C), np.nan, np.float16)}
    assert not (difference(DenseF16(), stored, fresh, np.arange(R), 0, NOISE) <= 1).any()
    fresh[5, 7] = np.nan
    with pytest.raises(ValueError, match="row 5 holds nan"):
        far(DenseF16(), logits(0), fresh)


@pytest.mark.parametrize("codec", CODECS, ids=repr)
def test_of_several_positions_the_worst_one_counts(codec):
    fresh = logits(0).reshape(R // 4, 4, C)
    fresh[3, 2:] = np.nan
    ids = np.arange(len(fresh))

    def off(stored: np.ndarray) -> np.ndarray:
        positions = Positions(codec)
        return difference(positions, positions.encode(stored, ids, 3), fresh, ids, 3, NOISE)

    assert (off(fresh) <= 1).all()
    other = fresh.copy()
    other[5, 1] = -other[5, 1]
    other[3, 1] = np.nan  # one position fewer
    assert np.flatnonzero(off(other) > 1).tolist() == [3, 5]
