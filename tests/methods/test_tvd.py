"""Total variation: its formula, its bounds, and a teacher of which a few classes are stored."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from laws import random_batch, topk_of

from raykd.methods.kl import KL
from raykd.methods.tvd import TVD
from raykd.signals import LOGITS


def pair(rows: int = 5, classes: int = 5, scale: float = 2.0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    batch = random_batch(rows=rows, classes=classes, scale=scale)
    return batch.student[LOGITS], batch.teachers["a"][LOGITS], batch.labels_B


@pytest.mark.parametrize("tau", [1.0, 2.5, 8.0])
def test_it_is_half_the_sum_of_absolute_differences(tau: float) -> None:
    student, teacher, labels_B = pair()
    p, q = ((z.detach().double() / tau).softmax(-1) for z in (teacher, student))
    expected_B = [tau**2 * sum(abs(p[b, c] - q[b, c]) for c in range(5)) / 2 for b in range(5)]
    found_B = TVD()(student, teacher, labels_B, torch.full((5,), tau))
    np.testing.assert_allclose(found_B.detach(), expected_B, rtol=1e-5)


def test_of_two_classes_it_is_the_difference_of_one_probability() -> None:
    student, teacher = torch.tensor([[2.0, 0.0]]), torch.tensor([[-1.0, 0.0]])
    expected_B = 9 * (torch.tensor([2 / 3]).sigmoid() - torch.tensor([-1 / 3]).sigmoid())
    found_B = TVD()(student, teacher, torch.zeros(1, dtype=torch.long), torch.tensor([3.0]))
    torch.testing.assert_close(found_B, expected_B)


def test_it_is_symmetric_and_obeys_the_triangle_inequality() -> None:
    student, teacher, labels_B = pair(rows=64)
    third, tau_B = random_batch(rows=64).teachers["b"][LOGITS], torch.full((64,), 2.0)
    one_B, other_B = TVD()(student, teacher, labels_B, tau_B), TVD()(teacher, student, labels_B, tau_B)
    torch.testing.assert_close(one_B, other_B)
    assert (one_B <= TVD()(student, third, labels_B, tau_B) + TVD()(third, teacher, labels_B, tau_B) + 1e-5).all()


def test_it_is_at_most_tau_squared_which_distributions_without_overlap_reach() -> None:
    student, teacher = torch.tensor([[300.0, 0.0, 0.0]]), torch.tensor([[0.0, 0.0, 300.0]])
    found_B = TVD()(student, teacher, torch.zeros(1, dtype=torch.long), torch.tensor([2.0]))
    torch.testing.assert_close(found_B, torch.tensor([4.0]))


def test_its_square_is_at_most_half_of_kl() -> None:
    # Pinsker's inequality, at tau 1
    student, teacher, labels_B = pair(rows=64)
    ones_B = torch.ones(64)
    assert (2 * TVD()(student, teacher, labels_B, ones_B) ** 2 <= KL()(student, teacher, labels_B, ones_B) + 1e-5).all()


def test_storing_more_classes_never_lowers_it_and_all_of_them_give_the_dense_value() -> None:
    student, teacher, labels_B = pair(rows=40, classes=12)
    tau_B = torch.full((40,), 4.0)
    values = [TVD()(student, topk_of(teacher, k=k), labels_B, tau_B) for k in range(1, 13)]
    assert all((fewer <= more + 1e-4).all() for fewer, more in itertools.pairwise(values))
    torch.testing.assert_close(values[-1], TVD()(student, teacher, labels_B, tau_B), rtol=1e-4, atol=1e-5)
