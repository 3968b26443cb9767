"""The laws of divergences, weightings, temperatures and terms, over the lists of `laws`."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace

import laws
import pytest
import torch
from laws import FORMS, NAMES, Form, Pair, random_batch, reading, rows_of

from raykd.identity import fingerprint
from raykd.objective import Context, Criterion, Divergence, Spec, Temperature, Term, Weighting
from raykd.signals import LOGITS
from raykd.sparse import Sparse

TAUS = (1.0, 4.0)
READING = reading(laws.DIVERGENCES)
FEATURES = [pair.divergence for pair in laws.FEATURES]
PIECES: list[Spec] = [*laws.DIVERGENCES, *FEATURES, *laws.WEIGHTINGS, *laws.TEMPERATURES, *laws.TERMS]


def built(piece: Spec) -> object:
    return context().build(piece, NAMES)


def context() -> Context:
    shapes = {name: {LOGITS: (5,)} for name in ("student", *NAMES)}
    return Context(shapes, NAMES, classes=5, rows=100, heads=lambda _: torch.nn.Linear(5, 5).requires_grad_(False))


def criterion(term: Term) -> Criterion:
    torch.manual_seed(0)
    return (1.0 * term).build(context())


def taus(form: Form) -> tuple[float, ...]:
    return tuple(tau for tau in TAUS if form.temperatures is None or tau in form.temperatures)


def apply(
    divergence: Divergence, student: torch.Tensor, teacher: torch.Tensor | Sparse, tau: float = 4.0
) -> torch.Tensor:
    compute = context().build(divergence, ("a",))
    labels_B = torch.zeros(len(student), dtype=torch.long)
    return compute(student, teacher, labels_B, torch.full((len(student),), tau))


@pytest.mark.parametrize("piece", PIECES, ids=str)
def test_a_piece_is_a_value(piece: Spec) -> None:
    assert fingerprint(piece) == fingerprint(copy.deepcopy(piece)) == fingerprint(pickle.loads(pickle.dumps(piece)))
    assert piece == copy.deepcopy(piece)
    assert str(piece)


def test_pieces_differ_by_fingerprint() -> None:
    assert len({fingerprint(piece) for piece in PIECES}) == len(PIECES)


@pytest.mark.parametrize(("divergence", "form"), READING, ids=str)
class TestDivergence:
    def test_it_gives_one_finite_number_per_row_and_never_a_negative_one(
        self, divergence: Divergence, form: Form
    ) -> None:
        batch = random_batch(rows=64, form=form)
        for tau in taus(form):
            value_B = apply(divergence, batch.student[LOGITS], batch.teachers["a"][LOGITS], tau)
            assert value_B.shape == (64,)
            assert value_B.dtype == torch.float32
            assert (value_B >= -1e-6).all()
            assert value_B.max() > 0

    def test_it_is_blind_to_the_order_of_rows(self, divergence: Divergence, form: Form) -> None:
        batch, order, tau = random_batch(form=form), torch.tensor([3, 0, 5, 1, 4, 2]), taus(form)[-1]
        student, teacher = batch.student[LOGITS].detach(), batch.teachers["a"][LOGITS]
        torch.testing.assert_close(
            apply(divergence, student[order], teacher[order], tau), apply(divergence, student, teacher, tau)[order]
        )

    def test_a_row_does_not_depend_on_the_others_unless_it_says_so(self, divergence: Divergence, form: Form) -> None:
        batch, tau = random_batch(form=form), taus(form)[-1]
        student, teacher = batch.student[LOGITS].detach(), batch.teachers["a"][LOGITS]
        alone = torch.cat([apply(divergence, student[i : i + 1], teacher[i : i + 1], tau) for i in range(6)])
        together = apply(divergence, student, teacher, tau)
        assert torch.allclose(alone, together, atol=1e-6) != divergence.relational

    @pytest.mark.parametrize("scale", [0.0, 1e-3, 300.0])
    def test_value_and_gradient_are_finite_on_flat_and_on_extreme_logits(
        self, divergence: Divergence, form: Form, scale: float
    ) -> None:
        batch = random_batch(scale=scale, form=form)
        value_B = apply(divergence, batch.student[LOGITS], batch.teachers["a"][LOGITS], tau=1.0)
        (gradient,) = torch.autograd.grad(value_B.sum(), batch.student[LOGITS])
        assert torch.isfinite(value_B).all()
        assert torch.isfinite(gradient).all()

    def test_half_precision_inputs_are_compared_in_float32(self, divergence: Divergence, form: Form) -> None:
        batch, tau = random_batch(), taus(form)[-1]
        student, teacher = batch.student[LOGITS].detach().half(), batch.teachers["a"][LOGITS].half()
        torch.testing.assert_close(
            apply(divergence, student, form.of(teacher), tau),
            apply(divergence, student.float(), form.of(teacher.float()), tau),
        )


@pytest.mark.parametrize(("divergence", "form"), [case for case in READING if case[1].kind != "sampled"], ids=str)
def test_a_divergence_is_zero_from_oneself(divergence: Divergence, form: Form) -> None:
    # few draws of a teacher are never the teacher
    logits_BC = random_batch().teachers["a"][LOGITS]
    value_B = apply(divergence, logits_BC.clone(), form.of(logits_BC))
    torch.testing.assert_close(value_B, torch.zeros(6), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("term", "form"), [(term, form) for term in laws.TERMS for form in FORMS], ids=str)
def test_a_term_that_says_it_reads_what_is_stored_does(term: Term, form: Form) -> None:
    try:
        term.check_stored(NAMES, form)
    except ValueError:
        assert form.kind != "dense"
        return
    batch = random_batch(form=form)
    (gradient,) = torch.autograd.grad(criterion(term)(batch).sum(), batch.student[LOGITS])
    assert torch.isfinite(gradient).all()
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("piece", [*laws.WEIGHTINGS, *laws.TEMPERATURES], ids=str)
class TestWeightingOrTemperature:
    def test_it_broadcasts_to_teachers_by_rows_and_is_finite_and_not_negative(
        self, piece: Weighting | Temperature
    ) -> None:
        value = built(piece)(random_batch(), NAMES)  # type: ignore[operator]
        value_TB = value.expand(3, 6)
        assert torch.isfinite(value_TB).all()
        assert (value_TB >= 0).all()
        assert (value_TB > 0).all() or isinstance(piece, Weighting)

    def test_it_follows_the_order_of_the_names(self, piece: Weighting | Temperature) -> None:
        compute = built(piece)
        straight = compute(random_batch(), NAMES).expand(3, 6)  # type: ignore[operator]
        turned = compute(random_batch(), NAMES[::-1]).expand(3, 6)  # type: ignore[operator]
        torch.testing.assert_close(turned, straight.flip(0))


@pytest.mark.parametrize("term", laws.TERMS, ids=str)
class TestTerm:
    def test_it_gives_one_number_per_row_with_a_gradient(self, term: Term) -> None:
        batch = random_batch()
        value_KB = criterion(term)(batch)
        assert value_KB.shape == (1, 6)
        (gradient,) = torch.autograd.grad(value_KB.sum(), batch.student[LOGITS])
        assert torch.isfinite(gradient).all()
        assert gradient.abs().sum() > 0

    def test_it_reads_no_more_than_it_says(self, term: Term) -> None:
        needs, batch = term.needs(NAMES), random_batch()
        told = replace(
            batch,
            student={s: v for s, v in batch.student.items() if s in needs["student"]},
            teachers={name: {s: batch.teachers[name][s] for s in needs[name]} for name in NAMES if name in needs},
        )
        torch.testing.assert_close(criterion(term)(told), criterion(term)(batch))

    def test_it_is_blind_to_the_order_of_rows(self, term: Term) -> None:
        batch, order = random_batch(mix=True), torch.tensor([3, 0, 5, 1, 4, 2])
        torch.testing.assert_close(criterion(term)(rows_of(batch, order)), criterion(term)(batch)[:, order])


def activations(pair: Pair, rows: int = 6, scale: float = 1.0, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Random ones of student and teacher; the student's carry gradients."""
    generator = torch.Generator().manual_seed(seed)
    ours, theirs = (scale * torch.randn(rows, *shape, generator=generator) for shape in (pair.student, pair.teacher))
    return ours.requires_grad_(), theirs


