"""A training whose workers are lost is begun again with whoever has a place, as long as it comes further."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny
from ray.exceptions import ActorDiedError, NodeDiedError, RayTaskError
from ray.train import ControllerError, TrainingFailedError, WorkerGroupError

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


def test_a_fault_of_code_is_not_tried_again_and_what_a_lost_peer_leaves_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for fault in (
        TypeError("no such operand"),
        RayTaskError("loop", "traceback", KeyError("tap")).as_instanceof_cause(),
    ):
        with pytest.raises(WorkerGroupError):
            together(monkeypatch, tmp_path, [0, 0], [WorkerGroupError("", {0: fault})])
    left = WorkerGroupError("", {0: RuntimeError("connection closed by peer")})
    assert together(monkeypatch, tmp_path, [1], [left]) == [4, "epoch 1", 3]


def test_a_training_goes_on_though_the_controller_of_ray_train_is_gone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert together(monkeypatch, tmp_path, [1, 2], [ActorDiedError(), ControllerError(ActorDiedError())]) == [
        4, "epoch 1", 3, "epoch 2", 2,
    ]  # fmt: skip


def test_what_ray_lost_is_one_line_and_what_code_raised_is_not_taken_for_it() -> None:
    def shown(error: Exception) -> Exception:
        with pytest.raises(Exception) as caught, worker.plain_errors():  # noqa: PT011  its type is what is asked
            raise error
        return caught.value

    wrapped = TrainingFailedError("many\nlines")
    wrapped.__cause__ = NodeDiedError("The node died.\n\tIt may be memory.")
    for lost in (NodeDiedError("The node died.\n\tIt may be memory."), wrapped):
        found = shown(lost)
        assert isinstance(found, ConnectionError)
        assert str(found) == (
            "Ray lost a part of the run (NodeDiedError): The node died. The same command goes on with what is left to do."
        )
    in_init = ActorDiedError(RayTaskError("__init__", "traceback", TypeError("no such argument")))
    for other in (TypeError("x"), WorkerGroupError("", {0: TypeError("x")}), in_init):
        assert shown(other) is other
    mistake = WorkerGroupError("", {0: ActorDiedError(), 1: ValueError("row 7")})
    assert str(shown(mistake)) == "row 7"
