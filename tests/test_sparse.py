"""A few classes and a tail: the teacher's and the student's probabilities on that alphabet, from closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from laws import draws_of, topk_of

from raykd.batch import Batch, Progress
from raykd.signals import LOGITS
from raykd.sparse import NOWHERE, Sparse

LOGITS_BC = torch.tensor([[0.0, 5.0, 1.0, 2.0, 3.0], [9.0, -1.0, 0.0, 4.0, -3.0]])


def softmax64(logits_BC: torch.Tensor, tau: float = 1.0) -> np.ndarray:
    z = logits_BC.detach().double().numpy() / tau
    powers = np.exp(z - z.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def coarse(p_BC: np.ndarray, ids_BK: torch.Tensor) -> np.ndarray:
    """Probabilities of the stored classes, then of all the others together."""
    stored_BK = np.take_along_axis(p_BC, ids_BK.numpy(), 1)
    return np.hstack([stored_BK, 1 - stored_BK.sum(1, keepdims=True)])


@pytest.mark.parametrize("tau", [1.0, 3.0])
def test_the_teacher_has_its_stored_classes_and_one_symbol_for_the_rest(tau: float) -> None:
    teacher = topk_of(LOGITS_BC, k=2)
    p = teacher.log_probabilities(torch.full((2,), tau)).exp()
    np.testing.assert_allclose(p, coarse(softmax64(LOGITS_BC, tau), teacher.ids_BK), rtol=1e-5)


def test_each_row_has_its_own_temperature() -> None:
    teacher = topk_of(LOGITS_BC, k=2)
    both = teacher.log_probabilities(torch.tensor([1.0, 3.0]))
    for row, tau in enumerate((1.0, 3.0)):
        torch.testing.assert_close(both[row], teacher.log_probabilities(torch.full((2,), tau))[row])


def test_a_temperature_is_found_though_float32_cannot_hold_it() -> None:
    teacher = topk_of(LOGITS_BC, k=2, taus=(1.0, 3.3, 0.1))
    for tau in teacher.temperatures:
        assert torch.isfinite(teacher.log_probabilities(torch.full((2,), tau))).all()


def test_an_undeclared_temperature_is_refused_with_those_that_are_declared() -> None:
    teacher = topk_of(LOGITS_BC, k=2, taus=(1.0, 2.5))
    with pytest.raises(ValueError, match=r"temperature 3 is not declared: .* is known at 1, 2.5 only"):
        teacher.log_probabilities(torch.tensor([1.0, 3.0]))


@pytest.mark.parametrize("tau", [1.0, 3.0])
def test_the_student_is_summed_up_to_the_same_symbols(tau: float) -> None:
    teacher, student = topk_of(LOGITS_BC, k=2), LOGITS_BC.flip(0)
    q = teacher.student_log_probabilities(student, torch.full((2,), tau)).exp()
    np.testing.assert_allclose(q, coarse(softmax64(student, tau), teacher.ids_BK), rtol=1e-5)


def test_a_student_with_almost_nothing_in_the_tail_knows_how_little_and_where() -> None:
    student = torch.tensor([[50.0, 0.0, 1.0]], requires_grad=True)
    teacher = topk_of(torch.tensor([[9.0, 0.0, 0.0]]), k=1)
    log_q = teacher.student_log_probabilities(student, torch.ones(1))
    assert float(log_q[0, -1].detach()) == pytest.approx(np.log(1 + np.e) - 50)
    (gradient,) = torch.autograd.grad(log_q[0, -1], student)
    assert gradient[0].tolist() == pytest.approx([-1, 1 / (1 + np.e), np.e / (1 + np.e)])


def test_classes_that_the_student_masks_have_no_mass_and_no_gradient() -> None:
    student = torch.tensor([[1.0, -torch.inf, 2.0, -torch.inf]], requires_grad=True)
    for stored in ([[0.0, 3.0, 2.0, -1.0]], [[3.0, 0.0, 2.0, -1.0]]):
        teacher = topk_of(torch.tensor(stored), k=2)
        log_q = teacher.student_log_probabilities(student, torch.ones(1))
        assert torch.isfinite(log_q).all()
        assert float(log_q.detach().exp().sum()) == pytest.approx(1)
        (gradient,) = torch.autograd.grad(log_q.exp().square().sum(), student)
        assert torch.isfinite(gradient).all()
        assert gradient[0, [1, 3]].tolist() == [0, 0]


def test_padding_has_no_probability_on_either_side() -> None:
    drawn = Sparse(
        torch.tensor([[2, 2, 4]]), torch.tensor([[0.0, -torch.inf, 1.0]]), torch.tensor([[-torch.inf]]), (1.0,), 5
    )
    p = drawn.log_probabilities(torch.ones(1))
    assert p.exp()[0].tolist() == pytest.approx([1 / (1 + np.e), 0, np.e / (1 + np.e), 0])
    assert float(p.min()) == pytest.approx(NOWHERE)
    q = drawn.student_log_probabilities(LOGITS_BC[:1], torch.ones(1)).exp()
    expected = softmax64(LOGITS_BC[:1])[0]
    assert q[0].tolist() == pytest.approx([expected[2], 0, expected[4], expected[[0, 1, 3]].sum()])


def test_classes_that_are_not_stored_share_the_tail_evenly() -> None:
    p = softmax64(LOGITS_BC)
    teacher = topk_of(LOGITS_BC, k=2)  # stores 1, 4 of the first row and 0, 3 of the second
    batch = Batch(torch.arange(2), torch.arange(2), torch.tensor([4, 1]), {}, {"t": {LOGITS: teacher}}, Progress(0, 1))
    expected = [p[0, 4], p[1, [1, 2, 4]].sum() / 3]
    np.testing.assert_allclose(batch.true_class_probability_TB(["t"])[0], expected, rtol=1e-5)
    everything = topk_of(LOGITS_BC, k=5)
    np.testing.assert_allclose(everything.probability_of(torch.tensor([4, 1])), [p[0, 4], p[1, 1]], rtol=1e-5)


def test_padding_takes_no_share_of_the_tail() -> None:
    tail_BS = torch.tensor([[1.0]])
    padded = Sparse(torch.tensor([[2, 2, 4]]), torch.tensor([[0.0, -torch.inf, 1.0]]), tail_BS, (1.0,), 5)
    p = [padded.probability_of(torch.tensor([label]))[0] for label in range(5)]
    e = np.e / (1 + 2 * np.e)
    np.testing.assert_allclose(p, [e / 3, e / 3, e / np.e, e / 3, e], rtol=1e-5)


def test_rows_are_taken_and_moved_as_those_of_a_tensor() -> None:
    teacher, rows = draws_of(LOGITS_BC), torch.tensor([1, 0, 1])
    taken = teacher[rows]
    assert (len(teacher), len(taken), len(teacher[:1])) == (2, 3, 1)
    torch.testing.assert_close(taken.ids_BK, teacher.ids_BK[rows])
    torch.testing.assert_close(taken.values_BK, teacher.values_BK[rows])
    moved = teacher.to("meta", non_blocking=True)
    assert {moved.device.type, moved.values_BK.device.type, moved.tails_BS.device.type} == {"meta"}
    assert (moved.classes, moved.temperatures) == (5, (1.0,))
