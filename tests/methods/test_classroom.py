"""ClassroomKD against its formula computed by loops, its oracles, its switches and both of its readings."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from laws import NAMES, random_batch

from raykd.batch import Batch
from raykd.methods.classroom import Certainty, KnowledgeFilter, Mentoring, Rank, classroom
from raykd.methods.kl import KL
from raykd.objective import Context, Objective
from raykd.signals import LOGITS
from raykd.terms import Constant, CrossEntropy, Distill


def loss_B(objective: Objective, batch: Batch) -> torch.Tensor:
    shapes = {name: {LOGITS: (5,)} for name in ("student", *NAMES)}
    return objective.build(Context(shapes, NAMES, classes=5, rows=100))(batch).sum(0)


def of_student(batch: Batch, logits_BC: torch.Tensor) -> Batch:
    return replace(batch, student={LOGITS: logits_BC})


def of_mentors(batch: Batch, *logits: torch.Tensor) -> Batch:
    return replace(batch, teachers={name: {LOGITS: each} for name, each in zip(NAMES, logits, strict=True)})


def published(batch: Batch, per: str, stretch: float, *, filtering: bool = True, mentoring: bool = True) -> list[float]:
    """The loss of each row by the paper's formula, one scalar after the other, in double precision."""

    def log_p(logits: torch.Tensor, row: int, tau: float = 1.0) -> torch.Tensor:
        return (logits[row].detach().double() / tau).log_softmax(-1)

    rows, n = range(len(batch.labels_B)), len(NAMES)
    networks = [batch.teachers[name][LOGITS] for name in NAMES] + [batch.student[LOGITS]]
    certainty = [[float(log_p(each, row)[batch.labels_B[row]].exp()) for row in rows] for each in networks]
    if per == "batch":
        means = [math.exp(sum(map(math.log, each)) / len(each)) for each in certainty]
        certainty = [[mean] * len(rows) for mean in means]
    found = []
    for row in rows:
        shares = [each[row] / sum(other[row] for other in certainty) for each in certainty]
        ranks = [n * (round(share, 2) if per == "batch" else share) for share in shares]
        own = ranks.pop()
        loss = -certainty[-1][row] * float(log_p(networks[-1], row)[batch.labels_B[row]])
        for rank, mentor in zip(ranks, networks, strict=False):
            tau = 1 + stretch * abs(rank - own) / max(rank, own) if mentoring else 1.0
            p, q = log_p(mentor, row, tau), log_p(networks[-1], row, tau)
            if rank >= own or not filtering:
                loss += rank * tau**2 * float((p.exp() * (p - q)).sum())
        found.append(loss)
    return found


