"""Distillation by KL: closed forms and limits of METHODS, section 5."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from laws import random_batch

from raykd.methods.kl import KL, JensenShannon, ReverseKL
from raykd.signals import LOGITS


def pair(rows: int = 5, scale: float = 2.0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    batch = random_batch(rows=rows, scale=scale)
    return batch.student[LOGITS], batch.teachers["a"][LOGITS], batch.labels_B


def softmax64(logits: torch.Tensor, tau: float) -> np.ndarray:
    z = logits.detach().double().numpy() / tau
    powers = np.exp(z - z.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


@pytest.mark.parametrize("tau", [1.0, 2.5, 8.0])
def test_each_form_agrees_with_its_formula_in_float64(tau: float) -> None:
    student, teacher, labels_B = pair()
    p, q = softmax64(teacher, tau), softmax64(student, tau)
    m = (p + q) / 2
    expected = {
        KL(): (p * np.log(p / q)).sum(1),
        ReverseKL(): (q * np.log(q / p)).sum(1),
        JensenShannon(): ((p * np.log(p / m)).sum(1) + (q * np.log(q / m)).sum(1)) / 2,
    }
    for divergence, value_B in expected.items():
        found_B = divergence(student, teacher, labels_B, torch.full((5,), tau)).detach()
        torch.testing.assert_close(found_B.double(), torch.from_numpy(tau**2 * value_B), rtol=1e-4, atol=1e-6)


def test_the_gradient_of_the_mean_is_tau_times_the_difference_of_probabilities_over_the_batch() -> None:
    student, teacher, labels_B = pair()
    tau = 3.0
    loss = KL()(student, teacher, labels_B, torch.full((5,), tau)).mean()
    (gradient,) = torch.autograd.grad(loss, student)
    expected = tau * (softmax64(student, tau) - softmax64(teacher, tau)) / 5
    torch.testing.assert_close(gradient.double(), torch.from_numpy(expected), rtol=1e-4, atol=1e-6)


def test_at_high_temperature_it_is_the_squared_distance_of_centred_logits_over_twice_the_classes() -> None:
    student, teacher, labels_B = (tensor.detach() for tensor in pair())
    student, teacher = (z - z.mean(1, keepdim=True) for z in (student, teacher))
    value_B = KL()(student, teacher, labels_B, torch.full((5,), 200.0))
    torch.testing.assert_close(value_B, (student - teacher).square().sum(1) / (2 * 5), rtol=0.03, atol=1e-3)


def test_each_row_has_its_own_temperature() -> None:
    student, teacher, labels_B = pair()
    taus_B = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    apart = torch.cat(
        [KL()(student[i : i + 1], teacher[i : i + 1], labels_B[i : i + 1], taus_B[i : i + 1]) for i in range(5)]
    )
    torch.testing.assert_close(KL()(student, teacher, labels_B, taus_B), apart)


def test_shifting_all_logits_of_a_row_changes_nothing() -> None:
    student, teacher, labels_B = pair()
    tau_B = torch.full((5,), 2.0)
    torch.testing.assert_close(KL()(student + 7, teacher - 3, labels_B, tau_B), KL()(student, teacher, labels_B, tau_B))


def test_jensen_shannon_is_symmetric_and_bounded() -> None:
    student, teacher, labels_B = pair(scale=300.0)
    tau_B = torch.ones(5)
    one, other = JensenShannon()(student, teacher, labels_B, tau_B), JensenShannon()(teacher, student, labels_B, tau_B)
    torch.testing.assert_close(one, other)
    assert (one <= math.log(2) + 1e-6).all()


def test_reverse_is_forward_with_the_roles_exchanged() -> None:
    student, teacher, labels_B = pair()
    tau_B = torch.full((5,), 2.0)
    torch.testing.assert_close(ReverseKL()(student, teacher, labels_B, tau_B), KL()(teacher, student, labels_B, tau_B))
