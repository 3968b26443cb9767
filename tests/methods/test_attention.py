"""Attention transfer: the paper's formula on activations, and the bounds of the distance."""

from __future__ import annotations

import pytest
import torch
from laws import Pair

from raykd.methods.attention import AttentionTransfer


def apply(pair: Pair, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    divergence, rows = pair.divergence, len(student)
    ours, theirs = (
        signal.observe({"stage3": values})
        for signal, values in ((divergence.student, student), (divergence.teacher, teacher))
    )
    compute = pair.context().build(divergence, ("a",))
    return compute(ours, theirs, torch.zeros(rows, dtype=torch.long), torch.ones(rows))


def normalised(map_CHW: torch.Tensor) -> list[float]:
    channels, height, width = map_CHW.shape
    energy = [sum(float(map_CHW[c, i, j]) ** 2 for c in range(channels)) for i in range(height) for j in range(width)]
    length = sum(e**2 for e in energy) ** 0.5
    return [e / length for e in energy]


def test_it_is_the_mean_over_places_of_the_squared_difference_of_normalised_sums_of_squares() -> None:
    student, teacher = torch.randn(3, 2, 4, 3), torch.randn(3, 5, 4, 3)
    found_B = apply(Pair(AttentionTransfer(), (2, 4, 3), (5, 4, 3)), student, teacher)
    for row in range(3):
        pairs = zip(normalised(student[row].double()), normalised(teacher[row].double()), strict=True)
        assert float(found_B[row]) == pytest.approx(sum((q - p) ** 2 for q, p in pairs) / 12, rel=1e-4)


def test_at_a_size_activations_are_pooled_before_they_are_squared() -> None:
    student, teacher = torch.randn(3, 2, 2, 2), torch.randn(3, 5, 4, 4)
    pooled = teacher.view(3, 5, 2, 2, 2, 2).mean((3, 5))
    found_B = apply(Pair(AttentionTransfer(size=2), (2, 2, 2), (5, 4, 4)), student, teacher)
    torch.testing.assert_close(found_B, apply(Pair(AttentionTransfer(), (2, 2, 2), (5, 2, 2)), student, pooled))


def test_it_is_at_most_two_over_the_number_of_places() -> None:
    student, teacher = torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2)
    student[0, 0, 0, 0] = teacher[0, 0, 1, 1] = 3.0
    found_B = apply(Pair(AttentionTransfer(), (1, 2, 2), (1, 2, 2)), student, teacher)
    torch.testing.assert_close(found_B, torch.tensor([2 / 4]))


def test_scale_and_order_of_channels_do_not_matter() -> None:
    student, teacher = torch.randn(3, 4, 4, 4), torch.randn(3, 5, 4, 4)
    pair = Pair(AttentionTransfer(), (4, 4, 4), (5, 4, 4))
    changed_B = apply(pair, 7 * student[:, [3, 1, 0, 2]], 0.1 * teacher)
    torch.testing.assert_close(changed_B, apply(pair, student, teacher))


def test_two_maps_of_different_size_are_refused() -> None:
    with pytest.raises(ValueError, match="has 4 places and the teacher's 16"):
        Pair(AttentionTransfer(), (3, 2, 2), (3, 4, 4)).context().build(AttentionTransfer(), ("a",))
