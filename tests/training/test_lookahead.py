"""Looking ahead: exact for real networks, without a trace, the same after a resume and with any number of workers."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import together
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from raykd.batch import Batch, Progress
from raykd.budget import SGD, Budget
from raykd.data import Mixup, View
from raykd.methods.crd import CRD
from raykd.methods.gate import Gate
from raykd.methods.hypergradient import Hypergradient, _Learned
from raykd.methods.kl import KL
from raykd.models import CNN, MLP, Architecture, Custom, ResNet
from raykd.objective import Temperature
from raykd.order import Order
from raykd.runtime import Display, Local
from raykd.signals import LOGITS
from raykd.stage import Stage
from raykd.storage import Storage
from raykd.terms import Constant, CrossEntropy, Distill, DistillEnsemble
from raykd.training import checkpoint, loop
from raykd.training.feed import Feed, Feeding
from raykd.training.job import TrainingJob
from raykd.training.learner import build
from raykd.training.lookahead import NextStep, look
from raykd.training.process import Process

HERE = Process(0, 1, torch.device("cpu"))
OFTEN = Hypergradient(every=3, rate=0.2, rows=100)


class Attentive(nn.Module):
    """Attention over the rows of an image, with dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.3, batch_first=True)
        self.fc = nn.Linear(64, 10)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        return self.fc(self.layer(images_BCHW[:, 0]).flatten(1))


ATTENTIVE = Custom(f"{__name__}:Attentive", shape=tiny.SHAPE)


def stage(
    temperature: Temperature = OFTEN, *, student: Architecture | None = None, epochs: int = 2, size: int = 32
) -> Stage:
    objective = 0.1 * CrossEntropy() + 0.9 * Distill(KL(), temperature=temperature)
    budget = Budget(epochs, batch_size=size, optimiser=SGD(lr=0.05))
    return replace(
        tiny.student(epochs=epochs),
        student=student or MLP((16,), shape=tiny.SHAPE),
        objective=objective,
        teachers={"teacher": tiny.teacher(1)},
        budget=budget,
    )


@dataclass
class Still(Feed):
    """Only validation rows, and how large a batch is."""

    view: View
    process: Process
    batch_size: int = 24  # type: ignore[assignment]


def step(of: Stage, rate: float, root: Path) -> NextStep:
    """The first step of a training, with a teacher that says anything."""
    torch.manual_seed(0)
    learner, feed = build(of, Storage(root)), Still(of.view, HERE)
    sample = of.view.batch(np.arange(24), np.zeros(24, np.int64))
    said = {"teacher": {LOGITS: 3 * torch.randn(24, 10)}}
    batch = Batch(sample.ids_B, torch.arange(24), sample.labels_B, {}, said, Progress(0, 2, 0, 20))
    learner.train()
    return NextStep(learner, feed, Feeding(sample.inputs_B, batch, 24), feed.held_out(0, 100), rate)


def unrolled(ahead: NextStep, tau: float) -> float:
    """The validation loss after one step at this temperature: in double precision, from the network's body alone."""
    network = copy.deepcopy(ahead.learner.student)
    body = network.body.double()
    frozen = {id(parameter) for module in ahead.learner.frozen for parameter in module.parameters()}
    names = [name for name, each in ahead.learner.student.body.named_parameters() if id(each) not in frozen]
    parameters = {name: each for name, each in body.named_parameters() if name in names}
    statistics = {name: buffer.clone() for name, buffer in body.named_buffers()}

    def logits(inputs: Tensor, moved: dict[str, Tensor]) -> Tensor:
        seen = network.architecture.preprocess(inputs, network.architecture.channels).double()
        buffers = {name: buffer.clone() for name, buffer in statistics.items()}
        return functional_call(body, {**buffers, **moved}, (seen,))

    batch = ahead.feeding.batch
    student, teacher = logits(ahead.feeding.inputs_B, parameters), batch.teachers["teacher"][LOGITS].double()
    q, p = (student / tau).log_softmax(1), (teacher / tau).log_softmax(1)
    kl = tau**2 * (p.exp() * (p - q)).sum(1).mean()
    loss = 0.1 * F.cross_entropy(student, batch.labels_B) + 0.9 * kl
    gradients = torch.autograd.grad(loss, list(parameters.values()))
    moved = {
        name: (each - ahead.rate * g).detach() for (name, each), g in zip(parameters.items(), gradients, strict=True)
    }
    body.eval()
    return float(F.cross_entropy(logits(ahead.held_out.inputs_B, moved), ahead.held_out.labels_B))


