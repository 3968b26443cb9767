"""`benchmarks/parity.py`: its arms take as many steps on the same rows, and its variations vary one thing."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch
from job_cases import ROOT

from raykd import recipes, tokens
from raykd.identity import fingerprint
from raykd.signals import Projected, Signal
from raykd.stage import Stage

SIZES = {"d": 8, "k": 2, "width": 4, "teacher-width": 8, "steps": 2000, "teacher-steps": 2000, "share": 0.3}
TINY = [word for name, size in SIZES.items() for word in (f"--{name}", str(size))]
LEARNED = [(100 * i, min(0.5 + 0.05 * i, 1.0)) for i in range(1, 21)]
FORMS = ("signs", "tokens")


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    return recipes.load_file(ROOT / "benchmarks" / "parity.py")


def lineage(stage: Stage) -> list[Stage]:
    return [*(lineage(stage.init) if isinstance(stage.init, Stage) else []), stage]


def arms(benchmark: ModuleType, *arguments: str) -> dict[str, Stage]:
    """Of one seed."""
    options = benchmark.parsed([*TINY, *arguments])
    teacher = benchmark.written("teacher", options, options.teacher_width, options.teacher_steps)
    found = benchmark.varied(options, teacher) if options.vary else benchmark.compared(options, teacher, LEARNED)
    return {name: arm(1) for name, arm in found.items()}


def test_sizes_that_the_command_line_does_not_say_are_those_of_the_form(benchmark: ModuleType) -> None:
    for form in FORMS:
        said = vars(benchmark.parsed(["--form", form, "--width", "7"]))
        assert said | benchmark.FORMS[form] | {"width": 7} == said
    with pytest.raises(SystemExit):
        benchmark.parsed(["--form", "tokens", "--vary"])


@pytest.mark.parametrize("arguments", [["--form", "signs"], ["--form", "tokens"], ["--vary"]], ids=" ".join)
def test_every_arm_takes_as_many_steps_on_the_same_rows(benchmark: ModuleType, arguments: list[str]) -> None:
    found = arms(benchmark, *arguments)
    assert len({fingerprint(each.view) for stage in found.values() for each in lineage(stage)}) == 1
    for stage in found.values():
        assert sum(each.budget.trained for each in lineage(stage)) == stage.budget.end == 20
        assert len(stage.view.dataset.split("train").ids) == benchmark.STEPS * stage.budget.batch_size


def test_both_forms_show_the_same_signs(benchmark: ModuleType) -> None:
    signs, spelled = (arms(benchmark, "--form", form, "--batch", "16")["labels"].view for form in FORMS)
    places = np.arange(50)
    ours, theirs = (view.batch(places, places % 20) for view in (signs, spelled))
    assert torch.equal(tokens.tokens(theirs.inputs_B)[:, :-1] * 2 - 1, ours.inputs_B.long())
    assert torch.equal(theirs.labels_B, ours.labels_B)


def test_a_transformers_blocks_are_extracted_one_after_the_other(benchmark: ModuleType) -> None:
    stages = lineage(arms(benchmark, "--form", "tokens")["extraction"])
    taps = [{tap for signal in stage.needs["student"] for tap in signal.taps()} for stage in stages]
    assert taps == [{"block1"}, {"block2"}, {"logits"}]


def test_variations_differ_from_extraction_and_from_each_other(benchmark: ModuleType) -> None:
    found = {name: fingerprint(stage) for name, stage in arms(benchmark, "--vary").items()}
    assert found["extraction"] == fingerprint(arms(benchmark)["extraction"])
    assert len(set(found.values())) == len(found)


@pytest.mark.parametrize("matrix", ["gaussian", "identity"])
def test_a_row_at_its_length_is_the_normalised_one_as_long_as_it_was(benchmark: ModuleType, matrix: str) -> None:
    rows_BD = torch.randn(6, 10, generator=torch.Generator().manual_seed(0)) * 5 + 3
    centred_BD = rows_BD - rows_BD.mean(1, keepdim=True)
    seen = benchmark.Length(Signal("x"), 4, matrix=matrix).observe({"x": rows_BD})
    normalised = Projected(Signal("x"), 4, matrix=matrix).observe({"x": rows_BD})  # type: ignore[arg-type]
    torch.testing.assert_close(seen, normalised * centred_BD.norm(dim=1, keepdim=True))
    if matrix == "identity":
        torch.testing.assert_close(seen, centred_BD[:, :4], rtol=1e-4, atol=1e-4)


def test_known_is_the_first_time(benchmark: ModuleType) -> None:
    assert benchmark.known([(100, 0.5), (200, 0.91), (300, 0.8), (400, 0.95)]) == 200
    assert benchmark.known([(100, 0.5)]) is None


def test_snapshots_are_from_between_chance_and_the_end(benchmark: ModuleType) -> None:
    accuracies = [dict(LEARNED)[epoch * 100] for epoch in benchmark.during(LEARNED, 3)]
    assert accuracies == sorted(set(accuracies))
    assert len(accuracies) == 3
    first, last = accuracies[0], accuracies[-1]
    assert first == next(each for _, each in LEARNED if each > 0.55)
    assert last == next(each for _, each in LEARNED if each > 0.95)
