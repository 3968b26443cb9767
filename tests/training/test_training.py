"""The loop: data order, resuming, averages, the learner."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file

from raykd.budget import AdamW, Steps
from raykd.data import Mixup, View
from raykd.identity import fingerprint
from raykd.models import CNN, weights
from raykd.order import Order
from raykd.runtime import Display, Local
from raykd.stage import Pretrained, Stage
from raykd.storage import Storage
from raykd.training import checkpoint, loop
from raykd.training.feed import Feed
from raykd.training.job import TrainingJob
from raykd.training.process import Process


def train(root: Path, stage: Stage) -> Path:
    """Train a stage without teachers; its folder."""
    job = TrainingJob(stage, Storage(root))
    loop.train(job, Process(0, 1, torch.device("cpu")))
    return job.folder


def feed(stage: Stage, root: Path, rank: int = 0, world: int = 1) -> Feed:
    return Feed(TrainingJob(stage, Storage(root)), Process(rank, world, torch.device("cpu")))


def ids(fed: Feed, epoch: int) -> list[list[int]]:
    return [feeding.batch.ids_B.tolist() for feeding in fed.epoch(epoch)]


@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_any_number_of_workers_sees_the_same_global_batches(tmp_path: Path, world: int) -> None:
    alone = ids(feed(tiny.teacher(), tmp_path), epoch=2)
    shares = [ids(feed(tiny.teacher(), tmp_path, rank, world), epoch=2) for rank in range(world)]
    for step, batch in enumerate(alone):
        together = [share[step] for share in shares]
        assert sorted(chain(*together)) == sorted(batch)
        assert max(map(len, together)) - min(map(len, together)) <= 1


def test_the_order_is_a_function_of_seed_and_epoch_alone(tmp_path: Path) -> None:
    one = feed(tiny.teacher(), tmp_path)
    assert ids(one, 3) == ids(feed(tiny.teacher(), tmp_path), 3)
    assert ids(one, 3) != ids(one, 4)
    assert ids(one, 3) != ids(feed(replace(tiny.teacher(), seed=1), tmp_path), 3)
    assert sorted(chain(*ids(one, 3))) == sorted(tiny.DATASET.split("train").ids.tolist())  # 640 is 20 batches of 32


def test_rows_that_fill_no_batch_sit_out_one_epoch_not_all(tmp_path: Path) -> None:
    fed = feed(tiny.with_batch(tiny.teacher(), 600), tmp_path)
    seen = [set(chain(*ids(fed, epoch))) for epoch in range(8)]
    assert all(len(rows) == 600 for rows in seen)
    assert set.union(*seen) == set(tiny.DATASET.split("train").ids.tolist())


def test_a_batch_larger_than_the_data_is_all_of_it(tmp_path: Path) -> None:
    assert [len(batch) for batch in ids(feed(tiny.with_batch(tiny.teacher(), 10_000), tmp_path), 0)] == [640]


def test_each_epoch_reads_its_replica_of_each_row(tmp_path: Path) -> None:
    stage = replace(tiny.teacher(), view=View(tiny.DATASET, tiny.MOVED, replicas=3))
    fed = feed(stage, tmp_path)
    by_epoch = [
        {int(i): x for f in fed.epoch(e) for i, x in zip(f.batch.ids_B, f.inputs_B, strict=True)} for e in range(4)
    ]
    some = list(by_epoch[0])[:50]
    assert all(torch.equal(by_epoch[0][i], by_epoch[3][i]) for i in some)
    assert not all(torch.equal(by_epoch[0][i], by_epoch[1][i]) for i in some)


class Killed(Exception):  # noqa: N818
    pass


@pytest.mark.parametrize("ema", [None, 0.9])
@pytest.mark.parametrize("place", ["in an epoch", "before the checkpoint", "after the checkpoint"])
def test_a_training_that_was_killed_ends_as_if_it_had_not_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, ema: float | None
) -> None:
    budget = replace(tiny.teacher().budget, optimiser=AdamW(), ema=ema, clip=1.0, schedule=Steps((2,), warmup=1))
    stage = replace(tiny.teacher(), budget=budget, student=CNN(4, shape=tiny.SHAPE))
    undisturbed = train(tmp_path / "undisturbed", stage)

    with monkeypatch.context() as patch:
        _kill(patch, place)
        with pytest.raises(Killed):
            train(tmp_path / "killed", stage)
    killed = train(tmp_path / "killed", stage)

    for name in ("best", "last"):
        one, other = load_file(undisturbed / f"{name}.safetensors"), load_file(killed / f"{name}.safetensors")
        assert all(torch.equal(one[key], other[key]) for key in one), name
    assert _steady(undisturbed) == _steady(killed)


def _kill(patch: pytest.MonkeyPatch, place: str) -> None:
    """Raise in the third epoch."""
    save, order = checkpoint.save, Order.epoch
    saves = 0

    def saving(path: Path, state: dict[str, Any]) -> None:
        nonlocal saves
        saves += 1
        if saves == 3 and place == "before the checkpoint":
            raise Killed
        save(path, state)
        if saves == 3 and place == "after the checkpoint":
            raise Killed

    def ordering(self: Order, epoch: int) -> Any:
        found = order(self, epoch)
        return _interrupted(found) if epoch == 2 and place == "in an epoch" else found

    patch.setattr(checkpoint, "save", saving)
    patch.setattr(Order, "epoch", ordering)


def _interrupted(order: np.ndarray) -> Iterator[np.ndarray]:
    yield from order[:3]
    raise Killed


def _steady(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if "second" not in k} for line in lines]


def test_metrics_are_a_line_for_each_epoch_with_every_term(tmp_path: Path) -> None:
    lines = _steady(train(tmp_path, tiny.teacher()))
    assert [line["epoch"] for line in lines] == [0, 1, 2, 3]
    for line in lines:
        assert line.keys() == {"epoch", "lr", "loss", "terms", "val_top1", "val_nll"}
        assert line["loss"] == pytest.approx(sum(line["terms"].values()))
    assert lines[-1]["loss"] < lines[0]["loss"]


def test_the_best_on_validation_is_kept_and_named(tmp_path: Path) -> None:
    folder = train(tmp_path, tiny.teacher())
    best = max(line["val_top1"] for line in _steady(folder))
    noted = weights.metadata(str(folder / "best.safetensors"))
    assert float(noted["val_top1"]) == best
    assert noted["stage"] == fingerprint(tiny.teacher())
    assert json.loads((folder / "result.json").read_text())["metrics"]["val_top1"] == pytest.approx(best)


def test_an_average_of_the_weights_is_what_is_kept(tmp_path: Path) -> None:
    averaged = replace(tiny.teacher(), budget=replace(tiny.teacher().budget, ema=0.99))
    plain, slow = train(tmp_path, tiny.teacher()), train(tmp_path, averaged)
    state = checkpoint.load(slow / "checkpoint.pt")
    assert state is not None
    student = {k.removeprefix("student.body."): v for k, v in state["learner"].items()}
    last = load_file(slow / "last.safetensors")
    assert not torch.equal(last["0.weight" if "0.weight" in last else next(iter(last))], student[next(iter(last))])
    unaveraged = load_file(plain / "last.safetensors")
    for name, tensor in unaveraged.items():
        torch.testing.assert_close(student[name], tensor)  # the average does not disturb the training


def test_clipping_bounds_the_step(tmp_path: Path) -> None:
    budget = replace(tiny.teacher().budget, epochs=1, clip=1e-6)
    stage = replace(tiny.teacher(), budget=budget)
    before = loop._start(TrainingJob(stage, Storage(tmp_path)), Process(0, 1, torch.device("cpu"))).learner.state_dict()
    after = checkpoint.load(train(tmp_path, stage) / "checkpoint.pt")
    assert after is not None
    moved = [(after["learner"][name] - value).abs().max() for name, value in before.items() if "weight" in name]
    assert 0 < max(moved) < 5e-3  # weight decay only


def test_a_stage_starts_where_init_ended(tmp_path: Path) -> None:
    first = train(tmp_path, tiny.teacher())
    given = Pretrained(tiny.teacher().student, str(first / "best.safetensors"))
    stage = replace(tiny.teacher(), init=given, seed=5)
    job = TrainingJob(stage, Storage(tmp_path))
    started = loop._start(job, Process(0, 1, torch.device("cpu"))).learner.student.body.state_dict()
    for name, tensor in load_file(first / "best.safetensors").items():
        torch.testing.assert_close(started[name], tensor)


def test_weights_that_are_not_finite_after_the_last_step_are_never_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    validate = loop._validate

    def poisoned(training: loop.Training) -> tuple[float, float]:
        if len(training.history) == 2:
            for parameter in training.learner.parameters():
                parameter.data.fill_(float("nan"))
        return validate(training)

    monkeypatch.setattr(loop, "_validate", poisoned)
    with pytest.raises(loop.DivergedError, match="validation loss is not finite at step 20 of epoch 3"):
        train(tmp_path, tiny.teacher())
    (folder,) = (tmp_path / "stages").iterdir()
    assert all(tensor.isfinite().all() for tensor in load_file(folder / "last.safetensors").values())


def test_mixed_rows_train_and_are_labeled_as_mixed(tmp_path: Path) -> None:
    view = View(tiny.DATASET, (Mixup(alpha=0.4),), replicas=2)
    done = Local(Storage(tmp_path), Display(quiet=True), verify="all").run(replace(tiny.student(), view=view))[0]
    assert done.counts.teacher_rows == {"teacher": 2 * tiny.rows()}
    assert done.metrics["test_top1"] > 0.4


def test_a_checkpoint_with_code_in_it_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return print, ("ran",)

    torch.save({"history": Evil()}, tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match=r"checkpoint.pt is no checkpoint of this stage \(it may hold code\)"):
        checkpoint.load(tmp_path / "checkpoint.pt")
