"""Between sequences and the rows that they stand for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from raykd import tokens

COUNTS = np.array([2, 0, 3])
IDS = np.array([7, 8, 9])


def test_what_is_padded_comes_back() -> None:
    values_M = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    padded_BK = tokens.padded(values_M, COUNTS, 3, IDS)
    assert padded_BK.shape == (3, 3, 4)
    assert np.isnan(padded_BK).all(2).sum(1).tolist() == [1, 3, 0]
    back_M = tokens.unpadded(torch.from_numpy(padded_BK), torch.from_numpy(COUNTS))
    assert torch.equal(back_M, torch.from_numpy(values_M))


def test_the_sequence_of_a_value_that_is_no_number_is_named() -> None:
    values_M = np.zeros((5, 4), np.float32)
    values_M[3, 1] = np.nan
    with pytest.raises(ValueError, match="row 9 holds nan"):
        tokens.padded(values_M, COUNTS, 3, IDS)


def test_long_sequences_go_in_smaller_batches_and_images_do_not() -> None:
    assert tokens.at_once(128, (3, 32, 32)) == tokens.at_once(128, (50,)) == 128
    assert [tokens.at_once(128, (2, length)) for length in (16, 256, 10_000)] == [128, 8, 1]
