"""Teachers are asked about no more replicas than the epochs of their students see, once for all of these."""

from __future__ import annotations

from dataclasses import replace

import tiny

from raykd.plan import plan
from raykd.runtime import Display, Local
from raykd.stage import Stage
from raykd.storage import Storage


def short(epochs: int, until: int | None = None, replicas: int = 8) -> Stage:
    stage = tiny.student(epochs=epochs, replicas=replicas)
    return replace(stage, budget=replace(stage.budget, until=until), label=f"{epochs} {until}")


def test_a_short_training_asks_about_the_replicas_of_its_epochs(tmp_path) -> None:
    runner = Local(Storage(tmp_path), Display(quiet=True))
    assert plan([short(8, until=2)], runner.storage).teacher_rows == {"teacher": 2 * tiny.rows()}
    runner.run(short(8, until=2))
    assert runner.counts.teacher_rows == {"teacher": 2 * tiny.rows()}
    runner.run(short(8))
    assert runner.counts.teacher_rows == {"teacher": 8 * tiny.rows()}


def test_what_later_stages_see_is_asked_at_once(tmp_path) -> None:
    runner = Local(Storage(tmp_path), Display(quiet=True))
    runner.run(short(2), short(3))
    assert runner.counts.teacher_rows == {"teacher": 3 * tiny.rows()}
    assert runner.counts.phases["label"]["rows"] == 3 * tiny.rows()


def test_a_view_with_fewer_replicas_than_epochs_is_seen_whole() -> None:
    assert tiny.student(epochs=4, replicas=2).seen == tiny.student().view
