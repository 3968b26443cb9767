"""HPM-KD's gate: attention against a direct computation, where its gradient comes from, its entropy, and its oracles."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from laws import NAMES, random_batch

from raykd.batch import Batch
from raykd.methods.gate import Attention, Gate, GateAccuracy, GateEntropy, attended
from raykd.methods.kl import KL
from raykd.objective import STUDENT, Context, Criterion, Objective
from raykd.signals import INPUT, LOGITS
from raykd.terms import Constant, CrossEntropy, Distill, DistillEnsemble

GATE = Gate(hidden=8, embedding=3, dropout=0.0)


def built(objective: Objective, names: tuple[str, ...] = NAMES) -> Criterion:
    torch.manual_seed(0)
    shapes = {name: {LOGITS: (5,)} for name in names} | {STUDENT: {LOGITS: (5,), INPUT: (2, 2)}}
    return objective.build(Context(shapes, names, classes=5, rows=9))


def batch() -> Batch:
    found = random_batch()
    inputs = torch.rand(6, 2, 2, generator=torch.Generator().manual_seed(1))
    return replace(found, student={**found.student, INPUT: inputs})


def attention(criterion: Criterion) -> Attention:
    (gate,) = (module for module in criterion.modules() if isinstance(module, Attention))
    return gate


def test_it_is_the_published_loss() -> None:
    """By loops, in double precision."""
    seen, tau, alpha = batch(), 3.0, 0.7
    criterion = built(attended(DistillEnsemble(KL(), GATE, Constant(tau)), alpha=alpha, entropy=0.01, accuracy=0.2))
    gate = attention(criterion)
    (w1, b1), (w2, b2) = ((layer.weight.double(), layer.bias.double()) for layer in (gate.look[0], gate.score))
    for row, found in enumerate(criterion(seen).sum(0)):
        x = torch.cat([seen.student[INPUT][row].flatten(), gate.embeddings_MD.flatten()]).double()
        a = (w2 @ (w1 @ x + b1).clamp(min=0) + b2).softmax(0)
        z = torch.stack([seen.teachers[name][LOGITS][row] for name in NAMES]).double()
        mixed, student = (a[:, None] * z).sum(0), seen.student[LOGITS][row].double()
        p, q = (mixed / tau).log_softmax(0), (student / tau).log_softmax(0)
        expected = alpha * tau**2 * (p.exp() * (p - q)).sum()
        expected = expected - (1 - alpha) * student.log_softmax(0)[seen.labels_B[row]]
        expected = expected + 0.01 * (a * a.log()).sum() - 0.2 * mixed.log_softmax(0)[seen.labels_B[row]]
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


def test_attention_sums_to_one_and_follows_the_names() -> None:
    criterion, seen = built(1.0 * GateEntropy(GATE)), batch()
    straight_TB = attention(criterion)(seen, NAMES)
    torch.testing.assert_close(straight_TB.sum(0), torch.ones(6))
    torch.testing.assert_close(attention(criterion)(seen, NAMES[::-1]), straight_TB.flip(0))


def test_one_teacher_is_exactly_plain_distillation() -> None:
    one = built(attended(DistillEnsemble(KL(), GATE, Constant(2.0)), alpha=0.9), ("a",))
    plain = built(0.9 * Distill(KL(), temperature=Constant(2.0)) + 0.1 * CrossEntropy(), ("a",))
    torch.testing.assert_close(one(batch()).sum(0), plain(batch()).sum(0))


def test_an_even_gate_has_the_entropy_ln_m_and_a_sure_one_none() -> None:
    criterion, seen = built(1.0 * GateEntropy(GATE)), batch()
    score = attention(criterion).score
    with torch.no_grad():
        score.weight.zero_()
        score.bias.zero_()
        torch.testing.assert_close(criterion(seen)[0], torch.full((6,), -math.log(3)))
        score.bias.copy_(torch.tensor([200.0, 0.0, 0.0]))
        torch.testing.assert_close(criterion(seen)[0], torch.zeros(6))


def test_a_gate_that_has_given_a_teacher_up_has_finite_gradients() -> None:
    criterion, seen = built(1.0 * GateEntropy(GATE)), batch()
    with torch.no_grad():
        attention(criterion).score.bias.copy_(torch.tensor([300.0, 0.0, -300.0]))
    criterion(seen).sum().backward()
    gradients = [parameter.grad for parameter in criterion.parameters() if parameter.grad is not None]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_the_gate_learns_through_the_target_of_the_divergence() -> None:
    term = DistillEnsemble(KL(), GATE, Constant(2.0))
    criterion = built(1.0 * term)
    criterion(batch()).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in attention(criterion).parameters())


def test_its_accuracy_trains_the_gate_and_not_the_student() -> None:
    criterion, seen = built(1.0 * GateAccuracy(GATE)), batch()
    criterion(seen).sum().backward()
    assert seen.student[LOGITS].grad is None
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in attention(criterion).parameters())


def test_terms_about_one_gate_share_its_parameters_and_another_spec_is_another_gate() -> None:
    shared = attended(DistillEnsemble(KL(), GATE), accuracy=1.0)
    assert sum(isinstance(module, Attention) for module in built(shared).modules()) == 1
    apart = 1.0 * DistillEnsemble(KL(), GATE) + GateEntropy(replace(GATE, hidden=9))
    assert sum(isinstance(module, Attention) for module in built(apart).modules()) == 2


def test_without_its_weights_the_entropy_and_the_accuracy_are_not_part_of_it() -> None:
    found = attended(DistillEnsemble(KL(), GATE), entropy=0.0)
    assert [type(weighted.term) for weighted in found.terms] == [DistillEnsemble, CrossEntropy]


@pytest.mark.parametrize("fields", [{"hidden": 0}, {"embedding": 0}, {"dropout": 1.0}])
def test_what_makes_no_sense_is_refused(fields: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"widths of 1 or more and a dropout in \[0, 1\)"):
        Gate(**fields)  # type: ignore[arg-type]
