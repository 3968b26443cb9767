"""DIST: correlations by numpy, their invariances, and rows and classes that do not vary."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from laws import random_batch

from raykd.methods.dist import DIST, uncorrelated
from raykd.signals import LOGITS


def given(rows: int = 6, classes: int = 5) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    batch = random_batch(rows=rows, classes=classes)
    return batch.student[LOGITS], batch.teachers["a"][LOGITS], batch.labels_B


@pytest.mark.parametrize("tau", [1.0, 4.0])
@pytest.mark.parametrize(("beta", "gamma"), [(1.0, 1.0), (1.0, 0.0), (0.0, 1.0), (2.0, 0.5)])
def test_its_mean_is_one_minus_the_correlations_within_rows_and_within_classes(
    beta: float, gamma: float, tau: float
) -> None:
    student, teacher, labels_B = given()
    q, p = ((z.detach().double() / tau).softmax(-1).numpy() for z in (student, teacher))
    rows_B = np.array([1 - np.corrcoef(q[b], p[b])[0, 1] for b in range(6)])
    classes = np.mean([1 - np.corrcoef(q[:, c], p[:, c])[0, 1] for c in range(5)])
    found_B = DIST(beta, gamma)(student, teacher, labels_B, torch.full((6,), tau)).detach()
    np.testing.assert_allclose(found_B, tau**2 * (beta * rows_B + gamma * classes), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found_B.mean(), tau**2 * (beta * rows_B.mean() + gamma * classes), rtol=1e-4)


def test_the_part_of_the_classes_is_the_same_number_in_every_row() -> None:
    student, teacher, labels_B = given()
    value_B = DIST(0.0, 1.0)(student, teacher, labels_B, torch.full((6,), 2.0))
    torch.testing.assert_close(value_B, value_B[:1].expand(6))
    assert value_B[0] > 0


@pytest.mark.parametrize("dim", [0, 1])
def test_a_correlation_is_blind_to_positive_affine_maps_of_each_line_and_turned_by_negative_ones(dim: int) -> None:
    x, y = torch.rand(6, 5), torch.rand(6, 5)
    shape = (1, 5) if dim == 0 else (6, 1)
    a, b = 0.1 + 10 * torch.rand(shape), torch.randn(shape)
    plain = uncorrelated(x, y, dim)
    torch.testing.assert_close(uncorrelated(a * x + b, y, dim), plain, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(uncorrelated(x, a * y + b, dim), plain, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(uncorrelated(-a * x + b, y, dim), 2 - plain, rtol=1e-3, atol=1e-4)


def test_a_student_whose_probabilities_are_an_affine_map_of_the_teachers_is_perfect() -> None:
    p = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.2, 0.3, 0.5], [0.3, 0.4, 0.3]])
    q = 0.25 * p + 0.25  # rows sum to one again
    value_B = DIST()(q.log(), p.log(), torch.zeros(4, dtype=torch.long), torch.ones(4))
    torch.testing.assert_close(value_B, torch.zeros(4), atol=1e-5, rtol=0)


def test_shifting_all_logits_of_a_row_changes_nothing() -> None:
    student, teacher, labels_B = given()
    tau_B = torch.full((6,), 2.0)
    torch.testing.assert_close(
        DIST()(student + 7, teacher - 3, labels_B, tau_B), DIST()(student, teacher, labels_B, tau_B)
    )


def test_the_opposite_of_the_teacher_costs_two_of_each_part() -> None:
    student, teacher = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    value_B = DIST(3.0, 5.0)(student, teacher, torch.zeros(2, dtype=torch.long), torch.ones(2))
    torch.testing.assert_close(value_B, torch.full((2,), 16.0))


def test_what_does_not_vary_is_no_more_than_half_wrong_and_its_gradient_is_finite() -> None:
    _, teacher, labels_B = given()
    flat, ones_B = torch.zeros(6, 5).requires_grad_(), torch.ones(6)
    half_B = DIST()(flat, teacher, labels_B, ones_B)
    torch.testing.assert_close(half_B, torch.ones(6), rtol=1e-4, atol=0)
    (gradient,) = torch.autograd.grad(half_B.sum(), flat)
    assert torch.isfinite(gradient).all()
    assert gradient.abs().sum() > 0
    both_B = DIST()(flat, torch.ones(6, 5), labels_B, ones_B)
    (gradient,) = torch.autograd.grad(both_B.sum(), flat)
    assert (both_B == 0).all()
    assert torch.isfinite(gradient).all()


def test_one_row_alone_has_no_relation_to_others() -> None:
    student, teacher, labels_B = given(rows=1)
    assert (DIST(0.0, 1.0)(student, teacher, labels_B, torch.ones(1)) == 0).all()
    assert (DIST(1.0, 0.0)(student, teacher, labels_B, torch.ones(1)) > 0).all()


@pytest.mark.parametrize("weights", [{"beta": -1.0}, {"gamma": math.nan}])
def test_a_weight_that_is_none_is_refused(weights: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(weights))}=.* of DIST"):
        DIST(**weights)
