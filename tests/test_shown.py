"""What learned pieces show: means against loops, a gate's weights by class, the same alone, together and after a kill."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import together
import torch
from laws import NAMES, random_batch
from torch import Tensor

from raykd.methods.ctkd import CTKD
from raykd.methods.gate import Attention, Gate, GateEntropy, attended
from raykd.methods.kl import KL
from raykd.objective import STUDENT, Context, Criterion, Objective
from raykd.order import Order
from raykd.runtime import Display, Local
from raykd.shown import Means, unnoted
from raykd.signals import INPUT, LOGITS
from raykd.stage import Stage
from raykd.storage import Storage
from raykd.terms import Constant, Distill, DistillEnsemble

GATE = Gate(hidden=8, embedding=3, dropout=0.0)
TEACHERS = {"a": tiny.teacher(epochs=2), "b": tiny.teacher(epochs=1, width=8)}


def alone(tensor: Tensor) -> Tensor:
    return tensor


def criterion(objective: Objective) -> Criterion:
    torch.manual_seed(0)
    shapes = {name: {LOGITS: (5,)} for name in NAMES} | {STUDENT: {LOGITS: (5,), INPUT: (2, 2)}}
    return objective.build(Context(shapes, NAMES, classes=5, rows=9))


def batches() -> Iterator[Any]:
    for seed in range(3):
        found = random_batch(seed=seed)
        inputs = torch.rand(6, 2, 2, generator=torch.Generator().manual_seed(seed))
        yield replace(found, student={**found.student, INPUT: inputs})


def gated(epochs: int = 2, **changes: Any) -> Stage:
    objective = attended(DistillEnsemble(KL(), GATE, Constant(2.0)), accuracy=0.1)
    stage = replace(tiny.student(epochs=epochs, replicas=1), objective=objective, teachers=TEACHERS, label="gated")
    return replace(stage, **changes)


def run(root: Path, stage: Stage) -> Path:
    return Path(Local(Storage(root), Display(quiet=True), any_teacher=True).run(stage)[0].weights).parent


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_means_are_those_of_all_rows_added_by_group() -> None:
    generator = torch.Generator().manual_seed(0)
    means, values, groups = (
        Means(4),
        torch.rand(30, 2, generator=generator),
        torch.randint(3, (30,), generator=generator),
    )
    for start in range(0, 30, 7):
        means.add(values[start : start + 7], groups[start : start + 7])
    by_group, of_all = means.taken(alone)
    for group in range(3):
        expected = [sum(column) / len(column) for column in zip(*values[groups == group].tolist(), strict=True)]
        assert by_group[group] == pytest.approx(expected, abs=1e-4)
    assert by_group[3] == [None, None]  # it had no rows
    assert of_all == pytest.approx(values.mean(0).tolist(), abs=1e-4)
    assert means.taken(alone) == ([], [])  # it begins anew


def test_means_of_workers_are_those_of_all_their_rows() -> None:
    ours, theirs, all_of_us = Means(2), Means(2), Means(2)
    one, other = torch.rand(5, 3), torch.rand(2, 3)
    places = torch.tensor([0, 1, 0, 1, 1])
    ours.add(one, places)
    theirs.add(other, places[:2])
    all_of_us.add(torch.cat([one, other]), torch.cat([places, places[:2]]))
    sent: list[Tensor] = []
    theirs.taken(lambda sums: sent.append(sums.clone()) or sums)  # type: ignore[func-returns-value]
    by_group, of_all = ours.taken(lambda sums: sums + sent[0])
    expected = all_of_us.taken(alone)
    assert of_all == pytest.approx(expected[1], abs=2e-4)
    for found, those in zip(by_group, expected[0], strict=True):
        assert found == pytest.approx(those, abs=2e-4)


def test_what_is_no_step_of_the_training_is_not_noted() -> None:
    means = Means()
    with unnoted():
        means.add(torch.rand(3, 1))
    assert means.taken(alone) == ([], [])
    built = criterion(1.0 * GateEntropy(GATE)).eval()
    built(next(batches()))
    assert built.shown(alone) == {"gate on input": {}}


def test_means_keep_no_graph() -> None:
    means, values = Means(), torch.rand(3, 1, requires_grad=True)
    means.add(values)
    assert means._sums_GX is not None
    assert not means._sums_GX.requires_grad


def test_a_gate_shows_its_mean_weight_of_each_teacher_by_class_and_its_mean_entropy() -> None:
    built = criterion(attended(DistillEnsemble(KL(), GATE), accuracy=1.0))  # three terms ask one gate
    (gate,) = (module for module in built.modules() if isinstance(module, Attention))
    weights: dict[int, list[list[float]]] = {label: [] for label in range(5)}
    for batch in batches():
        built(batch)
        for label, row in zip(batch.labels_B.tolist(), gate.attention(batch.student[INPUT]).tolist(), strict=True):
            weights[label].append(row)
    (found,) = built.shown(alone).values()
    for label, rows in weights.items():
        for name, column in zip(NAMES, zip(*rows, strict=True) if rows else [()] * 3, strict=True):
            shown = found["weight"][name][label]
            assert shown == (pytest.approx(sum(column) / len(column), abs=1e-4) if column else None)
    rows = [row for each in weights.values() for row in each]
    for name, column in zip(NAMES, zip(*rows, strict=True), strict=True):
        assert found["mean"][name] == pytest.approx(sum(column) / len(rows), abs=1e-4)
    entropies = [-sum(x * math.log(x) for x in row) for row in rows]
    assert found["entropy"] == pytest.approx(sum(entropies) / len(rows), abs=1e-4)
    assert built.shown(alone) == {"gate on input": {}}


def test_gates_of_the_same_name_are_told_apart() -> None:
    built = criterion(1.0 * GateEntropy(GATE) + GateEntropy(replace(GATE, hidden=9)))
    assert list(built.shown(alone)) == ["gate on input #1", "gate on input #2"]


def test_what_learns_nothing_shows_nothing() -> None:
    assert criterion(1.0 * Distill(KL())).shown(alone) == {}


def test_a_learned_temperature_shows_itself() -> None:
    one = criterion(1.0 * Distill(KL(), temperature=CTKD()))
    assert one.shown(alone) == {"tau learned per all": {"tau": 1 + 20 / 2}}  # theta starts at 0
    per_row = criterion(1.0 * Distill(KL(), temperature=CTKD(per="row")))
    (module,) = (each for each in per_row.modules() if hasattr(each, "mlp"))
    with torch.no_grad():
        module.mlp[-1].weight.normal_()
    seen = list(batches())
    for batch in seen:
        per_row(batch)
    (found,) = per_row.shown(alone).values()
    expected = torch.cat([module(batch, NAMES) for batch in seen], 1).mean(1)
    assert list(found["tau"].values()) == pytest.approx(expected.tolist(), abs=1e-3)
    assert tuple(found["tau"]) == NAMES


def test_it_is_in_the_line_of_every_epoch_and_only_of_what_learns(tmp_path: Path) -> None:
    found = lines(run(tmp_path, gated()))
    assert len(found) == 2
    for line in found:
        told = line["shown"]["gate on input"]
        assert [len(column) for column in told["weight"].values()] == [10, 10]
        assert sum(told["mean"].values()) == pytest.approx(1, abs=2e-4)
        # the objective's own term of the entropy is its negative, weighed and averaged over the same rows
        assert told["entropy"] == pytest.approx(-line["terms"]["GateEntropy"] / 0.01, abs=1e-3)
        for column in zip(*told["weight"].values(), strict=True):
            assert sum(column) == pytest.approx(1, abs=2e-4)
    assert all("shown" not in line for line in lines(run(tmp_path, TEACHERS["a"])))


class Killed(Exception):  # noqa: N818
    pass


def test_it_is_the_same_after_a_kill_in_the_middle_of_an_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = gated(epochs=3)
    expected = lines(run(tmp_path / "undisturbed", stage))
    for teacher in TEACHERS.values():
        run(tmp_path / "killed", teacher)
    order: Callable[..., Any] = Order.epoch

    def interrupted(self: Order, epoch: int) -> Any:
        for step, positions in enumerate(order(self, epoch)):
            if epoch == 1 and step == 5:
                raise Killed
            yield positions

    with monkeypatch.context() as patch:
        patch.setattr(Order, "epoch", interrupted)
        with pytest.raises(Killed):
            run(tmp_path / "killed", stage)
    found = lines(run(tmp_path / "killed", stage))
    assert [line["shown"] for line in found] == [line["shown"] for line in expected]


def test_two_workers_show_what_one_shows(tmp_path: Path) -> None:
    expected = lines(run(tmp_path, gated()))
    stage = gated()
    folder = Storage(tmp_path).folder(stage)
    for path in folder.iterdir():
        path.unlink()
    together.train(tmp_path, stage)
    for one, other in zip(lines(folder), expected, strict=True):
        ours, theirs = (line["shown"]["gate on input"] for line in (one, other))
        assert ours["mean"] == pytest.approx(theirs["mean"], abs=1e-3)
        assert ours["entropy"] == pytest.approx(theirs["entropy"], abs=1e-3)
        for name in ours["weight"]:
            assert ours["weight"][name] == pytest.approx(theirs["weight"][name], abs=1e-3)
