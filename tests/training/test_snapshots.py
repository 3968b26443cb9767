"""Parts of one training: stopped early, continued, kept at its best or its last, started in the middle."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file

from raykd.budget import SGD, Budget, Cosine, Steps
from raykd.data import View
from raykd.plan import plan
from raykd.runtime import Display, Local
from raykd.stage import Pretrained, Stage
from raykd.storage import Storage
from raykd.training import checkpoint, loop
from raykd.training.feed import Feed
from raykd.training.job import TrainingJob
from raykd.training.process import Process

HERE = Process(0, 1, torch.device("cpu"))


def of(stage: Stage, **changes: Any) -> Stage:
    """The stage with another budget."""
    return replace(stage, budget=replace(stage.budget, **changes))


def train(root: Path, stage: Stage) -> list[int]:
    """Train a stage without teachers; the epochs that it took."""
    epochs: list[int] = []
    loop.train(TrainingJob(stage, Storage(root)), HERE, lambda epoch: epochs.append(epoch["epoch"]))
    return epochs


def weights(root: Path, stage: Stage, kept: str = "") -> dict[str, torch.Tensor]:
    """What it yields, or a file of it."""
    storage = Storage(root)
    return load_file(storage.folder(stage) / f"{kept}.safetensors" if kept else storage.weights(stage))


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def metrics(root: Path, stage: Stage) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, without what a clock says."""
    lines = (Storage(root).folder(stage) / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if "second" not in k} for line in lines]


@pytest.mark.parametrize("ema", [None, 0.9])
def test_snapshots_together_train_as_many_epochs_as_one_training_and_disturb_nothing(
    tmp_path: Path, ema: float | None
) -> None:
    whole = of(tiny.teacher(epochs=6), ema=ema)
    snapshots = [of(whole, until=2, keep="last"), of(whole, until=4), whole]
    trained = [train(tmp_path / "parts", stage) for stage in snapshots]
    assert trained == [[0, 1], [2, 3], [4, 5]]
    assert train(tmp_path / "whole", whole) == [0, 1, 2, 3, 4, 5]
    for kept in ("best", "last"):
        assert same(weights(tmp_path / "parts", whole, kept), weights(tmp_path / "whole", whole, kept))
    assert metrics(tmp_path / "parts", whole) == metrics(tmp_path / "whole", whole)
    assert not same(weights(tmp_path / "parts", snapshots[0]), weights(tmp_path / "parts", whole, "last"))


def test_a_snapshot_is_the_training_as_it_stood(tmp_path: Path) -> None:
    whole = tiny.teacher(epochs=4)
    half = of(whole, until=2, keep="last")
    for stage in (half, whole):
        train(tmp_path, stage)
    assert metrics(tmp_path, half) == metrics(tmp_path, whole)[:2]
    state = checkpoint.load(Storage(tmp_path).folder(half) / "checkpoint.pt")
    assert state is not None
    for name, value in weights(tmp_path, half).items():
        assert torch.equal(state["learner"][f"student.body.{name}"], value)


def test_without_a_shorter_one_it_is_trained_from_the_start_and_the_longest_one_counts(tmp_path: Path) -> None:
    whole = tiny.teacher(epochs=5)
    assert train(tmp_path, of(whole, until=3)) == [0, 1, 2]
    assert train(tmp_path, of(whole, until=1)) == [0]  # a longer one is of no use to it
    assert train(tmp_path, whole) == [3, 4]


def test_what_is_not_finished_or_differs_elsewhere_is_not_continued(tmp_path: Path) -> None:
    whole = tiny.teacher(epochs=3)
    half = of(whole, until=2)
    train(tmp_path, half)
    assert train(tmp_path, replace(whole, seed=1)) == [0, 1, 2]
    assert train(tmp_path, of(whole, optimiser=SGD(lr=0.2))) == [0, 1, 2]
    (Storage(tmp_path).folder(half) / "result.json").unlink()
    assert train(tmp_path, whole) == [0, 1, 2]


