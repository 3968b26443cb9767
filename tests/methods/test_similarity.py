"""Similarity-preserving distillation: the paper's formula, its shares, rotations and scale."""

from __future__ import annotations

import pytest
import torch

from raykd.methods.similarity import SP


def apply(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    return SP()(student, teacher, torch.zeros(len(student), dtype=torch.long), torch.ones(len(student)))


def lines(values: torch.Tensor) -> list[list[float]]:
    """The Gram matrix, each line divided by its length."""
    rows = values.double().flatten(1)
    gram = [[float(a @ b) for b in rows] for a in rows]
    return [[g / sum(x**2 for x in line) ** 0.5 for g in line] for line in gram]


def test_a_row_has_its_line_and_the_mean_is_the_paper_s_squared_norm_over_the_square_of_the_batch() -> None:
    student, teacher = torch.randn(5, 2, 3, 3), torch.randn(5, 4, 2, 2)
    found_B, squares = apply(student, teacher), []
    for row, (ours, theirs) in enumerate(zip(lines(student), lines(teacher), strict=True)):
        squares.append(sum((s - t) ** 2 for s, t in zip(ours, theirs, strict=True)))
        assert float(found_B[row]) == pytest.approx(squares[-1] / 5, rel=1e-4)
    assert float(found_B.mean()) == pytest.approx(sum(squares) / 5**2, rel=1e-4)


def test_rotations_and_scale_of_either_network_do_not_matter() -> None:
    student, teacher = torch.randn(5, 6), torch.randn(5, 9)
    rotation, _ = torch.linalg.qr(torch.randn(6, 6))
    value_B = apply(student, teacher)
    torch.testing.assert_close(apply(student @ rotation, teacher), value_B, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(apply(20 * student, 0.1 * teacher), value_B, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(apply(student + 1, teacher), value_B, rtol=1e-2)  # the origin matters


def test_a_row_alone_has_no_relations() -> None:
    assert not apply(torch.randn(1, 6), torch.randn(1, 9)).any()


def test_a_row_of_nothing_passes_no_gradient() -> None:
    student = torch.randn(4, 6)
    student[2] = 0
    student.requires_grad_()
    (gradient,) = torch.autograd.grad(apply(student, torch.randn(4, 9)).sum(), student)
    assert gradient.isfinite().all()
    assert gradient.abs().max() < 10