@pytest.mark.parametrize("per", ["sample", "batch"])
@pytest.mark.parametrize("stretch", [4.0, 12.0])
@pytest.mark.parametrize("seed", range(3))
def test_it_is_the_published_loss(per: str, stretch: float, seed: int) -> None:
    batch = random_batch(rows=8, seed=seed)
    found_B = loss_B(classroom(per=per, stretch=stretch), batch)  # type: ignore[arg-type]
    torch.testing.assert_close(
        found_B.double(), torch.tensor(published(batch, per, stretch)).double(), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("per", ["sample", "batch"])
@pytest.mark.parametrize(("filtering", "mentoring"), [(False, True), (True, False), (False, False)])
def test_a_switch_takes_its_part_out_of_the_formula_and_nothing_else(
    per: str, filtering: bool, mentoring: bool
) -> None:
    batch = random_batch(rows=16)
    switches = {"filtering": filtering, "mentoring": mentoring}
    found_B = loss_B(classroom(per=per, **switches), batch)  # type: ignore[arg-type]
    expected_B = torch.tensor(published(batch, per, 12.0, **switches)).float()
    torch.testing.assert_close(found_B, expected_B, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found_B, loss_B(classroom(per=per), batch))  # type: ignore[arg-type]


def test_mentors_who_know_as_much_as_the_student_all_teach_at_the_base_temperature() -> None:
    batch = random_batch()
    logits = batch.student[LOGITS].detach()
    batch = of_mentors(batch, logits, logits, logits)
    torch.testing.assert_close(Mentoring()(batch, NAMES), torch.ones(3, 6))
    torch.testing.assert_close(KnowledgeFilter()(batch, NAMES), torch.full((3, 6), 3 / 4))


def test_a_worse_mentor_has_no_weight_and_without_any_only_the_labels_term_is_left() -> None:
    batch = random_batch()
    knows = torch.zeros(6, 5).scatter(1, batch.labels_B[:, None], 9.0)
    batch = of_mentors(of_student(batch, knows.requires_grad_()), knows + 1.0, -knows.detach(), 0 * knows.detach())
    weight_TB = KnowledgeFilter()(batch, NAMES)
    assert (weight_TB[0] > 0).all()
    assert (weight_TB[1:] == 0).all()
    alone = of_mentors(batch, -knows.detach(), -knows.detach(), -knows.detach())
    certain_B = knows.softmax(-1).gather(1, batch.labels_B[:, None])[:, 0].detach()
    torch.testing.assert_close(loss_B(classroom(), alone), -certain_B * certain_B.log())


def test_ranks_are_shares_that_sum_to_the_number_of_mentors_with_the_students() -> None:
    batch = random_batch()
    own = random_batch().student_true_class_probability_B()
    mentors_TB = batch.true_class_probability_TB(NAMES)
    torch.testing.assert_close(Rank()(batch, NAMES), 3 * mentors_TB / (mentors_TB.sum(0) + own))


def test_ranks_have_an_order_where_no_probability_is_left_in_float32() -> None:
    logits = torch.tensor([[0.0, 300.0]])
    batch = replace(
        random_batch(rows=1, classes=2),
        labels_B=torch.tensor([0]),
        student={LOGITS: logits},
        teachers={"a": {LOGITS: logits * 0.99}, "b": {LOGITS: logits * 1.1}},
    )
    weight_TB = KnowledgeFilter()(batch, ("a", "b"))
    assert weight_TB[0] > 1
    assert weight_TB[1] == 0
    assert torch.isfinite(Mentoring()(batch, ("a", "b"))).all()


def test_no_gradient_flows_through_ranks_filter_temperatures_and_certainty() -> None:
    batch = random_batch()
    for piece in (Rank(), KnowledgeFilter(), Mentoring()):
        assert not piece(batch, NAMES).requires_grad
    assert not Certainty()(batch).requires_grad
    (found,) = torch.autograd.grad(loss_B(classroom(), batch).sum(), batch.student[LOGITS])
    weight_TB, tau_TB = KnowledgeFilter()(batch, NAMES), Mentoring()(batch, NAMES)
    p_S = batch.student[LOGITS].softmax(-1)
    expected = Certainty()(batch)[:, None] * (p_S - torch.eye(5)[batch.labels_B])
    for t, name in enumerate(NAMES):
        tau = tau_TB[t][:, None]
        p, q = (batch.teachers[name][LOGITS] / tau).softmax(-1), (batch.student[LOGITS] / tau).softmax(-1)
        expected = expected + weight_TB[t][:, None] * tau * (q - p)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_per_batch_every_row_has_the_same_ranks_and_per_sample_not() -> None:
    batch = random_batch()
    for piece in (Rank, KnowledgeFilter, Mentoring):
        assert (piece(per="batch")(batch, NAMES).std(1) == 0).all()
        assert (piece(per="sample")(batch, NAMES).std(1) > 0).any()


def test_stretch_and_base_move_the_temperatures_only() -> None:
    batch = random_batch()
    gap_TB = (Mentoring(12.0)(batch, NAMES) - 1) / 12
    for stretch in (4.0, 8.0, 20.0):
        torch.testing.assert_close(Mentoring(stretch, 2.0)(batch, NAMES), 2 + stretch * gap_TB)
    assert classroom(stretch=4.0).terms[0] == classroom().terms[0]


def test_without_its_parts_it_is_a_weighted_sum_of_plain_terms() -> None:
    plain = Certainty() * CrossEntropy() + Distill(KL(), Rank(), Constant(2.0))
    assert classroom(filtering=False, mentoring=False, base=2.0) == plain


@pytest.mark.parametrize("make", [Rank, KnowledgeFilter, Certainty, lambda per: Mentoring(per=per)])
def test_another_reading_is_refused(make: type[Rank]) -> None:
    with pytest.raises(ValueError, match=r"per='row' of .*: sample or batch would be right"):
        make(per="row")  # type: ignore[arg-type]


def test_a_temperature_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="a base above 0 and a stretch of 0 or more"):
        Mentoring(base=0.0)
