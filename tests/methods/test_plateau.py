"""Layers that are over where their loss has stopped falling: the rule, and what is trained by it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from refusing import Refusing
from safetensors.torch import load_file

from raykd.budget import SGD, Budget, Plateau
from raykd.identity import canonical, fingerprint
from raykd.methods.extraction import extracted
from raykd.methods.progressive import progressive
from raykd.runtime import Display, Local
from raykd.stage import Stage
from raykd.storage import Storage
from raykd.training import loop, metrics
from raykd.training.loop import Epoch

RULES = st.builds(Plateau, st.integers(0, 12), st.integers(1, 6), st.sampled_from([0.0, 0.01, 0.3]))
LOSSES = st.lists(st.floats(0.01, 100), min_size=1, max_size=40)
EAGER = Plateau(floor=2, patience=1, tolerance=0.9)
"""Nothing falls so fast: a layer is over after the third epoch."""


def lineage(stage: Stage) -> list[Stage]:
    return [*([] if stage.init is None else lineage(stage.init)), stage]  # type: ignore[arg-type]


def local(root: Path) -> Local:
    return Local(Storage(root), Display(quiet=True), any_teacher=True)


def student(epochs: int = 20, **settings: object) -> Stage:
    budget = Budget(epochs, batch_size=64, optimiser=SGD(lr=0.05))
    return replace(tiny.student(replicas=1), budget=replace(budget, **settings), label="student")  # type: ignore[arg-type]


def epochs(stage: Stage, root: Path) -> list[int]:
    """Those that were trained."""
    return [each["epoch"] for each in metrics.read(Storage(root).folder(stage) / "metrics.jsonl")]


# --- the rule


@given(RULES, LOSSES)
def test_never_before_floor_and_patience_and_never_beyond_the_end(rule: Plateau, losses: list[float]) -> None:
    assert min(rule.floor + rule.patience, len(losses)) <= rule.epochs(losses) <= len(losses)


@given(RULES, LOSSES, st.integers(-20, 20))
def test_the_scale_of_the_losses_is_nothing(rule: Plateau, losses: list[float], power: int) -> None:
    assert rule.epochs([math.ldexp(loss, power) for loss in losses]) == rule.epochs(losses)


@given(RULES, st.integers(1, 40))
def test_a_falling_curve_is_never_cut(rule: Plateau, length: int) -> None:
    falling = [(0.99 * (1 - rule.tolerance)) ** epoch for epoch in range(length)]
    assert rule.epochs(falling) == length
    assert not rule.over(falling)


@given(RULES, st.floats(-10, 10))
def test_a_flat_curve_is_cut_when_floor_and_patience_are_over(rule: Plateau, level: float) -> None:
    # the first epoch of all is lower than nothing before it
    assert rule.epochs([level] * 40) == max(rule.floor, 1) + rule.patience


@given(RULES, LOSSES)
def test_it_is_over_just_where_it_is_cut(rule: Plateau, losses: list[float]) -> None:
    found = rule.epochs(losses)
    assert not any(rule.over(losses[:epoch]) for epoch in range(1, found))
    assert rule.over(losses[:found]) or found == len(losses)


@given(RULES, LOSSES)
def test_it_is_cut_where_the_definition_says(rule: Plateau, losses: list[float]) -> None:
    def falls(epoch: int, lowest: float) -> bool:
        return losses[epoch] < lowest - rule.tolerance * lowest

    expected, lowest, last = len(losses), losses[0], 1
    for epoch in range(len(losses)):
        if falls(epoch, lowest):
            lowest, last = losses[epoch], epoch + 1
        waited = epoch + 1 - (last if last > rule.floor else rule.floor)
        if waited == rule.patience:
            expected = epoch + 1
            break
    assert rule.epochs(losses) == expected


def test_a_plateau_before_the_floor_ends_nothing() -> None:
    before = [1.0] * 10 + [0.5**step for step in range(1, 8)]
    assert Plateau(floor=10, patience=2).epochs(before) == len(before)
    assert Plateau(floor=2, patience=2).epochs(before) == 4


@pytest.mark.parametrize(("floor", "patience", "tolerance"), [(-1, 1, 0.0), (0, 0, 0.0), (0, 1, 1.0), (0, 1, -0.1)])
def test_a_rule_that_makes_no_sense_is_refused(floor: int, patience: int, tolerance: float) -> None:
    with pytest.raises(ValueError, match="patience 1 or more and 0 <= tolerance < 1 would be right"):
        Plateau(floor, patience, tolerance)


# --- as a budget's


def test_the_rule_is_identity_and_without_it_a_budget_is_what_it_was() -> None:
    plain = canonical(Budget())
    assert "plateau" not in plain["of"]
    assert set(plain["of"]) == {
        "epochs", "batch_size", "optimiser", "schedule", "clip", "ema", "start", "until", "keep",
    }  # fmt: skip
    named = {fingerprint(Budget(plateau=rule)) for rule in (None, Plateau(), Plateau(floor=6))}
    assert len(named) == 3


def test_layers_have_the_rule_and_the_output_has_not() -> None:
    found = lineage(extracted(student(), plateau=EAGER))
    assert [each.budget.plateau for each in found] == [EAGER, None]
    assert [replace(each.budget, plateau=None) for each in found] == [
        each.budget for each in lineage(extracted(student()))
    ]


# --- what is trained


def two_layers(plateau: Plateau | None, **settings: object) -> Stage:
    stage = student(**settings)
    wide = replace(tiny.teacher(), student=tiny.MLP((24, 20), shape=tiny.SHAPE))
    stage = replace(stage, student=tiny.MLP((12, 8), shape=tiny.SHAPE), teachers={"teacher": wide})
    return extracted(stage, epochs=(6, 5, 9), plateau=plateau)


def test_epochs_that_layers_do_not_need_are_the_outputs_and_there_is_none_twice(tmp_path: Path) -> None:
    last = two_layers(EAGER)
    local(tmp_path).run(last)
    assert [epochs(each, tmp_path) for each in lineage(last)] == [[0, 1, 2], [3, 4, 5], list(range(6, 20))]


def test_a_layer_that_is_never_flat_takes_its_share_and_no_more(tmp_path: Path) -> None:
    last = two_layers(Plateau(floor=50))
    local(tmp_path).run(last)
    assert [epochs(each, tmp_path) for each in lineage(last)] == [
        list(range(6)), list(range(6, 11)), list(range(11, 20)),
    ]  # fmt: skip


def test_what_was_trained_is_what_these_epochs_would_have_been_if_they_had_been_given(tmp_path: Path) -> None:
    found, told = two_layers(EAGER), two_layers(None)
    told = extracted(replace(lineage(told)[-1], init=None, budget=student().budget), epochs=(3, 3, 14))
    runner = local(tmp_path)
    runner.run(found, told)
    for one, other in zip(lineage(found), lineage(told), strict=True):
        mine, theirs = (load_file(runner.storage.weights(each)) for each in (one, other))
        assert all(torch.equal(mine[name], value) for name, value in theirs.items())
        assert [each["lr"] for each in metrics.read(runner.storage.folder(one) / "metrics.jsonl")] == [
            each["lr"] for each in metrics.read(runner.storage.folder(other) / "metrics.jsonl")
        ]


def test_it_is_where_the_rule_says_of_the_losses_that_were_written(tmp_path: Path) -> None:
    rule = Plateau(floor=1, patience=2, tolerance=0.05)
    last = two_layers(rule)
    local(tmp_path).run(last)
    for layer in lineage(last)[:-1]:
        losses = [float(each["loss"]) for each in metrics.read(Storage(tmp_path).folder(layer) / "metrics.jsonl")]
        assert rule.epochs(losses) == len(losses)
        assert rule.over(losses) or len(losses) == layer.budget.trained
    whole = two_layers(None)
    local(tmp_path).run(lineage(whole)[0])
    all_of_it = [
        float(each["loss"]) for each in metrics.read(Storage(tmp_path).folder(lineage(whole)[0]) / "metrics.jsonl")
    ]
    assert rule.epochs(all_of_it) == len(epochs(lineage(last)[0], tmp_path))


def test_what_is_there_is_not_done_again(tmp_path: Path) -> None:
    (first,) = local(tmp_path).run(two_layers(EAGER))
    (again,) = Refusing(Storage(tmp_path), Display(quiet=True)).run(two_layers(EAGER))
    assert again.metrics == first.metrics


class KilledError(Exception):
    """What ends a training in a test."""


@pytest.mark.parametrize("at", [1, 3, 4, 6, 7, 12])
def test_a_run_killed_in_any_stage_ends_as_if_it_had_not_been(
    at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = two_layers(EAGER)
    local(tmp_path / "whole").run(last)
    runner = local(tmp_path / "killed")
    runner.run(*last.teachers.values())  # type: ignore[arg-type]
    seen: list[int] = []
    keep = loop._keep

    def then_die(training: loop.Training, *, improved: bool) -> None:
        keep(training, improved=improved)
        seen.append(training.epoch)
        if len(seen) == at:
            raise KilledError

    monkeypatch.setattr(loop, "_keep", then_die)
    with pytest.raises(KilledError):
        runner.run(last)
    runner.run(last)
    assert seen == list(range(1, 21))  # each epoch was trained once
    for each in lineage(last):
        one, other = (load_file(Storage(tmp_path / name).weights(each)) for name in ("whole", "killed"))
        assert all(torch.equal(one[name], value) for name, value in other.items())


def test_a_shorter_part_of_the_output_is_continued_and_may_be_followed(tmp_path: Path) -> None:
    last = two_layers(EAGER)
    runner = local(tmp_path)
    runner.run(replace(last, budget=replace(last.budget, until=12)))
    trained: list[Epoch] = []
    train = runner.train
    runner.train = lambda job, on_epoch: train(job, lambda epoch: (trained.append(epoch), on_epoch(epoch))[1])  # type: ignore[method-assign]
    runner.run(last)
    assert [each["epoch"] for each in trained] == list(range(12, 20))
    following = progressive(last, (1,))
    runner.run(following)
    ran: Sequence[int] = [epoch for each in lineage(following) for epoch in epochs(each, tmp_path)]
    assert ran == list(range(20))


def test_a_training_with_labels_alone_may_end_early_too(tmp_path: Path) -> None:
    stage = replace(tiny.teacher(), budget=replace(tiny.teacher().budget, plateau=EAGER))
    local(tmp_path).run(stage)
    assert epochs(stage, tmp_path) == [0, 1, 2]
