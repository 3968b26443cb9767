"""Tables of what learned pieces show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from raykd import report

GATED = """
from dataclasses import replace
import tiny
from raykd import Constant, DistillEnsemble, Stage
from raykd.methods.gate import Gate, attended
from raykd.methods.kl import KL

def gated(epochs: int = 3) -> Stage:
    "A gate over two teachers."
    teachers = {"large": tiny.teacher(epochs=2), "small": tiny.teacher(epochs=1, width=8)}
    objective = attended(DistillEnsemble(KL(), Gate(hidden=8), Constant(2.0)))
    return replace(tiny.student(epochs=epochs, replicas=1), objective=objective, teachers=teachers, label="gated")
"""


def printed(*epochs: dict[str, Any]) -> list[str]:
    console = Console(width=120)
    with console.capture() as found:
        for table in report.shown_tables(epochs):
            console.print(table)
    return found.get().splitlines()


def line(epoch: int, entropy: float, classes: int = 3) -> dict[str, Any]:
    weight = [0.25 + 0.5 * c / classes for c in range(classes)]
    told = {"weight": {"a": weight, "b": [1 - x for x in weight]}, "mean": {"a": 0.4, "b": 0.6}, "entropy": entropy}
    return {"epoch": epoch, "gate [on input]": told}


def test_numbers_are_shown_of_the_first_the_middle_and_the_last_epoch() -> None:
    found = printed(*(line(epoch, 0.6 - 0.1 * epoch) for epoch in range(5)))
    (titled,) = (each for each in found if "epoch 1" in each)
    assert "epoch 3" in titled
    assert "epoch 5" in titled
    assert "epoch 2" not in titled
    (entropy,) = (each for each in found if "entropy" in each)
    for number in ("0.600", "0.400", "0.200"):
        assert number in entropy
    assert sum("epoch 1" in each for each in printed(line(0, 0.5))) == 2  # the only one: in either table


def test_weights_are_shown_by_class_of_the_last_epoch() -> None:
    found = "\n".join(printed(line(0, 0.6), line(1, 0.5)))
    assert "gate [on input]: mean weight of a teacher by class, epoch 2" in found
    table = found.split("by class")[1]
    for number in ("0.250", "0.417", "0.583", "0.750"):
        assert number in table


def test_of_many_classes_those_are_shown_that_are_farthest_from_their_mean() -> None:
    table = "\n".join(printed(line(0, 0.6, classes=100))).split("by class")[1]
    assert f"the {report.CLASSES} farthest" in table
    shown = [int(each.split("│")[1]) for each in table.splitlines() if each.count("│") == 4]
    half = report.CLASSES // 2  # of an even slope: half from either end
    assert shown == [*range(half), *range(100 - half, 100)]


def test_classes_without_rows_are_left_out_and_nothing_shown_is_no_table() -> None:
    told = line(0, 0.6)
    for column in told["gate [on input]"]["weight"].values():
        column[1] = None
    table = "\n".join(printed(told)).split("by class")[1]
    assert [int(each.split("│")[1]) for each in table.splitlines() if each.count("│") == 4] == [0, 2]
    assert printed() == []


def test_a_run_prints_the_gate_and_its_json_has_the_last_epoch(raykd: Any, tmp_path: Path) -> None:
    (tmp_path / "gated.py").write_text(GATED)
    done = raykd("run", f"{tmp_path}/gated.py:gated", "--local", "--json", "--no-baseline", "--any-teacher")
    assert done.code == 0
    assert "gate on input: mean weight of a teacher by class, epoch 3" in done.out
    shown = done.json["shown"]
    assert shown["epoch"] == 2
    assert shown["gate on input"]["weight"].keys() == {"large", "small"}
    again = raykd("run", f"{tmp_path}/gated.py:gated", "--local", "--json", "--no-baseline", "--any-teacher")
    assert again.json["shown"] == shown  # of what exists, too
