"""Warm-up: how the weight rises, and that nothing else of a term changes."""

from __future__ import annotations

import copy
import math
import pickle
from dataclasses import replace

import pytest
import torch
from laws import NAMES, random_batch

from raykd.batch import Batch, Progress
from raykd.cite import sources
from raykd.identity import fingerprint
from raykd.methods.dkd import DKD
from raykd.methods.warmup import Warmup
from raykd.objective import Context
from raykd.signals import LOGITS
from raykd.terms import Constant, CrossEntropy, Distill

DISTILL = Distill(DKD(), temperature=Constant(4.0))


def at(epoch: int, step: int = 0, steps: int = 4) -> Batch:
    return replace(random_batch(), progress=Progress(epoch, 240, step, steps))


def context() -> Context:
    return Context({name: {LOGITS: (5,)} for name in ("student", *NAMES)}, NAMES, classes=5, rows=100)


@pytest.mark.parametrize(
    ("epoch", "step", "share"),
    [(0, 0, 0.0), (0, 1, 1 / 80), (5, 0, 1 / 4), (10, 2, 21 / 40), (19, 3, 79 / 80), (20, 0, 1.0), (239, 3, 1.0)],
)
def test_it_is_a_line_to_its_weight_which_then_stays(epoch: int, step: int, share: float) -> None:
    for weight in (1.0, 3.0):
        value_B = Warmup(20, weight)(at(epoch, step))
        torch.testing.assert_close(value_B, torch.full((6,), weight * share))


def test_a_term_is_multiplied_by_it_and_its_neighbours_are_not() -> None:
    objective = 0.1 * CrossEntropy() + Warmup(20) * DISTILL
    plain = (0.1 * CrossEntropy() + 1.0 * DISTILL).build(context())
    for epoch, share in ((0, 0.0), (5, 0.25), (30, 1.0)):
        batch = at(epoch)
        found_KB, plain_KB = objective.build(context())(batch), plain(batch)
        torch.testing.assert_close(found_KB[0], plain_KB[0])
        torch.testing.assert_close(found_KB[1], share * plain_KB[1])
    assert objective.needs(("teacher",)) == (0.1 * CrossEntropy() + DISTILL).needs(("teacher",))


def test_without_epochs_it_is_its_weight_from_the_start() -> None:
    torch.testing.assert_close(Warmup(0, 2.0)(at(0)), torch.full((6,), 2.0))


def test_it_is_a_value_that_reads_like_what_it_is_and_names_both_sources() -> None:
    assert Warmup(20) == copy.deepcopy(Warmup(20)) == pickle.loads(pickle.dumps(Warmup(20.0)))
    assert fingerprint(Warmup(20)) == fingerprint(Warmup(20.0)) != fingerprint(Warmup(10))
    assert str(Warmup(20) * DISTILL) == "warmup 20 * Distill(DKD(1, 8), tau 4)"
    assert str(Warmup(10, 6)) == "warmup 10 to 6"
    assert [source.split(",")[0] for source in sources(Warmup)] == ["P. Chen", "B. Zhao"]


@pytest.mark.parametrize("options", [{"epochs": -1.0}, {"weight": math.nan}, {"epochs": math.inf}])
def test_a_mistake_is_refused_where_it_is_written(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(options))}=.* of Warmup"):
        Warmup(**options)
