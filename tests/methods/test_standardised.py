"""Logit standardisation: any divergence of logits on z-scores, blind to level and scale."""

from __future__ import annotations

import math
import statistics

import pytest
import tiny
import torch
from laws import NAMES, random_batch

from raykd.cache.codecs import TopKU8
from raykd.methods.dist import DIST
from raykd.methods.dkd import DKD
from raykd.methods.kl import KL, ReverseKL
from raykd.methods.mlkd import MLKD
from raykd.methods.standardised import Standardised
from raykd.objective import Context, Divergence
from raykd.signals import LOGITS
from raykd.terms import Constant, Distill

INNER = pytest.mark.parametrize("inner", [KL(), ReverseKL(), DKD(), DIST(), MLKD()], ids=str)


def given(rows: int = 6) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    batch = random_batch(rows=rows)
    return batch.student[LOGITS], batch.teachers["a"][LOGITS], batch.labels_B


def apply(
    divergence: Divergence, student: torch.Tensor, teacher: torch.Tensor, labels_B: torch.Tensor, tau: float = 2.0
) -> torch.Tensor:
    shapes = {name: {LOGITS: (student.shape[1],)} for name in ("student", *NAMES)}
    compute = Context(shapes, NAMES, classes=student.shape[1], rows=100).build(divergence, ("a",))
    return compute(student, teacher, labels_B, torch.full((len(student),), tau))


def z_scores(logits_BC: torch.Tensor) -> torch.Tensor:
    rows = logits_BC.detach().double().tolist()
    return torch.tensor([[(z - statistics.fmean(row)) / statistics.pstdev(row) for z in row] for row in rows])


@INNER
def test_it_is_the_divergence_of_z_scores(inner: Divergence) -> None:
    student, teacher, labels_B = given()
    expected_B = apply(inner, z_scores(student), z_scores(teacher), labels_B)
    torch.testing.assert_close(
        apply(Standardised(inner), student, teacher, labels_B).detach(), expected_B, rtol=1e-4, atol=1e-5
    )


@INNER
def test_it_is_blind_to_a_positive_affine_map_of_each_row_of_either(inner: Divergence) -> None:
    student, teacher, labels_B = given()
    a_B1, b_B1 = torch.tensor([[0.1], [0.5], [1.0], [2.0], [10.0], [50.0]]), 5 * torch.randn(6, 1)
    plain_B = apply(Standardised(inner), student, teacher, labels_B)
    for ours, theirs in ((a_B1 * student + b_B1, teacher), (student, a_B1 * teacher + b_B1)):
        torch.testing.assert_close(apply(Standardised(inner), ours, theirs, labels_B), plain_B, rtol=1e-3, atol=1e-4)
    scaled_B = apply(Standardised(inner), a_B1 * teacher + b_B1, teacher, labels_B)
    torch.testing.assert_close(scaled_B, torch.zeros(6), rtol=0, atol=1e-3)


def test_the_other_standard_deviation_is_another_temperature() -> None:
    student, teacher, labels_B = given()
    tau, classes = 2.0, 5
    ours, theirs = ((z - z.mean(1, keepdim=True)) / z.std(1, keepdim=True) for z in (student, teacher))
    unbiased_B = apply(KL(), ours, theirs, labels_B, tau)
    ratio = math.sqrt(classes / (classes - 1))
    found_B = apply(Standardised(KL()), student, teacher, labels_B, tau * ratio) / ratio**2
    torch.testing.assert_close(found_B, unbiased_B, rtol=1e-4, atol=1e-5)


def test_its_gradient_changes_neither_the_level_nor_the_scale_of_a_row() -> None:
    student, teacher, labels_B = given()
    (gradient,) = torch.autograd.grad(apply(Standardised(KL()), student, teacher, labels_B).sum(), student)
    zero_B = torch.zeros(6)
    torch.testing.assert_close(gradient.sum(1), zero_B, rtol=0, atol=1e-5)
    torch.testing.assert_close((gradient * student).sum(1).detach(), zero_B, rtol=0, atol=1e-5)
    assert gradient.abs().sum() > 0


def test_a_flat_student_learns_from_one_that_is_not() -> None:
    _, teacher, labels_B = given()
    flat = torch.full((6, 5), 3.0).requires_grad_()
    value_B = apply(Standardised(KL()), flat, teacher, labels_B)
    (gradient,) = torch.autograd.grad(value_B.sum(), flat)
    torch.testing.assert_close(value_B, apply(KL(), torch.zeros(6, 5), z_scores(teacher), labels_B))
    assert torch.isfinite(gradient).all()
    assert gradient.abs().sum() > 0


@INNER
def test_it_is_relational_when_its_divergence_is(inner: Divergence) -> None:
    assert Standardised(inner).relational == inner.relational


@pytest.mark.parametrize("inner", [tiny.At("pooled"), 4.0, Constant(2.0)])
def test_what_is_no_divergence_of_logits_is_refused(inner: object) -> None:
    with pytest.raises(ValueError, match="of Standardised"):
        Standardised(inner)  # type: ignore[arg-type]


def test_a_few_classes_have_no_mean_so_they_are_refused_when_it_is_written() -> None:
    with pytest.raises(ValueError, match=r"Standardised\(KL\) reads dense logits"):
        (1.0 * Distill(Standardised(KL()), temperature=Constant(2.0))).check_stored(NAMES, TopKU8())
