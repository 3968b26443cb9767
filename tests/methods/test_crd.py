"""CRD against its formula computed by loops; its memories, its Z, its draws; the same at any number of processes."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import together
import torch
from laws import rows_of
from torch import Tensor, nn

from raykd import rng
from raykd.batch import Batch, Progress
from raykd.budget import SGD, Budget
from raykd.data import View
from raykd.methods.crd import CRD, _Contrast
from raykd.objective import STUDENT, Context
from raykd.runtime import Display, Local
from raykd.signals import Signal
from raykd.stage import Stage
from raykd.storage import Storage
from raykd.terms import CrossEntropy
from raykd.training import checkpoint

ROWS, POOLED = 40, Signal("pooled")
TERM = CRD(dim=6, negatives=30)


def context(rows: int = ROWS, names: tuple[str, ...] = ("a",), **shapes: tuple[int, ...]) -> Context:
    widths = {STUDENT: shapes.get(STUDENT, (5,)), **{name: shapes.get(name, (7,)) for name in names}}
    return Context({name: {POOLED: shape} for name, shape in widths.items()}, names, classes=3, rows=rows)


def contrast(term: CRD = TERM, **changes: int) -> _Contrast:
    torch.manual_seed(0)
    built = (1.0 * term).build(context(**changes))  # type: ignore[arg-type]
    (module,) = built.learned.values()
    assert isinstance(module, _Contrast)
    return module


def batch(step: int = 0, rows: int = 8, scale: float = 1.0, names: tuple[str, ...] = ("a",)) -> Batch:
    generator = torch.Generator().manual_seed(step)
    positions_B = torch.randperm(ROWS, generator=generator)[:rows]
    return Batch(
        ids_B=positions_B + 1000,
        positions_B=positions_B,
        labels_B=positions_B % 3,
        student={POOLED: (scale * torch.randn(rows, 5, generator=generator)).requires_grad_()},
        teachers={name: {POOLED: scale * torch.randn(rows, 7, generator=generator)} for name in names},
        progress=Progress(epoch=0, epochs=2, step=step, steps=5),
    )


def unit(values: Tensor) -> Tensor:
    return values / values.norm()


class Published:
    """The method for one row after the other, in double precision; its draws are those of the module."""

    def __init__(self, module: _Contrast):
        self.module, self.term = module, module.term
        self.embeddings = [(layer.weight.double(), layer.bias.double()) for layer in module.embeddings]  # type: ignore[union-attr, operator]
        self.memories = [memory.double().clone() for memory in module.memories_2ND]
        self.z: list[float] = []

    def __call__(self, batch: Batch) -> list[float]:
        embedded = [
            [unit(weight @ row.double() + bias).detach() for row in rows]
            for (weight, bias), rows in zip(
                self.embeddings, (batch.student[POOLED], batch.teachers["a"][POOLED]), strict=True
            )
        ]
        picked = self.module.picked(batch.positions_B, batch.progress).tolist()
        scores = [  # of the student against the teacher's memory, then of the teacher against the student's
            [
                [math.exp(float(x @ memory[place]) / self.term.tau) for place in places]
                for x, places in zip(xs, picked, strict=True)
            ]
            for xs, memory in zip(embedded, reversed(self.memories), strict=True)
        ]
        if not self.z:
            self.z = [float(np.mean(each)) * self.module.rows for each in scores]
        noise = self.term.negatives / self.module.rows
        losses = [0.0] * len(picked)
        for each, z in zip(scores, self.z, strict=True):
            for row, (own, *others) in enumerate(each):
                losses[row] -= math.log((own / z) / (own / z + noise))
                losses[row] -= sum(math.log(noise / (other / z + noise)) for other in others)
        for xs, memory in zip(embedded, self.memories, strict=True):
            for x, place in zip(xs, batch.positions_B.tolist(), strict=True):
                memory[place] = unit(self.term.momentum * memory[place] + (1 - self.term.momentum) * x)
        return losses


@pytest.mark.parametrize("term", [TERM, CRD(dim=3, negatives=100, tau=0.5, momentum=0.9)], ids=str)
def test_loss_z_and_memories_are_the_published_ones_step_by_step(term: CRD) -> None:
    module = contrast(term)
    published = Published(module)
    for step in range(3):
        expected = published(batch(step))
        torch.testing.assert_close(module(batch(step)).tolist(), expected, rtol=1e-4, atol=1e-4)
        for memory, other in zip(module.memories_2ND, published.memories, strict=True):
            torch.testing.assert_close(memory.double(), other, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(module.log_z_2.exp().tolist(), published.z, rtol=1e-4, atol=0)


def test_z_is_that_of_the_first_batch_for_ever() -> None:
    module = contrast()
    assert module.log_z_2.isnan().all()
    module(batch(0))
    first = module.log_z_2.clone()
    assert first.isfinite().all()
    module(batch(1))
    assert torch.equal(first, module.log_z_2)


def test_a_memory_moves_where_its_rows_were_and_is_of_length_one_there() -> None:
    module = contrast()
    before = module.memories_2ND.clone()
    module(batch())
    seen = torch.zeros(ROWS).bool()
    seen[batch().positions_B] = True
    assert torch.equal(module.memories_2ND[:, ~seen], before[:, ~seen])
    assert (module.memories_2ND[:, seen] != before[:, seen]).any(2).all()
    torch.testing.assert_close(module.memories_2ND[:, seen].norm(dim=2), torch.ones(2, 8))


def test_without_momentum_a_memory_is_the_last_embedding() -> None:
    module = contrast(replace(TERM, momentum=0.0))
    module(batch())
    weight, bias = module.embeddings[1].weight, module.embeddings[1].bias  # type: ignore[union-attr]
    expected = nn.functional.normalize(batch().teachers["a"][POOLED] @ weight.T + bias)  # type: ignore[operator]
    torch.testing.assert_close(module.memories_2ND[1, batch().positions_B], expected.detach())


def test_in_evaluation_nothing_is_remembered() -> None:
    module = contrast()
    module(batch())
    module.eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    module(batch(1))
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


def test_negatives_are_other_rows_drawn_evenly_and_anew_at_every_step() -> None:
    module = contrast(replace(TERM, negatives=20_000))
    positions_B = torch.tensor([0, 17, ROWS - 1])
    picked_BP = module.picked(positions_B, Progress(0, 2, 0, 5))
    assert torch.equal(picked_BP[:, 0], positions_B)
    for own, others in zip(positions_B, picked_BP[:, 1:], strict=True):
        counts = torch.bincount(others, minlength=ROWS)
        assert counts[own] == 0
        expected = 20_000 / (ROWS - 1)
        chi_squared = ((np.delete(counts.numpy(), int(own)) - expected) ** 2 / expected).sum()
        assert abs(chi_squared - (ROWS - 2)) < 5 * math.sqrt(2 * (ROWS - 2))
    for progress in (Progress(0, 2, 1, 5), Progress(1, 2, 0, 5)):
        again = (module.picked(positions_B, progress)[:, 1:] == picked_BP[:, 1:]).float().mean()
        assert abs(float(again) - 1 / (ROWS - 1)) < 0.01


def test_a_draw_is_a_function_of_seed_epoch_step_row_and_number() -> None:
    module = contrast()
    positions_B, progress = torch.tensor([5, 0, 39]), Progress(1, 2, 3, 5)
    bits = rng.bits(int(module.seed), 1, 3, positions_B[:, None].numpy(), np.arange(30)) % np.uint64(2**63)
    others = (bits % np.uint64(ROWS - 1)).astype(np.int64)
    others += others >= positions_B[:, None].numpy()
    assert module.picked(positions_B, progress)[:, 1:].tolist() == others.tolist()
    assert (
        module.picked(positions_B[[2, 0]], progress).tolist() == module.picked(positions_B, progress)[[2, 0]].tolist()
    )


def test_a_row_does_not_depend_on_the_rest_of_its_batch_once_z_is_there() -> None:
    module = contrast()
    module(batch())
    module.eval()
    each = [module(rows_of(batch(1), torch.tensor([row]))) for row in range(8)]
    torch.testing.assert_close(torch.cat(each), module(batch(1)))


def test_student_and_both_embeddings_are_taught_and_the_memories_are_not() -> None:
    module = contrast()
    told = batch()
    module(told).sum().backward()
    assert told.student[POOLED].grad is not None
    assert (told.student[POOLED].grad.abs().sum(1) > 0).all()
    assert {name for name, value in module.named_parameters() if value.grad is not None} == {
        f"embeddings.{i}.{part}" for i in (0, 1) for part in ("weight", "bias")
    }
    assert not module.memories_2ND.requires_grad


def test_the_gradient_is_that_of_the_memories_before_they_moved() -> None:
    module, told = contrast(), batch()
    module(told)
    before, told = module.memories_2ND.clone(), batch(1)
    (found,) = torch.autograd.grad(module(told).sum(), told.student[POOLED])
    still = contrast()
    still.load_state_dict({**module.state_dict(), "memories_2ND": before})
    told = batch(1)
    (expected,) = torch.autograd.grad(still.eval()(told).sum(), told.student[POOLED])
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("scale", [0.0, 1e-20, 300.0, 1e10])
@pytest.mark.parametrize("tau", [0.07, 0.005])
def test_value_and_gradients_are_finite_for_flat_and_for_huge_activations(scale: float, tau: float) -> None:
    module, told = contrast(replace(TERM, tau=tau)), batch(scale=scale)
    value_B = module(told)
    assert value_B.dtype == torch.float32
    assert value_B.isfinite().all()
    value_B.sum().backward()
    assert told.student[POOLED].grad is not None
    assert told.student[POOLED].grad.isfinite().all()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in module.parameters())
    assert module.memories_2ND.isfinite().all()


def test_in_mixed_precision_it_is_computed_in_float32() -> None:
    plain, mixed = contrast(), contrast()
    expected = plain(batch())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = mixed(batch())
    assert torch.equal(found, expected)
    assert torch.equal(plain.memories_2ND, mixed.memories_2ND)


def test_its_state_continues_where_it_was() -> None:
    undisturbed = contrast()
    expected = [undisturbed(batch(step)) for step in range(4)]
    first = contrast()
    for step in range(2):
        first(batch(step))
    torch.manual_seed(99)
    second = TERM.build(context())
    assert isinstance(second, _Contrast)
    assert not torch.equal(second.seed, first.seed)
    second.load_state_dict(first.state_dict())
    assert all(torch.equal(second(batch(step)), expected[step]) for step in (2, 3))


def test_maps_are_taken_as_vectors() -> None:
    told = batch()
    as_map = replace(told, student={POOLED: told.student[POOLED].reshape(8, 5, 1, 1)})
    torch.manual_seed(0)
    flattened = TERM.build(context(student=(5, 1, 1)))
    torch.testing.assert_close(flattened(as_map), contrast()(told))


def test_several_teachers_have_memories_of_their_own_and_count_evenly() -> None:
    told = batch(names=("a", "b"))
    criterion = (1.0 * TERM).build(context(names=("a", "b")))
    modules = list(criterion.learned.values())
    expected = torch.zeros(8, dtype=torch.float64)
    for module, name in zip(modules, ("a", "b"), strict=True):
        assert isinstance(module, _Contrast)
        assert module.teacher == name
        expected += torch.tensor(Published(module)(replace(told, teachers={"a": told.teachers[name]}))) / 2
    torch.testing.assert_close(criterion(told)[0].double(), expected, rtol=1e-4, atol=1e-4)
    assert not torch.equal(modules[0].memories_2ND[0], modules[1].memories_2ND[0])  # type: ignore[arg-type, index]


def test_it_reads_the_named_taps_of_the_named_teachers() -> None:
    term = CRD(tap="stage3", teacher_tap="stage5", teachers=("b",))
    assert term.needs(("a", "b")) == {STUDENT: {Signal("stage3")}, "b": {Signal("stage5")}}
    assert CRD().needs(("a",)) == {STUDENT: {POOLED}, "a": {POOLED}}


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda: CRD(dim=0), "dim=0.*1 or more"),
        (lambda: CRD(negatives=0), "negatives=0.*1 or more"),
        (lambda: CRD(tau=0.0), "tau=0.0.*above 0"),
        (lambda: CRD(momentum=1.0), r"momentum in \[0, 1\)"),
        (lambda: CRD().needs(()), "this stage has none"),
        (lambda: CRD().build(context(rows=1)), "has 1 training rows.*2 or more"),
    ],
)
def test_what_cannot_be_is_refused(write: object, words: str) -> None:
    with pytest.raises(ValueError, match=words) as refusal:
        write()  # type: ignore[operator]
    assert "\n" not in str(refusal.value)


def test_two_rows_are_enough_and_each_is_the_others_negative() -> None:
    module = contrast(rows=2)
    assert module.picked(torch.tensor([0, 1]), Progress(0, 1)).tolist() == [[0] + [1] * 30, [1] + [0] * 30]


def stage(epochs: int = 1, size: int = 320) -> Stage:
    """Two steps an epoch, for networks without batch norm: what one process computes, several can."""
    budget = Budget(epochs, batch_size=size, optimiser=SGD(lr=0.05))
    objective = CrossEntropy() + 0.8 * CRD(dim=8, negatives=50)
    return Stage(
        tiny.student().student, objective, View(tiny.DATASET), {"teacher": tiny.teacher(1)}, budget=budget, label="crd"
    )


def state(root: Path, of: Stage) -> dict[str, Tensor]:
    found = checkpoint.load(Storage(root).folder(of) / "checkpoint.pt")
    assert found is not None
    return dict(found["learner"])


@pytest.fixture(scope="module")
def labeled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage on which the teacher has answered, for a training of another length."""
    root = tmp_path_factory.mktemp("labeled")
    Local(Storage(root), Display(quiet=True), any_teacher=True).run(stage())
    return root


