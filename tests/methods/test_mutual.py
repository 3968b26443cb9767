"""Deep mutual learning: the published loss and its gradients, peers cut out of a cohort, and rounds of snapshots."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from laws import random_batch
from safetensors.torch import load_file

from raykd import Local
from raykd.batch import Batch
from raykd.budget import SGD, Budget
from raykd.cite import bibliography
from raykd.data import Mixup, View
from raykd.identity import fingerprint
from raykd.methods.kl import KL, ReverseKL
from raykd.methods.mutual import Mutual, live_mutual, mutual, peer
from raykd.models import CNN, MLP, Cohort, Preprocess
from raykd.objective import STUDENT, Context
from raykd.order import Order
from raykd.plan import plan
from raykd.runtime import Display
from raykd.signals import LOGITS, Signal
from raykd.stage import Stage
from raykd.storage import Storage
from raykd.terms import Constant, CrossEntropy, Distill

OTHER = MLP((12,), shape=tiny.SHAPE, preprocess=Preprocess(mean=(0.5,), std=(0.5,)))


def cohort_batch(peers: int, *, scale: float = 2.0, mix: bool = False) -> Batch:
    """A batch in which each peer has said something; all of it carries gradients."""
    batches = [random_batch(seed=i, scale=scale, mix=mix) for i in range(peers)]
    return replace(batches[0], student={Signal(f"peer{i}"): each.student[LOGITS] for i, each in enumerate(batches)})


def loss_B(term: Mutual, batch: Batch) -> torch.Tensor:
    context = Context({STUDENT: dict.fromkeys(term.answers, (5,))}, (), classes=5, rows=9)
    return (1.0 * term).build(context)(batch).sum(0)


def published(batch: Batch, own: int, tau: float = 1.0) -> tuple[list[float], list[list[float]]]:
    """One peer's loss of each row and its gradient, the others being constants: scalar by scalar in double precision."""
    logits = [each.detach().double() for each in batch.student.values()]
    losses, gradients = [], []
    for row, label in enumerate(batch.labels_B.tolist()):
        z = [each[row] for each in logits]
        p1 = z[own].softmax(0)
        p, others = (z[own] / tau).softmax(0), [(z[j] / tau).softmax(0) for j in range(len(z)) if j != own]
        loss = -float(p1[label].log())
        gradient = p1 - torch.eye(5, dtype=torch.float64)[label]
        for q in others:
            loss += tau**2 * sum(float(q[c] * (q[c] / p[c]).log()) for c in range(5)) / len(others)
            gradient = gradient + tau * (p - q) / len(others)
        losses.append(loss)
        gradients.append(gradient.tolist())
    return losses, gradients


@pytest.mark.parametrize("peers", [1, 2, 4])
@pytest.mark.parametrize("tau", [1.0, 3.0])
def test_each_peer_loses_as_published_and_takes_the_others_as_constants(peers: int, tau: float) -> None:
    batch = cohort_batch(peers)
    found_B = loss_B(Mutual(peers, tau=tau), batch)
    by_peer = [published(batch, own, tau) for own in range(peers)]
    expected_B = torch.tensor([losses for losses, _ in by_peer], dtype=torch.float64).sum(0)
    torch.testing.assert_close(found_B.double(), expected_B, rtol=1e-4, atol=1e-5)
    found = torch.autograd.grad(found_B.sum(), list(batch.student.values()))
    for gradient, (_, expected) in zip(found, by_peer, strict=True):
        torch.testing.assert_close(gradient.double(), torch.tensor(expected, dtype=torch.float64), rtol=1e-4, atol=1e-5)


def test_one_peer_has_the_labels_only_and_equal_peers_have_nothing_to_say() -> None:
    batch = cohort_batch(2)
    own = batch.student[Signal("peer0")]
    labels_B = CrossEntropy()(replace(batch, student={LOGITS: own}))
    torch.testing.assert_close(loss_B(Mutual(1), cohort_batch(1)), labels_B)
    equal = replace(batch, student={Signal("peer0"): own, Signal("peer1"): own})
    torch.testing.assert_close(loss_B(Mutual(2), equal), 2 * labels_B)


