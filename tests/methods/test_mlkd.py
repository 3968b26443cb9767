"""Multi-level logit distillation: three levels by loops over pairs, and its own temperatures."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from laws import random_batch

from raykd.methods.kl import KL
from raykd.methods.mlkd import MLKD
from raykd.signals import LOGITS

ROWS, BATCH, CLASSES = MLKD(batch=0, classes=0), MLKD(instance=0, classes=0), MLKD(instance=0, batch=0)


def given(rows: int = 6) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    batch = random_batch(rows=rows)
    return batch.student[LOGITS], batch.teachers["a"][LOGITS], batch.labels_B, torch.ones(rows)


def levels(student: torch.Tensor, teacher: torch.Tensor, t: float) -> tuple[float, float, float]:
    """The paper's three losses at one temperature, entry by entry of each matrix."""
    p, q = ((z.detach().double() / t).softmax(-1).numpy() for z in (teacher, student))
    size, count = p.shape
    rows = t**2 * sum(p[b, c] * math.log(p[b, c] / q[b, c]) for b in range(size) for c in range(count)) / size
    pairs = [(a, b) for a in range(size) for b in range(size)]
    batch = sum((p[a] @ p[b] - q[a] @ q[b]) ** 2 for a, b in pairs) / size
    kinds = [(c, d) for c in range(count) for d in range(count)]
    classes = sum((p[:, c] @ p[:, d] - q[:, c] @ q[:, d]) ** 2 for c, d in kinds) / count
    return rows, float(batch), float(classes)


@pytest.mark.parametrize("temperatures", [(4.0,), (2.0, 3.0, 4.0, 5.0, 6.0)])
def test_its_mean_is_the_sum_of_three_levels_over_its_temperatures(temperatures: tuple[float, ...]) -> None:
    student, teacher, labels_B, tau_B = given()
    each = np.array([levels(student, teacher, t) for t in temperatures])
    found_B = MLKD(temperatures)(student, teacher, labels_B, tau_B).detach()
    np.testing.assert_allclose(found_B.mean(), each.sum(), rtol=1e-4)
    weighed_B = MLKD(temperatures, 0.5, 2.0, 3.0)(student, teacher, labels_B, tau_B).detach()
    np.testing.assert_allclose(weighed_B.mean(), (each.sum(0) * [0.5, 2.0, 3.0]).sum(), rtol=1e-4)


def test_the_three_levels_add_up_row_by_row() -> None:
    given_ = given()
    torch.testing.assert_close(MLKD()(*given_), ROWS(*given_) + BATCH(*given_) + CLASSES(*given_))


def test_the_level_of_rows_is_kl_at_each_temperature() -> None:
    student, teacher, labels_B, tau_B = given()
    expected_B = torch.stack([KL()(student, teacher, labels_B, t * tau_B) for t in (2.0, 3.0, 4.0, 5.0, 6.0)]).sum(0)
    torch.testing.assert_close(ROWS(student, teacher, labels_B, tau_B), expected_B)


def test_the_level_of_the_batch_does_not_see_an_exchange_of_classes_nor_that_of_classes_one_of_rows() -> None:
    student, teacher, labels_B, tau_B = given()
    classes, rows = torch.tensor([2, 0, 1, 4, 3]), torch.tensor([3, 0, 5, 1, 4, 2])
    one, other = teacher[:, classes], teacher[rows]
    torch.testing.assert_close(BATCH(student, one, labels_B, tau_B), BATCH(student, teacher, labels_B, tau_B))
    torch.testing.assert_close(CLASSES(student, other, labels_B, tau_B), CLASSES(student, teacher, labels_B, tau_B))
    assert not torch.allclose(BATCH(student, other, labels_B, tau_B), BATCH(student, teacher, labels_B, tau_B))
    assert not torch.allclose(CLASSES(student, one, labels_B, tau_B), CLASSES(student, teacher, labels_B, tau_B))


def test_the_temperature_of_the_term_is_ignored() -> None:
    student, teacher, labels_B, tau_B = given()
    torch.testing.assert_close(
        MLKD()(student, teacher, labels_B, 7 * tau_B), MLKD()(student, teacher, labels_B, tau_B), rtol=0, atol=0
    )


def test_products_stay_in_float32_where_networks_compute_in_less() -> None:
    student, teacher, labels_B, tau_B = given()
    plain_B = MLKD()(student, teacher, labels_B, tau_B)
    with torch.autocast("cpu", torch.bfloat16):
        mixed_B = MLKD()(student, teacher, labels_B, tau_B)
    torch.testing.assert_close(mixed_B, plain_B, rtol=0, atol=0)


def test_its_name_says_what_differs() -> None:
    assert str(MLKD((2, 4))) == "MLKD(tau 2, tau 4)"
    assert str(MLKD((2,), batch=0.5, classes=0)) == "MLKD(tau 2, 0.5 batch, 0 classes)"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"temperatures": ()}, "above 0"),
        ({"temperatures": (2.0, 0.0)}, "above 0"),
        ({"temperatures": (math.inf,)}, "above 0"),
        ({"batch": -1.0}, "batch=-1.0"),
        ({"classes": math.nan}, "classes=nan"),
    ],
)
def test_a_mistake_is_refused_where_it_is_written(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        MLKD(**options)
