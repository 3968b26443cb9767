"""Correlation congruence: products of neighbouring differences, and their shares."""

from __future__ import annotations

import itertools

import pytest
import torch
from laws import Pair
from torch import nn

from raykd.methods.correlation import CC


def built(width: int = 3) -> nn.Module:
    compute = Pair(CC(), (4,), (6,)).context().build(CC(width=width), ("a",))
    assert isinstance(compute, nn.Module)
    return compute


def apply(compute: nn.Module, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    return compute(student, teacher, torch.zeros(len(student), dtype=torch.long), torch.ones(len(student)))


def products(compute: nn.Module, student: torch.Tensor, teacher: torch.Tensor) -> list[float]:
    """Of each row with the next."""
    weight_s, bias_s, weight_t, bias_t = (parameter.detach().double() for parameter in compute.parameters())
    differences = [
        [abs(float(x)) for x in (weight_s @ s + bias_s) - (weight_t @ t + bias_t)]
        for s, t in zip(student.double(), teacher.double(), strict=True)
    ]
    return [sum(x * y for x, y in zip(one, other, strict=True)) for one, other in itertools.pairwise(differences)]


def test_the_mean_of_the_shares_is_the_mean_over_neighbours() -> None:
    student, teacher, compute = torch.randn(5, 4), torch.randn(5, 6), built()
    found_B, expected = apply(compute, student, teacher).detach(), products(compute, student, teacher)
    assert float(found_B.mean()) == pytest.approx(sum(expected) / 4, rel=1e-4)
    for row in range(5):
        mine = (expected[row - 1] if row else 0.0) + (expected[row] if row < 4 else 0.0)
        assert float(found_B[row]) == pytest.approx(mine / 2 * 5 / 4, rel=1e-4)


def test_two_rows_share_one_product() -> None:
    student, teacher, compute = torch.randn(2, 4), torch.randn(2, 6), built()
    (expected,) = products(compute, student, teacher)
    torch.testing.assert_close(apply(compute, student, teacher), torch.full((2,), expected, dtype=torch.float32))


def test_a_row_alone_has_no_neighbour_and_its_embeddings_get_a_gradient_of_zero() -> None:
    compute = built()
    value_B = apply(compute, torch.randn(1, 4), torch.randn(1, 6))
    assert value_B.tolist() == [0.0]
    value_B.sum().backward()  # several processes wait for the gradients of each other
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in compute.parameters())


def test_both_embeddings_have_the_stated_width() -> None:
    assert [tuple(p.shape) for p in built(128).parameters()] == [(128, 4), (128,), (128, 6), (128,)]
    assert CC().width == 128
