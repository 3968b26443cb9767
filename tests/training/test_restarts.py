"""A training whose workers are lost is begun again with whoever has a place, as long as it comes further."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny
from ray.train import TrainingFailedError

from raykd.answers import Tally
from raykd.shares import Share
from raykd.storage import Storage
from raykd.training import worker
from raykd.training.job import TrainingJob


class LostError(TrainingFailedError):
    """Nothing that a user did."""


def together(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stands: Sequence[int], errors: Sequence[Exception]
) -> Any:
    """Attempts that fail with these errors, after each of which so many epochs stand; what was told of it."""
    places, left, told = iter([4, 3, 2, 2, 2, 2, 2, 2, 2]), list(errors), list[Any]()
    done = iter(stands)

    def attempt(job: TrainingJob, workers: Any) -> Tally:
        told.append(workers)
        if left:
            raise left.pop(0)
        return Tally(cache_rows=7)

    monkeypatch.setattr(worker, "seated", lambda *_: next(places))
    monkeypatch.setattr(worker, "train_on", attempt)
    monkeypatch.setattr(worker, "read", lambda _: [{}] * next(done))
    tally = worker.train_together(
        TrainingJob(tiny.teacher(), Storage(tmp_path)), Share(1), 1, 4,
        group=lambda count: count, waits=told.append, lost=lambda epochs: told.append(f"epoch {epochs}"),
    )  # fmt: skip
    assert tally == Tally(cache_rows=7)
    return told


def test_it_goes_on_with_as_many_as_have_a_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert together(monkeypatch, tmp_path, [2, 5], [LostError(), LostError()]) == [4, "epoch 2", 3, "epoch 5", 2]


def test_losses_do_not_add_up_while_epochs_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert len(together(monkeypatch, tmp_path, [0, 1, 2, 3, 4, 5], [LostError()] * 6)) == 13


def test_it_is_given_up_when_it_comes_no_further(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    many = worker.RESTARTS + 1
    together(monkeypatch, tmp_path, [3] * many, [LostError()] * (many - 1))
    with pytest.raises(LostError):
        together(monkeypatch, tmp_path, [3] * many, [LostError()] * many)


def test_a_mistake_is_not_tried_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    error = LostError()
    error.__cause__ = ValueError("row 7")
    with pytest.raises(LostError):
        together(monkeypatch, tmp_path, [0, 0], [error])