def test_a_mixed_row_is_shared_between_both_labels() -> None:
    batch = cohort_batch(2, mix=True)
    apart = loss_B(Mutual(2), replace(batch, mix=None))
    terms = [CrossEntropy()(replace(batch, student={LOGITS: each})) for each in batch.student.values()]
    plain = [CrossEntropy()(replace(batch, student={LOGITS: each}, mix=None)) for each in batch.student.values()]
    torch.testing.assert_close(loss_B(Mutual(2), batch) - sum(terms), apart - sum(plain), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scale", [0.0, 300.0])
def test_value_and_gradient_are_finite_on_flat_and_on_extreme_logits(scale: float) -> None:
    batch = cohort_batch(3, scale=scale)
    found_B = loss_B(Mutual(3), batch)
    assert found_B.shape == (6,)
    assert found_B.dtype == torch.float32
    assert found_B.isfinite().all()
    assert all(each.isfinite().all() for each in torch.autograd.grad(found_B.sum(), list(batch.student.values())))


def test_another_divergence_may_be_given() -> None:
    batch = cohort_batch(2)
    first, second = batch.student.values()
    plain_B = loss_B(Mutual(1), replace(batch, student={Signal("peer0"): first}))
    plain_B = plain_B + CrossEntropy()(replace(batch, student={LOGITS: second}))
    one_B, ones = torch.ones(6), batch.labels_B
    expected_B = plain_B + ReverseKL()(first, second, ones, one_B) + ReverseKL()(second, first, ones, one_B)
    torch.testing.assert_close(loss_B(Mutual(2, ReverseKL()), batch), expected_B)


def test_a_term_is_a_value() -> None:
    assert fingerprint(Mutual(2)) == fingerprint(Mutual(2, KL(), 1.0)) != fingerprint(Mutual(3))
    assert str(Mutual(2)) == "Mutual(2 peers, KL, tau 1)"
    assert Mutual(2).needs(("a",)) == {STUDENT: {Signal("peer0"), Signal("peer1")}}


def live(epochs: int = 3) -> Stage:
    return replace(live_mutual(tiny.teacher(epochs=epochs), [OTHER]), label="cohort")


def test_a_live_stage_trains_a_cohort_of_the_stages_student_and_the_others() -> None:
    stage = live()
    assert stage.student == Cohort((tiny.teacher().student, OTHER))
    assert stage.objective == 1.0 * Mutual(2)
    assert (stage.view, stage.budget, stage.seed) == (tiny.teacher().view, tiny.teacher(epochs=3).budget, 0)
    assert any("Deep Mutual Learning" in source for source in bibliography(stage))


def test_peers_cut_out_of_a_cohort_are_what_they_were_in_it(tmp_path: Path) -> None:
    stage = live()
    runner = Local(Storage(tmp_path), Display(quiet=True))
    whole, *cut = runner.run(stage, peer(stage, 0), peer(stage, 1))
    together = load_file(whole.weights)
    images = torch.rand(4, *tiny.SHAPE)
    with torch.no_grad():
        answers = whole.network(images, ("peer0", "peer1"))
        for i, done in enumerate(cut):
            own = {name: value for name, value in together.items() if name.startswith(f"peer{i}.")}
            assert {f"peer{i}.{name}" for name in load_file(done.weights)} == set(own)
            assert all(torch.equal(value, own[f"peer{i}.{name}"]) for name, value in load_file(done.weights).items())
            torch.testing.assert_close(done.network(images)["logits"], answers[f"peer{i}"])
            assert done.metrics["test_top1"] > 0.5
    assert cut[0].metrics == whole.metrics
    assert runner.counts.teacher_rows == {}
    assert [str(done.stage) for done in cut] == ["cohort, peer 0", "cohort, peer 1"]


def test_a_peer_costs_nothing_teaches_and_is_compared_with_a_whole_training(tmp_path: Path) -> None:
    stage = live()
    cut = peer(stage, 1)
    student = replace(tiny.student(), teachers={"teacher": cut})
    steps = plan([student], Storage(tmp_path)).steps
    assert [str(step.network) for step in steps] == ["cohort", "cohort, peer 1", "student"]
    assert steps[1].flops == 0
    assert steps[0].flops > 0
    assert cut.alone().budget == stage.budget
    assert cut.alone().student == OTHER


def test_a_peer_learns_from_the_other_and_both_from_each_step(tmp_path: Path) -> None:
    """Against both networks trained side by side by hand, from the same weights on the same batches."""
    budget = Budget(1, batch_size=32, optimiser=SGD(lr=0.1, momentum=0.0, weight_decay=0.0), keep="last")
    stage = replace(live(), budget=budget, view=View(tiny.DATASET))
    (done,) = Local(Storage(tmp_path), Display(quiet=True)).run(stage)
    start = Local(Storage(tmp_path), Display(quiet=True)).run(replace(stage, budget=replace(budget, until=0)))[0]
    network = start.network.train()
    order, train = Order.of(stage), stage.view.dataset.split("train")
    for step, positions in enumerate(order.epoch(0)):
        inputs, labels = train.inputs(positions), torch.from_numpy(train.labels[positions])
        observed = network(inputs, ("peer0", "peer1"))
        logits = [observed["peer0"], observed["peer1"]]
        logs = [each.log_softmax(1) for each in logits]
        rate = budget.lr(step / order.steps)
        for own, other, body in zip(logs, reversed(logs), network.body.children(), strict=True):
            target = other.detach()
            divergence = (target.exp() * (target - own)).sum(1)
            loss = (divergence - own.gather(1, labels[:, None])[:, 0]).mean()
            weights = list(body.parameters())
            moves = torch.autograd.grad(loss, weights, retain_graph=True)
            with torch.no_grad():
                for weight, move in zip(weights, moves, strict=True):
                    weight -= rate * move
    trained = load_file(done.weights)
    for name, value in network.body.state_dict().items():
        torch.testing.assert_close(trained[name], value, rtol=1e-4, atol=1e-5)


def stages(epochs: int = 4) -> dict[str, Stage]:
    one = tiny.teacher(epochs=epochs)
    return {
        "a": replace(one, label=""),
        "b": replace(one, student=OTHER, label="b"),
        "c": replace(one, seed=2, label=""),
    }


def test_one_round_is_each_for_itself() -> None:
    found = mutual(stages(), 1)
    assert {name: fingerprint(each) for name, each in found.items()} == {
        name: fingerprint(each) for name, each in stages().items()
    }


def test_each_round_goes_on_from_ones_own_and_learns_from_the_others_of_the_round_before() -> None:
    found = mutual(stages(epochs=5), 3)
    rounds = [found]
    while rounds[0]["a"].init is not None:
        rounds.insert(0, {name: each.init for name, each in rounds[0].items()})  # type: ignore[misc]
    assert len(rounds) == 3
    for before, now in itertools.pairwise(rounds):
        for name, stage in now.items():
            assert stage.init == before[name]
            assert dict(stage.teachers) == {other: before[other] for other in "abc" if other != name}
    for name, stage in stages(epochs=5).items():
        assert tuple(each[name].budget for each in rounds) == stage.budget.parts(3)
        assert [each[name].student for each in rounds] == [stage.student] * 3
        assert rounds[0][name].objective == 1.0 * CrossEntropy()
        others = tuple(sorted(set("abc") - {name}))
        learned = CrossEntropy() + Distill(KL(), temperature=Constant(1.0), teachers=others)
        assert [each[name].objective for each in rounds[1:]] == [learned] * 2
    assert [str(each["b"]) for each in rounds] == ["b, round 1", "b, round 2", "b"]
    assert [each["a"].label for each in rounds] == ["a, round 1", "a, round 2", ""]


def test_the_order_of_the_stages_is_not_content() -> None:
    found, turned = mutual(stages(), 2), mutual(dict(reversed(stages().items())), 2)
    assert {name: fingerprint(each) for name, each in found.items()} == {
        name: fingerprint(turned[name]) for name in found
    }


def test_a_round_loses_as_the_live_form_does_for_one_peer() -> None:
    batch = cohort_batch(3)
    logits = dict(zip("abc", batch.student.values(), strict=True))
    for own, name in enumerate("abc"):
        others = {other: {LOGITS: z.detach()} for other, z in logits.items() if other != name}
        objective = mutual(stages(), 2)[name].objective
        names = tuple(sorted(others))
        context = Context({each: {LOGITS: (5,)} for each in (STUDENT, *names)}, names, classes=5, rows=9)
        seen = replace(batch, student={LOGITS: logits[name]}, teachers=others)
        found_B = objective.build(context)(seen).sum(0)
        (gradient,) = torch.autograd.grad(found_B.sum(), logits[name])
        losses, gradients = published(batch, own)
        torch.testing.assert_close(found_B.double(), torch.tensor(losses, dtype=torch.float64), rtol=1e-4, atol=1e-5)
        expected = torch.tensor(gradients, dtype=torch.float64)
        torch.testing.assert_close(gradient.double(), expected, rtol=1e-4, atol=1e-5)


def test_a_single_stage_in_rounds_is_its_own_training(tmp_path: Path) -> None:
    budget = Budget(4, batch_size=32, optimiser=SGD(lr=0.1, momentum=0.0), keep="last")
    stage = replace(tiny.teacher(), budget=budget)
    whole, rounds = Local(Storage(tmp_path), Display(quiet=True)).run(stage, mutual({"a": stage}, 2)["a"])
    first, second = load_file(whole.weights), load_file(rounds.weights)
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_teachers_of_their_own_stay_and_the_objective_is_about_them() -> None:
    student = tiny.student()
    found = mutual({"a": student, "b": stages()["b"]}, 2)["a"]
    assert set(found.teachers) == {"teacher", "b"}
    peers = Distill(KL(), temperature=Constant(1.0), teachers=("b",))
    assert found.objective == student.objective.about(("teacher",)) + peers
    assert found.needs.keys() == {STUDENT, "teacher", "b"}


def test_a_plan_has_all_of_a_round_before_the_next(tmp_path: Path) -> None:
    found = mutual({name: replace(each, label=name) for name, each in stages().items()}, 3)
    steps = [str(step.network) for step in plan(list(found.values()), Storage(tmp_path)).steps]
    assert len(steps) == 9
    places = {
        name: [steps.index(f"{name}, round 1"), steps.index(f"{name}, round 2"), steps.index(name)] for name in "abc"
    }
    for earlier in (0, 1):
        assert all(places[one][earlier] < places[other][earlier + 1] for one in "abc" for other in "abc")


def test_rounds_run_through_the_cache(tmp_path: Path) -> None:
    both = {name: each for name, each in stages().items() if name != "c"}
    runner = Local(Storage(tmp_path), Display(quiet=True))
    done = runner.run(*mutual(both, 2).values())
    assert runner.counts.teacher_rows == {"a": tiny.rows(), "b": tiny.rows()}
    assert all(each.metrics["test_top1"] > 0.5 for each in done)
    assert all("agreement" in each.metrics for each in done)


def test_mixed_rows_run_live(tmp_path: Path) -> None:
    stage = replace(live(epochs=1), view=View(tiny.DATASET, (Mixup(alpha=0.4),)))
    (done,) = Local(Storage(tmp_path), Display(quiet=True)).run(stage)
    assert 0 <= done.metrics["val_top1"] <= 1


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda: Mutual(0), "Mutual has peers=0 and tau=1"),
        (lambda: Mutual(2, tau=0.0), "peers=2 and tau=0"),
        (lambda: Mutual(2, tiny.At("pooled")), "a divergence of logits would be right"),
        (lambda: replace(live(), objective=1.0 * Mutual(3)), "unknown tap 'peer2'"),
        (lambda: live_mutual(tiny.student(), [OTHER]), "student has teachers, an init or frozen parts"),
        (lambda: live_mutual(replace(tiny.teacher(), init=tiny.teacher()), [OTHER]), "has teachers, an init"),
        (lambda: live_mutual(replace(tiny.teacher(), frozen=("fc",)), [OTHER]), "has teachers, an init"),
        (lambda: live_mutual(tiny.teacher(), [CNN(4, shape=tiny.SHAPE, classes=3)]), "all are the same"),
        (lambda: peer(live(), 2), r"cohort trains mlp32\+mlp12, which has no peer 2"),
        (lambda: peer(live(), -1), "no peer -1"),
        (lambda: peer(tiny.teacher(), 0), "teacher trains mlp32, which has no peer 0"),
        (lambda: mutual({"a": tiny.teacher(), "b": tiny.teacher()}, 2), "some of a, b are one stage"),
        (lambda: mutual({"teacher": tiny.teacher(), "b": tiny.student()}, 2), "has the teacher 'teacher', and so is"),
        (lambda: mutual(stages(epochs=2), 3), "parts of 1, 1, 0 epochs"),
        (lambda: mutual(stages(), 0), "parts of no epochs"),
        (lambda: mutual({"student": tiny.teacher(), "b": stages()["b"]}, 2), "call it something else"),
    ],
)
def test_a_mistake_is_refused_when_it_is_written(write: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words) as refusal:
        write()
    assert "\n" not in str(refusal.value)
