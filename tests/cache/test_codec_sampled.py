"""Draws from a teacher: unbiased, of no more variance than independent ones, and a function of their coordinates.

Statistical bounds are six standard deviations: a fair sample passes all comparisons of this file but for one in 10^6.
"""

import numpy as np
import pytest
import torch

from raykd.cache.codecs import Sampled
from raykd.methods.kl import KL

CLASSES, ROWS = 40, 20_000


def teacher(scale=2.0):
    return np.random.default_rng(3).normal(0, scale, CLASSES).astype(np.float32)


def softmax(values):
    p = np.exp(values.astype(np.float64) - values.max())
    return p / p.sum()


def drawn(codec, values_C, rows=ROWS):
    """Share of the draws of each class, for many rows of one teacher. [rows, C]"""
    ids_RN = codec.encode(np.tile(values_C, (rows, 1)), np.arange(rows), 0)["ids"]
    return np.stack([np.bincount(ids_N, minlength=len(values_C)) for ids_N in ids_RN]) / codec.draws


@pytest.mark.parametrize("codec", [Sampled(), Sampled(draws=1), Sampled(draws=7, seed=5)], ids=repr)
def test_every_linear_functional_is_unbiased_and_of_the_stated_variance(codec):
    p_C, share_RC = softmax(teacher()), drawn(codec, teacher())
    functionals_FC = np.vstack([np.eye(CLASSES), np.random.default_rng(0).normal(size=(10, CLASSES)), -np.log(p_C)])
    found_RF, expected_F = share_RC @ functionals_FC.T, functionals_FC @ p_C
    variance_F = ((functionals_FC - expected_F[:, None]) ** 2) @ p_C / codec.draws
    assert (np.abs(found_RF.mean(0) - expected_F) <= 6 * np.sqrt(variance_F / ROWS)).all()
    # a sample's variance has a deviation of its own, of sqrt((kurtosis - 1) / ROWS)
    deviation_F = np.sqrt(
        ((functionals_FC - expected_F[:, None]) ** 4) @ p_C / variance_F**2 / codec.draws / ROWS + 2 / ROWS
    )
    assert (found_RF.var(0) <= variance_F * (1 + 6 * deviation_F)).all()


def test_likely_classes_are_never_missed():
    p_C, share_RC = softmax(teacher()), drawn(Sampled(), teacher(), rows=500)
    assert (share_RC * 18 >= np.floor(18 * p_C) - 1).all()
    assert (share_RC * 18 <= np.ceil(18 * p_C) + 1).all()


def test_the_gradient_of_kl_is_that_of_the_dense_teacher_in_expectation():
    codec, p_C = Sampled(), softmax(teacher())
    columns = codec.encode(np.tile(teacher(), (ROWS, 1)), np.arange(ROWS), 0)
    read = codec.decode({name: torch.from_numpy(array) for name, array in columns.items()}, (CLASSES,))
    logits_BC = torch.from_numpy(np.random.default_rng(1).normal(size=(1, CLASSES)).astype(np.float32))
    logits_BC = logits_BC.repeat(ROWS, 1).requires_grad_()
    loss = KL()(logits_BC, read, torch.zeros(ROWS, dtype=torch.long), torch.ones(ROWS)).sum()
    (gradient_BC,) = torch.autograd.grad(loss, logits_BC)
    expected_C = softmax(logits_BC[0].detach().numpy()) - p_C
    error_C = np.sqrt(p_C * (1 - p_C) / codec.draws / ROWS)
    assert (np.abs(gradient_BC.double().mean(0).numpy() - expected_C) <= 6 * error_C + 1e-6).all()


def test_draws_are_a_function_of_seed_row_and_replica_alone():
    values_R, ids_R = np.tile(teacher(), (50, 1)), np.arange(50) + 100
    draws = Sampled().encode(values_R, ids_R, 0)["ids"]
    assert (Sampled().encode(values_R[::-1], ids_R[::-1], 0)["ids"] == draws[::-1]).all()
    assert (draws[0] != draws[1]).any()
    for other in (Sampled().encode(values_R, ids_R, 1), Sampled(seed=1).encode(values_R, ids_R, 0)):
        assert (other["ids"] != draws).any(1).mean() > 0.9


def test_a_class_without_mass_is_never_drawn():
    values_R = np.full((2000, 5), -1e4, np.float32)
    values_R[:, 2] = 0
    assert (Sampled().encode(values_R, np.arange(2000), 0)["ids"] == 2).all()


def test_what_is_read_is_the_share_of_draws_and_one_row_takes_36_bytes():
    codec = Sampled()
    read = codec.decode({"ids": torch.tensor([[3] * 9 + [5] * 6 + [7] * 3], dtype=torch.int16)}, (10,))
    p = read.log_probabilities(torch.ones(1)).exp()
    assert p[0, [0, 9, 15]].tolist() == pytest.approx([1 / 2, 1 / 3, 1 / 6])
    assert float(p.sum()) == pytest.approx(1)
    labels_B = torch.tensor([3, 5, 4])
    assert read[[0, 0, 0]].probability_of(labels_B).tolist() == pytest.approx([1 / 2, 1 / 3, 0])
    assert codec.bytes_per_row((16_384,)) == 36
    assert codec.kl_bound(np.zeros((3, 4), np.float32)).tolist() == [np.inf] * 3