def compare(
    pair: Pair, student: torch.Tensor, teacher: torch.Tensor, compute: object = None, tau: float = 1.0
) -> torch.Tensor:
    """The divergence of what is observed at these activations."""
    divergence = pair.divergence
    ours = divergence.student.observe({divergence.tap: student})
    theirs = divergence.teacher.observe({divergence.teacher_tap or divergence.tap: teacher})
    labels_B, tau_B = torch.zeros(len(student), dtype=torch.long), torch.full((len(student),), tau)
    return (compute or made(pair))(ours, theirs, labels_B, tau_B)  # type: ignore[operator]


def made(pair: Pair) -> object:
    torch.manual_seed(0)
    return pair.context().build(pair.divergence, ("a",))


def learned(pair: Pair) -> bool:
    return isinstance(made(pair), torch.nn.Module)


def check_finite(pair: Pair, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Value and gradient; gives the value."""
    student = student.detach().requires_grad_()
    value_B = compare(pair, student, teacher)
    (gradient,) = torch.autograd.grad(value_B.sum(), student)
    assert torch.isfinite(value_B).all()
    assert torch.isfinite(gradient).all()
    return value_B


@pytest.mark.parametrize("pair", laws.FEATURES, ids=str)
class TestFeatures:
    def test_it_gives_one_number_per_row_in_float32_whatever_the_temperature(self, pair: Pair) -> None:
        student, teacher = activations(pair, rows=12)
        value_B = compare(pair, student, teacher)
        assert value_B.shape == (12,)
        assert value_B.dtype == torch.float32
        assert torch.equal(value_B, compare(pair, student, teacher, tau=4.0))

    def test_it_reads_one_signal_of_each_network(self, pair: Pair) -> None:
        needs = pair.divergence.needs(("a", "b"))
        assert needs == {
            "student": {pair.divergence.student},
            "a": {pair.divergence.teacher},
            "b": {pair.divergence.teacher},
        }

    def test_without_learned_parts_it_is_never_negative_and_zero_from_oneself(self, pair: Pair) -> None:
        if learned(pair):
            return
        student, teacher = activations(pair, rows=12)
        assert (compare(pair, student, teacher) >= -1e-7).all()
        if pair.turned:
            return
        same = replace(pair, teacher=pair.student)
        torch.testing.assert_close(compare(same, student, student.detach()), torch.zeros(12), atol=1e-6, rtol=0)

    @pytest.mark.parametrize("scale", [1e-12, 1e-3, 300.0, 3e4])
    def test_value_and_gradient_are_finite_at_any_scale(self, pair: Pair, scale: float) -> None:
        check_finite(pair, *activations(pair, scale=scale))

    @pytest.mark.parametrize("level", [0.0, 1.0, 300.0])
    def test_value_and_gradient_are_finite_where_all_is_flat(self, pair: Pair, level: float) -> None:
        student, teacher = activations(pair)
        flat = torch.full_like(student, level)
        check_finite(pair, flat, teacher)
        check_finite(pair, student, torch.full_like(teacher, level))
        check_finite(pair, flat, torch.full_like(teacher, level))

    def test_value_and_gradient_are_finite_where_rows_coincide_or_are_opposite_or_nothing(self, pair: Pair) -> None:
        student, teacher = activations(pair)
        student = torch.stack([student[0], student[0], -student[0], 0 * student[0], student[4], student[5]])
        teacher = torch.stack([teacher[0], teacher[1], teacher[2], teacher[3], teacher[3], -teacher[3]])
        check_finite(pair, student, teacher)

    @pytest.mark.parametrize("rows", [1, 2, 3])
    def test_small_batches_are_no_exception(self, pair: Pair, rows: int) -> None:
        assert check_finite(pair, *activations(pair, rows=rows)).shape == (rows,)

    def test_it_is_blind_to_the_order_of_rows_unless_it_says_so(self, pair: Pair) -> None:
        order = torch.tensor([3, 0, 5, 1, 4, 2])
        student, teacher = activations(pair)
        turned, straight = compare(pair, student[order], teacher[order]), compare(pair, student, teacher)[order]
        assert torch.allclose(turned, straight, rtol=1e-4, atol=1e-6) != pair.by_order

    def test_a_row_does_not_depend_on_the_others_unless_it_says_so(self, pair: Pair) -> None:
        student, teacher = activations(pair)
        alone = torch.cat([compare(pair, student[i : i + 1], teacher[i : i + 1]) for i in range(6)])
        assert torch.allclose(alone, compare(pair, student, teacher), rtol=1e-4) != pair.divergence.relational

    def test_half_precision_is_compared_in_float32(self, pair: Pair) -> None:
        student, teacher = (values.detach().half() for values in activations(pair))
        compute, labels_B, tau_B = made(pair), torch.zeros(6, dtype=torch.long), torch.ones(6)
        ours, theirs = pair.divergence.student, pair.divergence.teacher
        halves = (
            ours.observe({pair.divergence.tap: student}).half(),
            theirs.observe({pair.divergence.teacher_tap or pair.divergence.tap: teacher}).half(),
        )
        found = compute(*halves, labels_B, tau_B)  # type: ignore[operator]
        assert torch.equal(found, compute(*(half.float() for half in halves), labels_B, tau_B))  # type: ignore[operator]
        assert torch.equal(compare(pair, student, teacher), compare(pair, student.float(), teacher.float()))

    def test_mixed_precision_changes_only_what_is_learned(self, pair: Pair) -> None:
        student, teacher = activations(pair)
        with torch.autocast("cpu", torch.bfloat16):
            mixed = compare(pair, student, teacher)
        assert mixed.dtype == torch.float32
        assert torch.isfinite(mixed).all()
        if not learned(pair):
            torch.testing.assert_close(mixed, compare(pair, student, teacher), rtol=1e-5, atol=1e-7)

    def test_student_and_learned_parts_get_gradients_and_the_teacher_none(self, pair: Pair) -> None:
        student, teacher = activations(pair)
        before, compute = teacher.clone(), made(pair)
        compare(pair, student, teacher, compute).sum().backward()
        parameters = list(compute.parameters()) if isinstance(compute, torch.nn.Module) else []
        for each in (student, *parameters):
            assert each.grad is not None
            assert each.grad.isfinite().all()
            assert each.grad.abs().sum() > 0
        assert teacher.grad is None
        assert torch.equal(teacher, before)
