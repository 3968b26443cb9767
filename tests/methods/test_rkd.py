"""Relational distillation: distances and angles by their formulas, motions and scale, rows that coincide."""

from __future__ import annotations

import itertools

import pytest
import torch

from raykd.methods.rkd import RKD


def apply(student: torch.Tensor, teacher: torch.Tensor, divergence: RKD = RKD()) -> torch.Tensor:  # noqa: B008
    return divergence(student, teacher, torch.zeros(len(student), dtype=torch.long), torch.ones(len(student)))


def huber(x: float) -> float:
    return x**2 / 2 if abs(x) <= 1 else abs(x) - 1 / 2


def distances(rows: torch.Tensor) -> dict[tuple[int, int], float]:
    found = {(i, j): float((rows[i] - rows[j]).norm()) for i, j in itertools.permutations(range(len(rows)), 2)}
    mean = sum(found.values()) / len(found)
    return {pair: distance / mean for pair, distance in found.items()}


def cosines(rows: torch.Tensor) -> dict[tuple[int, int, int], float]:
    """Of the angle at the second of three different rows, and of one direction with itself."""
    found = {}
    for i, j, k in itertools.product(range(len(rows)), repeat=3):
        if j not in (i, k):
            one, other = rows[i] - rows[j], rows[k] - rows[j]
            found[i, j, k] = float(one @ other / (one.norm() * other.norm()))
    return found


def test_each_row_has_its_pairs_and_the_angles_at_it() -> None:
    student, teacher = torch.randn(5, 4), torch.randn(5, 7)
    student[0] *= 100
    ours, theirs = distances(student.double()), distances(teacher.double())
    ours_at, theirs_at = cosines(student.double()), cosines(teacher.double())
    assert max(abs(ours[pair] - theirs[pair]) for pair in ours) > 1  # both branches of Huber's loss
    found_B = apply(student, teacher)
    for row in range(5):
        distance = sum(huber(ours[i, j] - theirs[i, j]) for i, j in ours if i == row) / 5
        angle = sum(huber(ours_at[at] - theirs_at[at]) for at in ours_at if at[1] == row) / 25
        assert float(found_B[row]) == pytest.approx(25 * distance + 50 * angle, rel=1e-4)


def test_the_mean_is_the_paper_s_sum_over_tuples_of_different_rows_divided_by_powers_of_the_batch() -> None:
    student, teacher = torch.randn(4, 3), torch.randn(4, 6)
    ours, theirs = distances(student.double()), distances(teacher.double())
    pairs = sum(huber(ours[pair] - theirs[pair]) for pair in itertools.permutations(range(4), 2))
    assert float(apply(student, teacher, RKD(angle=0)).mean()) == pytest.approx(25 * pairs / 4**2, rel=1e-4)
    ours_at, theirs_at = cosines(student.double()), cosines(teacher.double())
    triples = sum(huber(ours_at[at] - theirs_at[at]) for at in itertools.permutations(range(4), 3))
    assert float(apply(student, teacher, RKD(distance=0)).mean()) == pytest.approx(50 * triples / 4**3, rel=1e-4)


def test_motions_and_scale_of_either_network_do_not_matter() -> None:
    student, teacher = torch.randn(5, 6), torch.randn(5, 9)
    rotation, _ = torch.linalg.qr(torch.randn(6, 6))
    value_B = apply(student, teacher)
    for same in (student @ rotation, -student, student + torch.randn(6), 40 * student):
        torch.testing.assert_close(apply(same, teacher), value_B, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(apply(student, 0.1 * teacher + 1), value_B, rtol=1e-3, atol=1e-4)


def test_the_same_figure_in_more_dimensions_is_the_same_figure() -> None:
    student = torch.randn(5, 3)
    lifted = torch.cat([student, torch.zeros(5, 4)], 1) @ torch.linalg.qr(torch.randn(7, 7))[0]
    torch.testing.assert_close(apply(student, lifted), torch.zeros(5), atol=1e-4, rtol=0)


def test_rows_that_coincide_have_the_distance_zero_and_no_direction() -> None:
    student, teacher = torch.randn(3, 4), torch.randn(3, 4)
    student[1] = student[0]
    student.requires_grad_()
    value_B = apply(student, teacher)
    (gradient,) = torch.autograd.grad(value_B.sum(), student)
    assert gradient.isfinite().all()
    # 0 between the two, and the other distances are equal, so each is 3 / 2 of the mean of six numbers
    ours, theirs = {(0, 1): 0.0, (0, 2): 1.5, (1, 2): 1.5}, distances(teacher.double())
    expected = 2 * sum(huber(ours[pair] - theirs[pair]) for pair in ours) / 9
    assert float(apply(student.detach(), teacher, RKD(distance=1, angle=0)).mean()) == pytest.approx(expected, rel=1e-4)


def test_rows_that_all_coincide_get_no_gradient() -> None:
    student = torch.ones(4, 3, requires_grad=True)
    value_B = apply(student, torch.randn(4, 3))
    (gradient,) = torch.autograd.grad(value_B.sum(), student)
    assert value_B.isfinite().all()
    assert not gradient.any()