@pytest.mark.parametrize("rate", [0.01, 0.3])
@pytest.mark.parametrize(
    "student", [MLP((16,), shape=tiny.SHAPE), CNN(4, shape=tiny.SHAPE), ResNet(8, shape=tiny.SHAPE)], ids=str
)
@pytest.mark.parametrize("part", [(), ("first",)], ids=["all", "a part frozen"])
def test_it_is_the_slope_of_the_validation_loss_of_real_networks(
    tmp_path: Path, student: Architecture, rate: float, part: tuple[str, ...]
) -> None:
    first = next(name for name, each in student.blueprint().body.named_children() if list(each.parameters()))
    ahead = step(replace(stage(student=student), frozen=(first,) if part else ()), rate, tmp_path)
    (learned,) = ahead.learner.tuned
    assert isinstance(learned, _Learned)
    u, eps = float(learned.u), 1e-4
    high, low = (unrolled(ahead, 1 + 9 / (1 + float(np.exp(-each)))) for each in (u + eps, u - eps))
    found = float(learned.hypergradient(ahead))
    assert found != 0
    assert found == pytest.approx((high - low) / (2 * eps), rel=0.01, abs=1e-9)


class Tied(nn.Module):
    """One weight in two layers, and one layer under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.again = nn.Linear(64, 64), nn.Linear(64, 64)
        self.again.weight = self.inner.weight
        self.norm = self.same = nn.BatchNorm1d(64)
        self.fc = nn.Linear(64, 10)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        return self.fc(self.same(self.again(self.norm(self.inner(images_BCHW.flatten(1))).tanh())))


def test_tied_weights_and_modules_of_several_names_are_moved_as_one_and_put_back(tmp_path: Path) -> None:
    ahead = step(stage(student=Custom(f"{__name__}:Tied", shape=tiny.SHAPE)), 0.1, tmp_path)
    body = ahead.learner.student.body
    before = {name: (id(each), each.clone()) for name, each in body.state_dict(keep_vars=True).items()}
    (learned,) = ahead.learner.tuned
    assert isinstance(learned, _Learned)
    u, eps = float(learned.u), 1e-4
    high, low = (unrolled(ahead, 1 + 9 / (1 + float(np.exp(-each)))) for each in (u + eps, u - eps))
    assert float(learned.hypergradient(ahead)) == pytest.approx((high - low) / (2 * eps), rel=0.01)
    for name, each in body.state_dict(keep_vars=True).items():
        assert id(each) == before[name][0]
        assert torch.equal(each, before[name][1])


@pytest.mark.parametrize("student", [CNN(4, shape=tiny.SHAPE), ATTENTIVE], ids=str)
def test_a_look_changes_the_temperature_and_nothing_else(tmp_path: Path, student: Architecture) -> None:
    ahead = step(stage(student=student), 0.05, tmp_path)
    learner = ahead.learner
    before, random = copy.deepcopy(learner.state_dict()), torch.get_rng_state()
    look(learner, ahead.feed, ahead.feeding, 0.05)
    changed = {name for name, value in learner.state_dict().items() if not torch.equal(value, before[name])}
    assert {name.rpartition(".")[2] for name in changed} == {"u", "moments_2", "moves"}
    assert torch.equal(torch.get_rng_state(), random)
    assert all(parameter.grad is None for parameter in learner.parameters())
    assert all(module.training for module in learner.modules())


def test_it_looks_every_so_many_steps_of_the_whole_training(tmp_path: Path) -> None:
    ahead = step(stage(Hypergradient(every=7)), 0.05, tmp_path)
    (learned,) = ahead.learner.tuned
    looks = []
    for epoch in range(3):
        for number in range(10):
            batch = replace(ahead.feeding.batch, progress=Progress(epoch, 3, number, 10))
            before = float(learned.moves)  # type: ignore[arg-type]
            look(ahead.learner, ahead.feed, replace(ahead.feeding, batch=batch), 0.05)
            looks += [10 * epoch + number] * (float(learned.moves) > before)  # type: ignore[arg-type]
    assert looks == [0, 7, 14, 21, 28]


@pytest.mark.parametrize("world", [1, 2, 3])
def test_validation_rows_go_around_and_are_shared_out(world: int) -> None:
    shares = [Still(View(tiny.DATASET, tiny.MOVED), Process(rank, world, torch.device("cpu"))) for rank in range(world)]
    rows = tiny.DATASET.split("validation")
    seen = []
    for first in range(0, 10 * len(rows), 10):
        held = [share.held_out(first, 10) for share in shares]
        assert {each.rows for each in held} == {10}
        seen += [label for each in held for label in each.labels_B.tolist()]
    assert sorted(seen) == sorted(rows.labels.tolist() * 10)
    (whole,) = {share.held_out(5, 10**6).rows for share in shares}
    assert whole == len(rows)


@pytest.fixture(scope="module")
def labeled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage on which the teacher has answered."""
    root = tmp_path_factory.mktemp("labeled")
    train(root, stage(Constant(4.0)))
    return root


def train(root: Path, of: Stage) -> dict[str, Tensor]:
    """The learner at the end."""
    Local(Storage(root), Display(quiet=True), any_teacher=True).run(of)
    return state(root, of)