@pytest.mark.parametrize("size", [320, 161], ids=["even shares", "uneven shares"])
def test_two_processes_compute_what_one_does(labeled: Path, size: int) -> None:
    to_train = stage(size=size)
    Local(Storage(labeled), Display(quiet=True), any_teacher=True).run(to_train)
    alone = state(labeled, to_train)
    folder = Storage(labeled).folder(to_train)
    folder.rename(folder.with_name(f"alone-{size}"))  # else there is nothing left to train
    together.train(labeled, to_train)
    found = state(labeled, to_train)
    assert found.keys() == alone.keys()
    assert sum(name.endswith("memories_2ND") for name in alone) == 1
    for name, value in alone.items():
        torch.testing.assert_close(
            found[name], value, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_a_training_that_was_stopped_ends_as_if_it_had_not_been(labeled: Path) -> None:
    long, short = stage(epochs=2), replace(stage(epochs=2), budget=replace(stage(epochs=2).budget, until=1))
    runner = Local(Storage(labeled), Display(quiet=True), any_teacher=True)
    runner.run(long)
    expected = state(labeled, long)
    folder = Storage(labeled).folder(long)
    folder.rename(folder.with_name("undisturbed"))
    runner.run(short)
    runner.run(long)
    found = state(labeled, long)
    assert all(torch.equal(found[name], value) for name, value in expected.items())
