"""Probabilistic knowledge transfer: the paper's formula, rotations, opposite rows and rows of nothing."""

from __future__ import annotations

import math

import pytest
import torch

from raykd.methods.pkt import PKT


def apply(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    return PKT()(student, teacher, torch.zeros(len(student), dtype=torch.long), torch.ones(len(student)))


def neighbours(rows: torch.Tensor) -> list[dict[int, float]]:
    """p(j | i) for each i, of its cosines with the others."""
    found = []
    for i, x in enumerate(rows.double()):
        others = {j: (float(x @ y / (x.norm() * y.norm())) + 1) / 2 for j, y in enumerate(rows.double()) if j != i}
        found.append({j: kernel / sum(others.values()) for j, kernel in others.items()})
    return found


def test_the_mean_of_the_shares_is_the_mean_over_all_pairs() -> None:
    student, teacher = torch.randn(6, 4), torch.randn(6, 7)
    found_B, total = apply(student, teacher), 0.0
    for row, (q, p) in enumerate(zip(neighbours(student), neighbours(teacher), strict=True)):
        divergence = sum(p[j] * math.log(p[j] / q[j]) for j in p)
        total += divergence
        assert float(found_B[row]) == pytest.approx(divergence / 6, rel=1e-3)
    assert float(found_B.mean()) == pytest.approx(total / 6**2, rel=1e-3)


def test_rotations_and_the_length_of_each_row_do_not_matter() -> None:
    student, teacher = torch.randn(6, 4), torch.randn(6, 7)
    rotation, _ = torch.linalg.qr(torch.randn(4, 4))
    lengths = torch.rand(6, 1) + 0.1
    value_B = apply(student, teacher)
    torch.testing.assert_close(apply(student @ rotation, teacher), value_B, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(apply(lengths * student, 9 * lengths * teacher), value_B, rtol=1e-3, atol=1e-6)


def test_one_or_two_rows_leave_no_choice() -> None:
    assert not apply(torch.randn(1, 4), torch.randn(1, 7)).any()
    torch.testing.assert_close(apply(torch.randn(2, 4), torch.randn(2, 7)), torch.zeros(2), atol=1e-6, rtol=0)


def test_a_row_of_nothing_is_as_near_to_every_other() -> None:
    student, teacher = torch.randn(4, 5), torch.randn(4, 5)
    student[0] = 0
    p = neighbours(teacher)[0]
    expected = sum(p[j] * math.log(p[j] * 3) for j in p) / 4
    assert float(apply(student, teacher)[0]) == pytest.approx(expected, rel=1e-3)


def test_opposite_rows_have_a_finite_cost_and_gradient() -> None:
    student = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]], requires_grad=True)
    teacher = torch.tensor([[1.0, 0.0], [1.0, 0.1], [-1.0, 0.0]])
    value_B = apply(student, teacher)
    (gradient,) = torch.autograd.grad(value_B.sum(), student)
    assert value_B.isfinite().all()
    assert gradient.isfinite().all()
