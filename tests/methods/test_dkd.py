"""Decoupled distillation: the split of KL, both parts by loops, and what a label that is certain leaves of them."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from laws import NAMES, random_batch

from raykd.batch import Batch
from raykd.methods.dkd import DKD
from raykd.methods.kl import KL
from raykd.objective import Context
from raykd.signals import LOGITS
from raykd.terms import Constant, Distill


def parts(student: torch.Tensor, teacher: torch.Tensor, label: int, tau: float) -> tuple[float, float]:
    """TCKD and NCKD of one row, class by class."""
    p, q = ((z.detach().double() / tau).softmax(-1).tolist() for z in (teacher, student))
    rest_p, rest_q = 1 - p[label], 1 - q[label]
    target = p[label] * math.log(p[label] / q[label]) + rest_p * math.log(rest_p / rest_q)
    others = [(p[c] / rest_p, q[c] / rest_q) for c in range(len(p)) if c != label]
    return target, sum(a * math.log(a / b) for a, b in others)


def given(rows: int = 6) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    batch = random_batch(rows=rows)
    return batch.student[LOGITS], batch.teachers["a"][LOGITS], batch.labels_B


@pytest.mark.parametrize("tau", [1.0, 4.0])
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 8.0), (1.0, 0.0), (0.0, 1.0), (0.5, 2.0)])
def test_it_is_the_weighted_sum_of_both_parts(alpha: float, beta: float, tau: float) -> None:
    student, teacher, labels_B = given()
    each = [parts(student[b], teacher[b], int(labels_B[b]), tau) for b in range(6)]
    expected_B = [tau**2 * (alpha * target + beta * others) for target, others in each]
    found_B = DKD(alpha, beta)(student, teacher, labels_B, torch.full((6,), tau))
    np.testing.assert_allclose(found_B.detach(), expected_B, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("tau", [1.0, 4.0])
def test_kl_is_the_targets_part_and_the_rest_by_what_the_teacher_leaves_to_it(tau: float) -> None:
    student, teacher, labels_B = given()
    left_B = 1 - (teacher / tau).softmax(-1).gather(1, labels_B[:, None])[:, 0]
    tau_B = torch.full((6,), tau)
    found_B = torch.cat(
        [
            DKD(1.0, float(left_B[b]))(student[b : b + 1], teacher[b : b + 1], labels_B[b : b + 1], tau_B[:1])
            for b in range(6)
        ]
    )
    kl_B = KL()(student, teacher, labels_B, tau_B)
    torch.testing.assert_close(found_B, kl_B, rtol=1e-4, atol=1e-5)
    (found,), (expected,) = (torch.autograd.grad(value_B.sum(), student) for value_B in (found_B, kl_B))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_part_of_the_others_does_not_see_the_labels_logit() -> None:
    student, teacher, labels_B = given()
    tau_B, moved = torch.full((6,), 2.0), torch.zeros(6, 5).scatter(1, labels_B[:, None], 5.0)
    value_B = DKD(0.0, 1.0)(student, teacher, labels_B, tau_B)
    torch.testing.assert_close(DKD(0.0, 1.0)(student + moved, teacher - moved, labels_B, tau_B), value_B)
    (gradient,) = torch.autograd.grad(value_B.sum(), student)
    assert (gradient.gather(1, labels_B[:, None]) == 0).all()
    assert (gradient != 0).sum() == 6 * 4


def test_the_targets_part_does_not_see_the_order_of_the_others() -> None:
    student, teacher, labels_B = given()
    turned = teacher.clone()
    for b in range(6):
        others = [c for c in range(5) if c != labels_B[b]]
        turned[b, others] = teacher[b, others[::-1]]
    tau_B = torch.full((6,), 2.0)
    torch.testing.assert_close(
        DKD(1.0, 0.0)(student, turned, labels_B, tau_B), DKD(1.0, 0.0)(student, teacher, labels_B, tau_B)
    )


def test_of_two_classes_only_the_targets_part_is_left() -> None:
    batch = random_batch(classes=2)
    student, teacher, ones_B = batch.student[LOGITS], batch.teachers["a"][LOGITS], torch.ones(6)
    torch.testing.assert_close(
        DKD(1.0, 8.0)(student, teacher, batch.labels_B, ones_B), KL()(student, teacher, batch.labels_B, ones_B)
    )


@pytest.mark.parametrize("label", range(3))
def test_a_teacher_without_doubt_still_orders_the_other_classes(label: int) -> None:
    # 1 - p(label) is exp(-300), which float32 does not have
    teacher, student = torch.tensor([[300.0, 0.0, -1.0]]), torch.tensor([[-300.0, 300.0, 0.0]]).requires_grad_()
    value_B = DKD(1.0, 8.0)(student, teacher, torch.tensor([label]), torch.ones(1))
    (gradient,) = torch.autograd.grad(value_B.sum(), student)
    assert torch.isfinite(value_B).all()
    assert torch.isfinite(gradient).all()
    if label == 0:
        p = torch.tensor([0.0, -1.0]).double().softmax(-1)
        others = float(p[0] * p[0].log() + p[1] * (p[1].log() + 300))
        np.testing.assert_allclose(value_B.detach(), 600 + 8 * others, rtol=1e-5)


def test_a_mixed_row_is_split_at_its_own_label() -> None:
    batch = random_batch(mix=True)
    term = 1.0 * Distill(DKD(), temperature=Constant(4.0), teachers=("a",))
    context = Context({name: {LOGITS: (5,)} for name in ("student", *NAMES)}, NAMES, classes=5, rows=100)

    def value(batch: Batch) -> torch.Tensor:
        return term.build(context)(batch)[0]

    assert batch.mix is not None
    torch.testing.assert_close(value(batch), value(replace(batch, mix=None)))
    assert not torch.allclose(value(batch), value(replace(batch, labels_B=batch.mix.labels_B)))


@pytest.mark.parametrize("weights", [{"alpha": -1.0}, {"beta": math.nan}, {"beta": math.inf}])
def test_a_weight_that_is_none_is_refused(weights: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(weights))}=.* of DKD"):
        DKD(**weights)