def state(root: Path, of: Stage) -> dict[str, Tensor]:
    found = checkpoint.load(Storage(root).folder(of) / "checkpoint.pt")
    assert found is not None
    return dict(found["learner"])


def lines(root: Path, of: Stage) -> list[dict[str, Any]]:
    """Of metrics.jsonl, without what a clock says."""
    text = (Storage(root).folder(of) / "metrics.jsonl").read_text()
    return [{k: v for k, v in json.loads(line).items() if "second" not in k} for line in text.splitlines()]


def temperatures(root: Path, of: Stage) -> list[float]:
    return [shown["tau"] for line in lines(root, of) for shown in line["shown"].values()]


def busy(temperature: Temperature, student: Architecture) -> Stage:
    """A stage with a bit of everything that a pass can touch: statistics, memories, dropout, mixed rows, frozen parts."""
    written = stage(temperature, student=student)
    contrast = 0.1 * CRD(dim=4, negatives=20, tap="logits")
    gated = DistillEnsemble(KL(), Gate(), temperature, teachers=("other", "teacher"))
    teachers = {**written.teachers, "other": tiny.teacher(1, width=8)}
    view = View(tiny.DATASET, (*tiny.MOVED, Mixup(alpha=0.4)), replicas=2)
    frozen = ("stage1",) if isinstance(student, CNN) else ()
    objective = written.objective.about(("teacher",)) + contrast.about(("teacher",)) + 0.5 * gated
    return replace(written, objective=objective, teachers=teachers, view=view, frozen=frozen)


@pytest.mark.parametrize("student", [CNN(4, shape=tiny.SHAPE), ATTENTIVE], ids=str)
def test_a_training_that_looks_but_does_not_move_is_that_of_the_constant_bit_for_bit(
    labeled: Path, student: Architecture
) -> None:
    spec = replace(OFTEN, rate=0.0)
    (tau,) = replace(spec).build(None)(None, ()).flatten().tolist()  # type: ignore[arg-type]
    looking, plain = busy(spec, student), busy(Constant(tau), student)
    found, expected = train(labeled, looking), train(labeled, plain)
    kept = [name for name in found if name.startswith("student.")]
    assert all(torch.equal(found[name], expected[name]) for name in kept)
    assert sorted(name.rpartition(".")[2] for name in found.keys() - expected.keys())[-1] == "u"
    for one, other in zip(lines(labeled, looking), lines(labeled, plain), strict=True):
        assert list(one["terms"].values()) == list(other["terms"].values())
        assert one["shown"]["gate on input"] == other["shown"]["gate on input"]
        assert one["val_nll"] == other["val_nll"]


def test_a_stage_without_it_never_asks_for_validation_rows(labeled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Feed, "held_out", None)
    of = stage(Constant(3.0))
    train(labeled, of)
    assert all("shown" not in line for line in lines(labeled, of))
    with pytest.raises(TypeError):
        train(labeled, stage(replace(OFTEN, every=5)))


class Killed(Exception):  # noqa: N818
    pass


@pytest.mark.parametrize("student", [CNN(4, shape=tiny.SHAPE), ATTENTIVE], ids=str)
def test_a_training_that_was_killed_in_an_epoch_ends_as_if_it_had_not_been(
    labeled: Path, monkeypatch: pytest.MonkeyPatch, student: Architecture
) -> None:
    of = stage(student=student, epochs=4)
    expected, noted = train(labeled, of), lines(labeled, of)
    folder = Storage(labeled).folder(of)
    folder.rename(folder.with_name(f"undisturbed-{student}"))
    whole = Order.epoch

    def interrupted(order: np.ndarray) -> Iterator[np.ndarray]:
        yield from order[:7]
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Order, "epoch", lambda self, e: interrupted(whole(self, e)) if e == 2 else whole(self, e))
        with pytest.raises(Killed):
            loop.train(TrainingJob(of, Storage(labeled)), HERE)
    assert len(lines(labeled, of)) == 2
    found = train(labeled, of)
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert lines(labeled, of) == noted
    assert len(set(temperatures(labeled, of))) > 2


@pytest.mark.parametrize("size", [64, 51], ids=["even shares", "uneven shares"])
def test_two_workers_compute_what_one_does(labeled: Path, size: int) -> None:
    of = stage(replace(OFTEN, rows=75), size=size)
    alone, taus = train(labeled, of), temperatures(labeled, of)
    folder = Storage(labeled).folder(of)
    folder.rename(folder.with_name(f"alone-{size}"))  # else there is nothing left to train
    together.train(labeled, of)
    found = state(labeled, of)
    assert found.keys() == alone.keys()
    for name, value in alone.items():
        torch.testing.assert_close(
            found[name], value, rtol=1e-3, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )
    assert temperatures(labeled, of) == pytest.approx(taus, rel=1e-3)
    assert len(set(taus)) == 2
