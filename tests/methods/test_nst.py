"""NST: the squared MMD as its double sums over channels, and what it does not depend on."""

from __future__ import annotations

import pytest
import torch

from raykd.methods.nst import NST


def apply(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    return NST()(student, teacher, torch.zeros(len(student), dtype=torch.long), torch.ones(len(student)))


def mean_kernel(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The mean of (x . y)^2 over all pairs of channels of two maps, each channel divided by its length."""
    total = 0.0
    for x in ours.double().flatten(1):
        for y in theirs.double().flatten(1):
            total += float((x @ y / (x.norm() * y.norm())) ** 2)
    return total / (len(ours) * len(theirs))


def test_it_is_the_squared_mmd_under_the_polynomial_kernel() -> None:
    student, teacher = torch.randn(3, 2, 3, 4), torch.randn(3, 5, 3, 4)
    found_B = apply(student, teacher)
    for row in range(3):
        s, t = student[row], teacher[row]
        expected = mean_kernel(t, t) + mean_kernel(s, s) - 2 * mean_kernel(t, s)
        assert float(found_B[row]) == pytest.approx(expected, rel=1e-4)


def test_the_larger_map_is_pooled() -> None:
    student, teacher = torch.randn(3, 2, 4, 4), torch.randn(3, 5, 2, 2)
    pooled = student.view(3, 2, 2, 2, 2, 2).mean((3, 5))
    torch.testing.assert_close(apply(student, teacher), apply(pooled, teacher))
    torch.testing.assert_close(apply(teacher, student), apply(teacher, pooled))


def test_number_order_length_and_sign_of_channels_do_not_matter() -> None:
    student, teacher = torch.randn(3, 3, 4, 4), torch.randn(3, 5, 4, 4)
    value_B = apply(student, teacher)
    factors = torch.tensor([2.0, -0.5, 100.0]).view(3, 1, 1)
    torch.testing.assert_close(apply((factors * student)[:, [2, 0, 1]], teacher), value_B)
    torch.testing.assert_close(apply(student.repeat(1, 4, 1, 1), teacher), value_B)


def test_it_is_at_most_two() -> None:
    student, teacher = torch.zeros(1, 3, 2, 2), torch.zeros(1, 4, 2, 2)
    student[:, :, 0, 0] = teacher[:, :, 1, 1] = 1.0
    torch.testing.assert_close(apply(student, teacher), torch.tensor([2.0]))


def test_dead_channels_count_as_nothing_and_pass_no_gradient() -> None:
    student, teacher = torch.randn(2, 3, 2, 2), torch.randn(2, 3, 2, 2)
    student[:, 1] = 0
    student.requires_grad_()
    (gradient,) = torch.autograd.grad(apply(student, teacher).sum(), student)
    assert gradient.isfinite().all()
    assert not gradient[:, 1].any()
