"""Distillation by KL: closed forms and limits of METHODS, section 5."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from laws import draws_of, random_batch, topk_of

from raykd.methods.kl import KL, JensenShannon, ReverseKL
from raykd.signals import LOGITS
from raykd.sparse import Sparse


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


def coarse_log(logits_BC: torch.Tensor, ids_BK: torch.Tensor, tau: float) -> torch.Tensor:
    """On the stored classes and the rest, through all of the classes: float64 and differentiable."""
    p_BC = (logits_BC.double() / tau).softmax(-1)
    stored_BK = p_BC.gather(1, ids_BK)
    return torch.cat([stored_BK, 1 - stored_BK.sum(1, keepdim=True)], 1).log()


def dense_form(divergence: object, log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    """The three formulas for log-probabilities."""
    log_m = torch.log((log_p.exp() + log_q.exp()) / 2)
    return {
        KL(): (log_p.exp() * (log_p - log_q)).sum(1),
        ReverseKL(): (log_q.exp() * (log_q - log_p)).sum(1),
        JensenShannon(): ((log_p.exp() * (log_p - log_m)) + (log_q.exp() * (log_q - log_m))).sum(1) / 2,
    }[divergence]


EACH = pytest.mark.parametrize("divergence", [KL(), ReverseKL(), JensenShannon()], ids=str)


@EACH
@pytest.mark.parametrize("tau", [1.0, 4.0])
def test_a_sparse_teacher_gives_the_value_and_the_gradient_of_the_coarser_distributions(
    divergence: KL | ReverseKL | JensenShannon, tau: float
) -> None:
    student, teacher, labels_B = pair()
    sparse = topk_of(teacher, k=3)
    found_B = divergence(student, sparse, labels_B, torch.full((5,), tau))
    expected_B = tau**2 * dense_form(
        divergence, coarse_log(teacher, sparse.ids_BK, tau), coarse_log(student, sparse.ids_BK, tau)
    )
    torch.testing.assert_close(found_B.double(), expected_B, rtol=1e-4, atol=1e-5)
    (found,), (expected,) = (torch.autograd.grad(value.sum(), student) for value in (found_B, expected_B))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@EACH
def test_the_gradient_from_a_sparse_teacher_is_that_of_finite_differences(
    divergence: KL | ReverseKL | JensenShannon,
) -> None:
    student, teacher, labels_B = pair(scale=1.0)
    sparse, tau_B, step = topk_of(teacher, k=2), torch.full((5,), 2.0), 2.0**-5
    (gradient,) = torch.autograd.grad(divergence(student, sparse, labels_B, tau_B).sum(), student)
    for place in range(5):
        moved = torch.zeros_like(student)
        moved[:, place] = step
        up_B, down_B = (divergence(student.detach() + s * moved, sparse, labels_B, tau_B) for s in (1, -1))
        torch.testing.assert_close((up_B - down_B) / (2 * step), gradient[:, place], rtol=1e-2, atol=1e-3)


@EACH
@pytest.mark.parametrize("tau", [1.0, 4.0])
def test_storing_more_classes_never_lowers_it_and_all_of_them_give_the_dense_value(
    divergence: KL | ReverseKL | JensenShannon, tau: float
) -> None:
    batch = random_batch(rows=40, classes=12)
    student, teacher, labels_B = batch.student[LOGITS], batch.teachers["a"][LOGITS], batch.labels_B
    tau_B = torch.full((40,), tau)
    dense_B = divergence(student, teacher, labels_B, tau_B)
    values_KB = [divergence(student, topk_of(teacher, k=k), labels_B, tau_B) for k in range(1, 12)]
    whole = topk_of(teacher, k=12)
    assert (whole.tails_BS == -torch.inf).all()
    values_KB.append(divergence(student, whole, labels_B, tau_B))
    for fewer_B, more_B in itertools.pairwise(values_KB):
        assert (fewer_B <= more_B + 1e-4).all()
    torch.testing.assert_close(values_KB[-1], dense_B, rtol=1e-4, atol=1e-5)
    (found,), (expected,) = (torch.autograd.grad(value.sum(), student) for value in (values_KB[-1], dense_B))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_from_draws_it_is_the_cross_entropy_with_them_less_their_entropy() -> None:
    student, teacher, labels_B = pair()
    drawn = draws_of(teacher, draws=6)
    share_BC = np.zeros((5, 5))
    for row, (ids_K, values_K) in enumerate(zip(drawn.ids_BK.tolist(), drawn.values_BK.tolist(), strict=True)):
        for place, value in zip(ids_K, values_K, strict=True):
            share_BC[row, place] += math.exp(value)
    np.testing.assert_allclose(share_BC.sum(1), 1, rtol=1e-6)
    log_share = np.log(np.where(share_BC > 0, share_BC, 1))
    expected = (share_BC * (log_share - np.log(softmax64(student, 1.0)))).sum(1)
    value_B = KL()(student, drawn, labels_B, torch.ones(5))
    np.testing.assert_allclose(value_B.detach(), expected, rtol=1e-4)
    (gradient,) = torch.autograd.grad(value_B.sum(), student)
    np.testing.assert_allclose(gradient, softmax64(student, 1.0) - share_BC, atol=1e-5)


@EACH
def test_extreme_teachers_and_students_stay_finite_though_their_tails_are_nothing(
    divergence: KL | ReverseKL | JensenShannon,
) -> None:
    student = torch.tensor([[300.0, 0.0, -300.0, 5.0], [0.0, 0.0, 0.0, 0.0]]).requires_grad_()
    nothing = torch.tensor([[-torch.inf], [-torch.inf]])
    ids_BK = torch.tensor([[0, 1, 2, 3], [3, 2, 1, 0]])
    teachers = [
        topk_of(torch.tensor([[-300.0, 0.0, 300.0, 1.0], [300.0, -300.0, -300.0, -300.0]]), k=2),
        Sparse(ids_BK, torch.tensor([[300.0, 0.0, -300.0, 1.0]] * 2), nothing, (1.0,), 4),
    ]
    for teacher in teachers:
        value_B = divergence(student, teacher, torch.zeros(2, dtype=torch.long), torch.ones(2))
        (gradient,) = torch.autograd.grad(value_B.sum(), student)
        assert torch.isfinite(value_B).all()
        assert torch.isfinite(gradient).all()
