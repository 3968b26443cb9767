"""Divergences between activations: what stages refuse, mixtures, and a training with all of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import tiny
import torch

from raykd.budget import SGD, Budget
from raykd.cite import bibliography
from raykd.data import View
from raykd.features import directions, lengths, products, to_smaller
from raykd.methods.attention import AttentionTransfer
from raykd.methods.correlation import CC
from raykd.methods.fitnet import FitNet
from raykd.methods.kl import KL
from raykd.methods.nst import NST
from raykd.methods.pkt import PKT
from raykd.methods.rkd import RKD
from raykd.methods.similarity import SP
from raykd.methods.vid import VID
from raykd.models import CNN, MLP, Architecture
from raykd.objective import STUDENT, Compute, Context, Divergence, Needs, Objective, Term
from raykd.plan import plan
from raykd.runtime import Display, Local
from raykd.signals import LOGITS, Resized, Signal
from raykd.stage import Stage
from raykd.storage import Storage
from raykd.terms import CrossEntropy, Distill, DistillEnsemble

ALL: list[tuple[float, Divergence]] = [
    (100, FitNet()), (1000, AttentionTransfer()), (50, NST()), (3000, SP()),
    (0.02, CC()), (1, RKD()), (30000, PKT()), (1, VID()),
]  # fmt: skip
BUDGET = Budget(1, batch_size=32, optimiser=SGD(lr=0.01))


def cnn(width: int = 4) -> CNN:
    return CNN(width, shape=tiny.SHAPE)


def teacher(width: int = 6, epochs: int = 4) -> Stage:
    budget = Budget(epochs, batch_size=32, optimiser=SGD(lr=0.1))
    return Stage(cnn(width), 1.0 * CrossEntropy(), View(tiny.DATASET), budget=budget)


def stage(objective: Objective | Term, student: Architecture | None = None, width: int = 6, **changes: object) -> Stage:
    written = 1.0 * objective if isinstance(objective, Term) else objective
    return Stage(student or cnn(), written, View(tiny.DATASET), {"teacher": teacher(width)}, budget=BUDGET, **changes)  # type: ignore[arg-type]


def test_a_divergence_between_activations_reads_like_its_taps() -> None:
    assert str(FitNet()) == "FitNet(stage2)"
    assert str(RKD("stage3", "layer4", size=4)) == "RKD(stage3 to layer4, 4x4)"
    assert FitNet("stage1", "stage2").student == Signal("stage1")
    assert FitNet("stage1", "stage2", size=4).teacher == Resized("stage2", 4)


@pytest.mark.parametrize(
    ("divergence", "words"),
    [
        (FitNet("pooled", "stage2"), r"FitNet\(pooled to stage2\) compares maps .* or vectors"),
        (VID("stage2", "pooled"), r"VID\(stage2 to pooled\) compares maps .* or vectors"),
        (NST("pooled"), r"NST\(pooled\) compares maps \(C, H, W\)"),
        (AttentionTransfer("stage2", "stage3"), r"has 16 places and the teacher's 4: name taps of equal size, or"),
        (SP("stage1", size=9), "the map is 8x8, and pooling makes it no larger"),
        (RKD("pooled", size=2), "made of a map"),
    ],
    ids=str,
)
def test_what_cannot_be_compared_is_refused_when_the_stage_is_written(divergence: Divergence, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        stage(1.0 * CrossEntropy() + 2.0 * Distill(divergence))


@dataclass(frozen=True)
class Counting(Term):
    """Its build reads a number, which there is none of when a stage is written."""

    def needs(self, teachers: Sequence[str]) -> Needs:
        return {STUDENT: frozenset({LOGITS})}

    def build(self, context: Context) -> Compute:
        width = int(torch.ones(3).sum().item())
        return lambda batch: batch.student[LOGITS][:, :width].sum(1)


def test_writing_a_stage_draws_no_random_numbers_and_what_needs_numbers_is_built_later() -> None:
    before = torch.get_rng_state()
    assert stage(Distill(VID()) + Distill(CC()) + Counting())
    assert torch.equal(before, torch.get_rng_state())


def test_a_size_makes_different_maps_comparable() -> None:
    assert stage(Distill(AttentionTransfer("stage2", "stage3", size=2)))


@pytest.mark.parametrize(
    "write",
    [lambda: CC(width=0), lambda: RKD(angle=-1.0), lambda: RKD(distance=float("nan")), lambda: VID(variance=0.0)],
)
def test_a_number_out_of_range_is_refused(write: object) -> None:
    with pytest.raises(ValueError, match=r"has width=0|finite, 0 or more|variance=0"):
        write()  # type: ignore[operator]


def test_what_reads_vectors_serves_networks_without_maps() -> None:
    student = MLP((8,), shape=tiny.SHAPE)
    assert stage(Distill(FitNet("pooled")) + Distill(RKD()) + Distill(CC()) + Distill(PKT()), student)


def test_a_mixture_of_teachers_of_one_shape_is_one_teacher_and_of_several_shapes_is_refused() -> None:
    shapes = {STUDENT: {Signal("pooled"): (3,)}, "a": {Signal("pooled"): (7,)}, "b": {Signal("pooled"): (7,)}}
    context = Context(shapes, ("a", "b"), classes=5, rows=10)
    criterion = (1.0 * DistillEnsemble(FitNet("pooled"))).build(context)
    assert [tuple(p.shape) for p in criterion.parameters()] == [(7, 3), (7,)]
    shapes["b"] = {Signal("pooled"): (9,)}
    with pytest.raises(ValueError, match=r"FitNet\(pooled\) of a mixture: its teachers have the shapes"):
        (1.0 * DistillEnsemble(FitNet("pooled"))).build(Context(shapes, ("a", "b"), classes=5, rows=10))


def test_an_adapter_is_built_for_each_teacher_and_each_tap() -> None:
    taps = {Signal("stage1"): (2, 4, 4), Signal("stage2"): (3, 2, 2)}
    context = Context({STUDENT: taps, "a": taps, "b": taps}, ("a", "b"), classes=5, rows=10)
    criterion = (Distill(FitNet("stage1")) + Distill(FitNet("stage2"))).build(context)
    assert (
        sorted(tuple(p.shape) for p in criterion.parameters() if p.ndim == 4) == [(2, 2, 1, 1)] * 2 + [(3, 3, 1, 1)] * 2
    )


def test_the_larger_of_two_maps_is_pooled_to_the_smaller() -> None:
    small, large = torch.randn(2, 3, 2, 4), torch.randn(2, 5, 4, 4)
    ours, theirs = to_smaller(small, large)
    assert torch.equal(ours, small)
    torch.testing.assert_close(theirs, (large[:, :, ::2] + large[:, :, 1::2]) / 2)
    assert torch.equal(to_smaller(large, small)[0], theirs)
    narrow, flat = to_smaller(torch.randn(2, 3, 4, 2), torch.randn(2, 3, 2, 4))
    assert narrow.shape == flat.shape == (2, 3, 2, 2)


def test_nothing_has_no_length_no_direction_and_no_gradient() -> None:
    values = torch.tensor([[3.0, 4.0], [0.0, 0.0]], requires_grad=True)
    assert lengths(values).flatten().tolist() == [5.0, 0.0]
    torch.testing.assert_close(directions(values), torch.tensor([[0.6, 0.8], [0.0, 0.0]]))
    (gradient,) = torch.autograd.grad((lengths(values) + directions(values)).sum(), values)
    assert gradient.isfinite().all()
    assert gradient[1].tolist() == [0.0, 0.0]


def test_products_keep_float32_under_mixed_precision() -> None:
    values = torch.randn(4, 100)
    with torch.autocast("cpu", torch.bfloat16):
        found = products(values)
        assert (values @ values.T).dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), values.double() @ values.double().T, rtol=1e-5, atol=1e-5)


def test_signals_that_are_kept_as_one_are_priced_and_stored_once(tmp_path: Path) -> None:
    # 10 classes and 8 features: logits are kept as the features
    both = stage(Distill(KL()) + Distill(RKD()), width=2)
    one = stage(Distill(RKD()), width=2)
    found = [plan([each], Storage(tmp_path)).steps[-1].fillings[0].bytes for each in (both, one)]
    assert found == [tiny.rows() * 2 * 8] * 2


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    """One for all, so that the teacher is trained once."""
    return Storage(tmp_path_factory.mktemp("storage"))


def test_a_student_learns_from_all_of_them_at_once_and_cites_them(storage: Storage) -> None:
    first, *others = (float(weight) * Distill(divergence) for weight, divergence in ALL)
    written = stage(sum(others, CrossEntropy() + first))
    (trained,) = Local(storage, Display(quiet=True)).run(written)
    (line,) = Path(trained.weights).with_name("metrics.jsonl").read_text().splitlines()
    terms = json.loads(line)["terms"]
    assert len(terms) == 1 + len(ALL)
    assert all(value > 0 for value in terms.values())
    # stage2 and stage3 as they are, the attention of stage3, and the features
    shapes = 12 * 16 + 24 * 4 + 4 + 24
    assert trained.counts.phases["label"]["bytes"] == tiny.rows() * 2 * shapes
    cited = {piece for pieces in bibliography(written).values() for piece in pieces}
    assert cited >= {type(divergence).__name__ for _, divergence in ALL}
    again = Local(storage, Display(quiet=True)).run(written)[0]
    assert again.counts.teacher_rows == {}


def test_asked_live_the_teacher_says_what_the_cache_says(storage: Storage) -> None:
    objective = 1.0 * CrossEntropy() + 1000.0 * Distill(AttentionTransfer()) + 1.0 * Distill(RKD())
    runner = Local(storage, Display(quiet=True))
    found = [
        json.loads(Path(runner.run(each)[0].weights).with_name("metrics.jsonl").read_text().splitlines()[0])["terms"]
        for each in (stage(objective), replace(stage(objective), cache="off"))
    ]
    # float16 in the cache
    assert found[0] == pytest.approx(found[1], rel=1e-2)
