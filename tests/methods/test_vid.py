"""Variational information distillation: the Gaussian likelihood, and the variance that fits best."""

from __future__ import annotations

import math

import pytest
import torch
from laws import Pair
from torch import nn

from raykd.methods.vid import LEAST, VID


def built(ours: tuple[int, ...], theirs: tuple[int, ...], divergence: VID = VID()) -> nn.Module:  # noqa: B008
    compute = Pair(divergence, ours, theirs).context().build(divergence, ("a",))
    assert isinstance(compute, nn.Module)
    return compute


def apply(compute: nn.Module, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    return compute(student, teacher, torch.zeros(len(student), dtype=torch.long), torch.ones(len(student)))


def guess(compute: nn.Module, values_BS: torch.Tensor) -> torch.Tensor:
    """What the three layers make of vectors, in float64."""
    *layers, last = [
        (weight.detach().double().flatten(1), bias.detach().double())
        for weight, bias in zip(*[iter(compute.guess.parameters())] * 2, strict=True)  # type: ignore[operator,union-attr]
    ]
    values = values_BS.double()
    for weight, bias in layers:
        values = (values @ weight.T + bias).clamp(min=0)
    return values @ last[0].T + last[1]


def spread(compute: nn.Module) -> nn.Parameter:
    return next(parameter for name, parameter in compute.named_parameters() if name == "spread")


@pytest.mark.parametrize(("ours", "theirs"), [((2, 4, 4), (3, 4, 4)), ((2, 4, 4), (3, 2, 2)), ((2, 2, 2), (3, 4, 4))])
def test_it_is_the_negative_likelihood_of_a_gaussian_for_each_channel_less_its_constant(
    ours: tuple[int, ...], theirs: tuple[int, ...]
) -> None:
    student, teacher = torch.randn(5, *ours), torch.randn(5, *theirs)
    compute = built(ours, theirs)
    with torch.no_grad():
        spread(compute).copy_(torch.tensor([-1.0, 0.5, 3.0]))
    found_B = apply(compute, student, teacher)
    h = min(ours[1], theirs[1])
    student, teacher = (v.unflatten(3, (h, -1)).unflatten(2, (h, -1)).mean((3, 5)) for v in (student, teacher))
    for row in range(5):
        total = 0.0
        for i in range(h):
            for j in range(h):
                mean_C = guess(compute, student[row, :, i, j][None])[0]
                for c in range(3):
                    variance = math.log(1 + math.exp(float(spread(compute).detach()[c]))) + LEAST
                    likelihood = torch.distributions.Normal(mean_C[c], variance**0.5).log_prob(
                        teacher[row, c, i, j].double()
                    )
                    total -= float(likelihood) + math.log(2 * math.pi) / 2
        assert float(found_B[row].detach()) == pytest.approx(total / (3 * h * h), rel=1e-4)


@pytest.mark.parametrize("variance", [0.5, 5.0])
def test_variances_start_where_they_are_said_to(variance: float) -> None:
    student, teacher = torch.randn(4, 2), torch.randn(4, 3)
    compute = built((2,), (3,), VID("pooled", variance=variance))
    squares = (guess(compute, student) - teacher.double()).square()
    expected_B = ((squares / variance + math.log(variance)) / 2).mean(1)
    torch.testing.assert_close(apply(compute, student, teacher).detach().double(), expected_B, rtol=1e-4, atol=1e-5)


def test_a_variance_rests_where_it_is_the_mean_squared_error() -> None:
    student, teacher = torch.randn(50, 2), 3 * torch.randn(50, 3)
    compute = built((2,), (3,), VID("pooled"))
    errors_C = (guess(compute, student) - teacher.double()).square().mean(0)
    with torch.no_grad():
        spread(compute).copy_(torch.log(torch.expm1(errors_C - LEAST)))
    apply(compute, student, teacher).mean().backward()
    torch.testing.assert_close(spread(compute).grad, torch.zeros(3), atol=1e-5, rtol=0)


def test_a_teacher_that_is_guessed_well_costs_less_than_nothing() -> None:
    compute = built((2,), (3,), VID("pooled"))
    student = torch.randn(4, 2)
    teacher = guess(compute, student).float()
    with torch.no_grad():
        spread(compute).fill_(-5.0)
    assert (apply(compute, student, teacher) < 0).all()
