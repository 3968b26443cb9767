"""FitNet: the adapted student against the teacher, and what the adapter is."""

from __future__ import annotations

import pytest
import torch
from laws import Pair
from torch import nn

from raykd.methods.fitnet import FitNet


def built(ours: tuple[int, ...], theirs: tuple[int, ...]) -> nn.Module:
    compute = Pair(FitNet(), ours, theirs).context().build(FitNet(), ("a",))
    assert isinstance(compute, nn.Module)
    return compute


def apply(compute: nn.Module, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    rows = len(student)
    return compute(student, teacher, torch.zeros(rows, dtype=torch.long), torch.ones(rows))


def weights(compute: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    weight, bias = (parameter.detach().double() for parameter in compute.parameters())
    return weight.flatten(1), bias


@pytest.mark.parametrize(("height", "width"), [(4, 4), (8, 8), (2, 2), (8, 2)])
def test_it_is_the_mean_squared_error_of_the_adapted_map_and_the_larger_is_pooled(height: int, width: int) -> None:
    student, teacher = torch.randn(3, 2, height, width), torch.randn(3, 5, 4, 4)
    compute = built((2, height, width), (5, 4, 4))
    weight_TS, bias_T = weights(compute)
    h, w = min(height, 4), min(width, 4)
    found_B = apply(compute, student, teacher)
    for row in range(3):
        total = 0.0
        for i in range(h):
            for j in range(w):
                ours, theirs = (
                    values[row, :, i * (y // h) : (i + 1) * (y // h), j * (x // w) : (j + 1) * (x // w)].double()
                    for values, y, x in ((student, height, width), (teacher, 4, 4))
                )
                guess_T = weight_TS @ ours.mean((1, 2)) + bias_T
                total += float((guess_T - theirs.mean((1, 2))).square().sum())
        assert float(found_B[row].detach()) == pytest.approx(total / (5 * h * w), rel=1e-4)


def test_vectors_are_adapted_by_a_linear_layer() -> None:
    student, teacher = torch.randn(3, 4), torch.randn(3, 6)
    compute = built((4,), (6,))
    weight_TS, bias_T = weights(compute)
    expected_B = ((student.double() @ weight_TS.T + bias_T) - teacher.double()).square().sum(1) / 6
    torch.testing.assert_close(apply(compute, student, teacher).detach().double(), expected_B, rtol=1e-4, atol=1e-6)


def test_there_is_an_adapter_at_equal_widths_too() -> None:
    compute = built((4,), (4,))
    assert [tuple(parameter.shape) for parameter in compute.parameters()] == [(4, 4), (4,)]
    values = torch.randn(3, 4)
    assert (apply(compute, values, values) > 0).all()
    with torch.no_grad():
        for parameter, value in zip(compute.parameters(), (torch.eye(4), torch.zeros(4)), strict=True):
            parameter.copy_(value)
    assert not apply(compute, values, values).any()


def test_a_student_with_other_axes_can_be_adapted_to_the_teacher() -> None:
    rotation, _ = torch.linalg.qr(torch.randn(4, 4))
    teacher = torch.randn(20, 4)
    compute = built((4,), (4,))
    with torch.no_grad():
        for parameter, value in zip(compute.parameters(), (rotation, torch.zeros(4)), strict=True):
            parameter.copy_(value)
    torch.testing.assert_close(apply(compute, teacher @ rotation, teacher), torch.zeros(20), atol=1e-6, rtol=0)