def test_a_longer_training_that_was_killed_goes_on_from_its_own_checkpoint(tmp_path: Path) -> None:
    whole = tiny.teacher(epochs=5)
    train(tmp_path, of(whole, until=2))

    def killed(epoch: Any) -> None:
        if epoch["epoch"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop.train(TrainingJob(whole, Storage(tmp_path)), HERE, killed)
    assert train(tmp_path, whole) == [4]
    train(tmp_path / "whole", whole)
    assert same(weights(tmp_path, whole, "last"), weights(tmp_path / "whole", whole, "last"))


def test_the_best_or_the_last_epoch_is_what_a_stage_yields_and_what_its_metrics_are_of(tmp_path: Path) -> None:
    # a rate that is far too high at the end, so that the best is not the last
    budget = replace(tiny.teacher(epochs=4).budget, optimiser=SGD(lr=0.1), schedule=Steps((3,), factor=80.0))
    best = replace(tiny.teacher(), budget=budget)
    last = of(best, keep="last")
    runner = Local(Storage(tmp_path), Display(quiet=True))
    kept = dict(zip(("best", "last"), runner.run(best, last), strict=True))
    accuracies = [line["val_top1"] for line in metrics(tmp_path, best)]
    assert accuracies[-1] < max(accuracies)
    assert kept["best"].metrics["val_top1"] == pytest.approx(max(accuracies))
    assert kept["last"].metrics["val_top1"] == pytest.approx(accuracies[-1])
    for name, done in kept.items():
        assert Path(done.weights).name == f"{name}.safetensors"
        assert same(load_file(done.weights), weights(tmp_path, done.stage))
    assert metrics(tmp_path, best) == metrics(tmp_path, last)
    assert kept["best"].network.body.state_dict().keys() == weights(tmp_path, best).keys()


def test_until_0_is_a_copy_of_what_the_stage_starts_from(tmp_path: Path) -> None:
    first = tiny.teacher()
    copy = of(replace(first, init=first, seed=7), until=0)
    done, copied = Local(Storage(tmp_path), Display(quiet=True)).run(first, copy)
    assert metrics(tmp_path, copy) == []
    assert same(load_file(done.weights), load_file(copied.weights))
    assert same(weights(tmp_path, copy, "last"), weights(tmp_path, copy, "best"))
    assert {name: done.metrics[name] for name in copied.metrics} == copied.metrics
    fresh = of(first, until=0)
    train(tmp_path, fresh)
    started = loop._start(TrainingJob(fresh, Storage(tmp_path)), HERE).learner.student.body.state_dict()
    assert same(weights(tmp_path, fresh), dict(started))


@pytest.mark.parametrize("parts", [2, 4, (1, 4, 2)])
def test_parts_that_start_where_the_one_before_ended_are_one_training(
    tmp_path: Path, parts: int | tuple[int, ...]
) -> None:
    # without momentum an optimiser remembers nothing
    view = View(tiny.DATASET, tiny.MOVED, replicas=3)
    budget = Budget(7, batch_size=32, optimiser=SGD(lr=0.1, momentum=0.0), schedule=Cosine(warmup=2), keep="last")
    whole = replace(tiny.teacher(), view=view, budget=budget)
    train(tmp_path, whole)
    before, trained = None, []
    for part in budget.parts(parts):
        before = replace(whole, init=before, budget=part)
        trained += train(tmp_path, before)
    assert trained == list(range(7))
    assert before is not None
    assert same(weights(tmp_path, before), weights(tmp_path, whole))


def test_a_part_sees_the_order_the_replicas_and_the_rates_of_the_whole(tmp_path: Path) -> None:
    view = View(tiny.DATASET, tiny.MOVED, replicas=3)
    whole = replace(tiny.teacher(epochs=6), view=view)
    fed = [Feed(TrainingJob(each, Storage(tmp_path)), HERE) for each in (whole, of(whole, start=4))]
    one, other = (next(iter(each.epoch(4))) for each in fed)
    assert torch.equal(one.batch.ids_B, other.batch.ids_B)
    assert torch.equal(one.inputs_B, other.inputs_B)
    assert one.batch.progress == other.batch.progress
    train(tmp_path, of(whole, start=4))
    train(tmp_path, whole)
    rates = [line["lr"] for line in metrics(tmp_path, whole)]
    assert [line["lr"] for line in metrics(tmp_path, of(whole, start=4))] == rates[4:]


def test_a_part_can_be_stopped_and_continued_as_well(tmp_path: Path) -> None:
    part = of(tiny.teacher(epochs=6), start=2)
    assert train(tmp_path, of(part, until=4)) == [2, 3]
    assert train(tmp_path, part) == [4, 5]
    assert train(tmp_path / "whole", part) == [2, 3, 4, 5]
    assert same(weights(tmp_path, part, "last"), weights(tmp_path / "whole", part, "last"))


def test_a_plan_takes_the_snapshots_of_a_training_in_their_order_and_prices_them(tmp_path: Path) -> None:
    whole = replace(tiny.student(epochs=6), label="whole")
    early, late = (replace(of(whole, until=until, keep="last"), label=str(until)) for until in (2, 4))
    taught = replace(whole, teachers={"a": whole, "b": late, "c": early}, label="taught")
    found = plan([taught, early], Storage(tmp_path)).steps
    assert [str(step.network) for step in found] == ["teacher", "2", "4", "whole", "taught"]
    epochs = [step.network.budget.trained for step in found if isinstance(step.network, Stage)]
    assert epochs == [4, 2, 4, 6, 6]
    assert found[1].flops * 3 == found[3].flops
    part = plan([of(whole, start=4)], Storage(tmp_path)).steps[-1]
    assert part.flops * 3 == found[3].flops


def test_a_plan_leaves_other_networks_where_they_were(tmp_path: Path) -> None:
    state = tiny.teacher().student.build().body.state_dict()
    torch.save(state, tmp_path / "weights.pt")
    given = Pretrained(tiny.teacher().student, str(tmp_path / "weights.pt"))
    stage = replace(tiny.student(), teachers={"a": given, "b": tiny.teacher(), "c": tiny.teacher(width=8)})
    networks = [step.network for step in plan([stage], Storage(tmp_path)).steps]
    assert networks == [given, tiny.teacher(), tiny.teacher(width=8), stage]


@pytest.mark.parametrize(
    ("epochs", "parts", "trained"),
    [(10, 1, [10]), (10, 3, [4, 3, 3]), (6, 6, [1] * 6), (10, (2, 8), [2, 8]), (10, [1, 1, 8], [1, 1, 8])],
)
def test_parts_are_consecutive_and_together_the_whole(epochs: int, parts: Any, trained: list[int]) -> None:
    budget = Budget(epochs)
    found = budget.parts(parts)
    assert [part.trained for part in found] == trained
    assert [part.start for part in found[1:]] == [part.end for part in found[:-1]]
    assert (found[0].start, found[-1].end) == (0, epochs)
    assert {part.keep for part in found[:-1]} <= {"last"}
    assert found[-1].keep == budget.keep
    rates = [part.lr(epoch) for part in found for epoch in range(part.start, part.end)]
    assert rates == [budget.lr(epoch) for epoch in range(epochs)]


def test_one_part_is_the_whole_and_parts_have_parts() -> None:
    budget = Budget(12, until=10)
    assert budget.parts(1) == (budget,)
    first, second = budget.parts(2)
    assert [(part.start, part.end) for part in (*first.parts(2), *second.parts((1, 4)))] == [
        (0, 3), (3, 5), (5, 6), (6, 10),
    ]  # fmt: skip
    assert second.parts((1, 4))[-1] == replace(second, start=6)


def test_what_a_part_is_compared_with_is_a_whole_training() -> None:
    student = tiny.student(epochs=6)
    assert of(student, start=4).alone().budget == student.budget
    assert of(student, until=0).alone().budget == student.budget
    assert of(student, until=4).alone().budget == replace(student.budget, until=4)


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda: Budget(epochs=3, until=4), "until=4 of Budget: 0 to 3, its epochs, would be right"),
        (lambda: Budget(epochs=3, until=-1), "until=-1 of Budget"),
        (lambda: Budget(epochs=3, start=4), "start=4 of Budget: 0 to 3, where it ends, would be right"),
        (lambda: Budget(epochs=3, start=2, until=1), "start=2 of Budget: 0 to 1"),
        (lambda: Budget(epochs=3, start=-1), "start=-1 of Budget"),
        (lambda: Budget(keep="first"), "keep='first' of Budget: 'best' or 'last'"),  # type: ignore[arg-type]
        (lambda: Budget(3).parts(4), "parts of 1, 1, 1, 0 epochs: each needs one, and together 3"),
        (lambda: Budget(3).parts(0), "parts of no epochs"),
        (lambda: Budget(3).parts(-1), "parts of no epochs"),
        (lambda: Budget(3).parts(()), "parts of no epochs"),
        (lambda: Budget(3).parts((2, 2)), "parts of 2, 2 epochs: each needs one, and together 3"),
    ],
)
def test_a_budget_that_cannot_be_is_refused_when_it_is_written(write: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words) as refusal:
        write()
    assert "\n" not in str(refusal.value)
