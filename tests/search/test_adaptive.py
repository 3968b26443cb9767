"""The configuration manager: what it proposes, its gate, what is trained and remembered, and that a second run does nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_jobs
from hypothesis import given, settings
from hypothesis import strategies as st
from refusing import Refusing
from safetensors.torch import load_file

from raykd import run
from raykd.cite import bibliography
from raykd.identity import fingerprint
from raykd.models import weights
from raykd.recipes import Recipe
from raykd.runtime import Display, Local
from raykd.runtime.runner import Trained
from raykd.search import Adaptive, Range, searched, space_of
from raykd.search.adapting import Tried, compared, resolve, settled
from raykd.search.memory import Memory
from raykd.selection import Selection, cheapest
from raykd.stage import Stage
from raykd.storage import Storage, write_json, write_text
from raykd.training.loop import DivergedError

JOBS = Path(tiny_jobs.__file__)
TARGET = f"{JOBS}:managed"


@searched(tau=Range(2.0, 8.0), alpha=Range(0.1, 1.0))
def toy(tau: float = 4.0, alpha: float = 0.9, epochs: int = 8, seed: int = 0, links: int = 0) -> Stage | Selection:
    """A distillation that is told what it gives."""
    stage = replace(tiny.student(tau=tau, epochs=epochs, replicas=1, seed=seed), label=f"{alpha}")
    stage = replace(stage, objective=tiny_jobs.published.kd(alpha, tau))
    others = [replace(stage, seed=seed + 100 + link) for link in range(links)]
    return Selection((stage, *others)) if links else stage


def adaptive(**settings: Any) -> Adaptive:
    return Adaptive(toy, settings.pop("knobs", {}), **settings)


class Told(Local):
    """A runner that trains nothing: a stage has the accuracy that a function of it says; None is a loss that is not finite."""

    values: Callable[[Stage], float | None]
    ran: list[str]

    def run(self, *stages: Stage) -> list[Trained]:
        return [Trained(stage, "", self._result(stage)["metrics"], self.counts) for stage in stages]

    def _result(self, stage: Stage) -> Mapping[str, Any]:
        if (there := self.storage.result(stage)) is not None:
            return there
        for teacher in stage.teachers.values():
            assert isinstance(teacher, Stage)
            self._result(teacher)
        self.ran.append(fingerprint(stage))
        value = self.values(stage)
        if value is None:
            raise DivergedError(f"stage {stage}: not finite")
        if not stage.teachers:
            self.storage.folder(stage).mkdir(parents=True, exist_ok=True)
            weights.save(self.storage.weights(stage), stage.student.build().body.state_dict(), {})
        line = tiny.epoch(0, val_top1=value, val_nll=1 - value)
        write_text(self.storage.folder(stage) / "metrics.jsonl", (json.dumps(line) + "\n") * stage.budget.trained)
        result = {"weights": "0" * 40, "metrics": {"val_top1": value, "val_nll": 1 - value}, "seconds": 1.0}
        write_json(self.storage.folder(stage) / "result.json", result)
        return result


def told(root: Path, values: Callable[[Stage], float | None]) -> Told:
    runner = Told(Storage(root), Display(quiet=True))
    runner.values, runner.ran = values, []
    return runner


def tau(stage: Stage) -> float:
    """That of a toy stage."""
    term = stage.objective.terms[-1].term
    return float(term.temperature.tau)  # type: ignore[attr-defined]


def is_student(stage: Stage) -> bool:
    return bool(stage.teachers)


def falling(stage: Stage) -> float:
    """The published 4 is the best."""
    return 0.9 - abs(tau(stage) - 4) / 10 if is_student(stage) else 0.95


def rising(stage: Stage) -> float:
    """The more the better, so the published 4 is beaten by many."""
    return tau(stage) / 10 if is_student(stage) else 0.95


def values(found: Sequence[Tried]) -> list[float]:
    return [each.value if each.value is not None else math.nan for each in found]


# --- what is proposed


def test_an_empty_memory_gives_the_published_defaults_and_draws_from_the_space(tmp_path: Path) -> None:
    spec = adaptive()
    resolve(spec, told(tmp_path, rising))
    found = compared(spec, Storage(tmp_path))
    assert found[0].configuration == {"tau": 4.0, "alpha": 0.9}
    assert [each.reason for each in found[:3]] == ["published defaults", "drawn", "drawn"]
    for each in found:
        space_of(spec.recipe).check(each.configuration)
    assert len({json.dumps(dict(each.configuration), sort_keys=True) for each in found}) == len(found)


def test_what_was_best_on_another_task_is_proposed_first(tmp_path: Path) -> None:
    other, spec = adaptive(knobs={"epochs": 40}), adaptive()
    resolve(other, told(tmp_path, rising))
    best = max(compared(other, Storage(tmp_path)), key=lambda each: each.value or 0.0)
    resolve(spec, told(tmp_path, rising))
    second = compared(spec, Storage(tmp_path))[1]
    assert second.configuration == best.configuration
    assert "best of task" in second.reason


def test_with_the_memory_off_nothing_is_read_or_written(tmp_path: Path) -> None:
    resolve(adaptive(memory=False), told(tmp_path / "empty", rising))
    assert not (tmp_path / "empty" / "memory").exists()
    resolve(adaptive(knobs={"epochs": 40}), told(tmp_path / "full", rising))
    files = sorted((tmp_path / "full" / "memory").rglob("*.parquet"))
    assert files
    resolve(adaptive(memory=False), told(tmp_path / "full", rising))
    assert sorted((tmp_path / "full" / "memory").rglob("*.parquet")) == files
    configurations = [
        [each.configuration for each in compared(adaptive(memory=False), Storage(tmp_path / name))]
        for name in ("empty", "full")
    ]
    assert configurations[0] == configurations[1]


def test_knobs_that_were_asked_for_or_are_fixed_stay_as_they_are(tmp_path: Path) -> None:
    for spec in (adaptive(knobs={"alpha": 0.5}), adaptive(fixed=("alpha",))):
        expected = spec.values["alpha"]
        assert list(spec.space.axes) == ["tau"]
        resolve(spec, told(tmp_path, rising))
        for each in compared(spec, Storage(tmp_path)):
            assert set(each.configuration) == {"tau"}
            assert each.stage.objective.terms[-1].weight == expected
    assert list(adaptive(knobs={"alpha": 0.9}).space.axes) == ["tau", "alpha"]


def test_records_of_other_values_of_a_fixed_knob_are_not_compared() -> None:
    spec = adaptive(fixed=("links",))
    assert spec.space.project({"tau": 3.0, "alpha": 0.5, "links": 0}) == {"tau": 3.0, "alpha": 0.5}
    assert spec.space.project({"tau": 3.0, "alpha": 0.5, "links": 1}) is None


# --- the gate


@settings(max_examples=10, deadline=None)
@given(
    answers=st.dictionaries(st.integers(0, 9), st.floats(0.1, 1.0), min_size=10, max_size=10),
    threshold=st.sampled_from([0.0, 0.9, 1.0, 1.1]),
    proposals=st.integers(2, 4),
    more=st.integers(0, 4),
)
def test_more_is_proposed_until_one_passes_the_gate_and_the_best_of_all_is_taken(
    tmp_path_factory: pytest.TempPathFactory, answers: dict[int, float], threshold: float, proposals: int, more: int
) -> None:
    root = tmp_path_factory.mktemp("gate")
    spec = adaptive(threshold=threshold, proposals=proposals, most=proposals + more)

    def answer(stage: Stage) -> float:
        return answers[int(tau(stage) * 1000) % 10] if is_student(stage) else 0.95

    done = resolve(spec, told(root, answer))
    found = compared(spec, Storage(root))
    sizes = [sum(each.round == number for each in found) for number in range(found[-1].round + 1)]
    assert sizes[:2] == [1, proposals - 1]
    assert len(found) <= spec.most
    results = values(found)
    # the gate was shut before each further round, and open at the end unless there was no more to try
    ends = [sum(sizes[: number + 1]) for number in range(1, len(sizes))]
    passed = [max(results[1:end]) >= threshold * results[0] for end in ends]
    assert not any(passed[:-1])
    assert passed[-1] or len(found) == spec.most
    (taken,) = (each for each in found if each.taken)
    assert taken.value == max(results)
    assert done.stage == spec.written(taken.configuration)


def test_the_published_defaults_win_where_nothing_is_better(tmp_path: Path) -> None:
    spec = adaptive()
    done = resolve(spec, told(tmp_path, falling))
    assert done.stage == spec.default
    assert len(compared(spec, Storage(tmp_path))) == spec.most


def test_a_small_space_may_be_exhausted(tmp_path: Path) -> None:
    from raykd.search import Choice

    @searched(tau=Choice(4.0, 2.0, 3.0))
    def few(tau: float = 4.0, epochs: int = 8) -> Stage:
        return replace(tiny.student(tau=tau, epochs=epochs, replicas=1), objective=tiny_jobs.published.kd(0.9, tau))

    spec = Adaptive(few, proposals=3, most=9)
    resolve(spec, told(tmp_path, falling))
    assert sorted(each.configuration["tau"] for each in compared(spec, Storage(tmp_path))) == [2.0, 3.0, 4.0]  # type: ignore[type-var]


# --- what is trained


def test_a_second_run_computes_nothing_and_gives_the_same_whatever_the_memory_learned(tmp_path: Path) -> None:
    spec = adaptive()
    first = told(tmp_path, rising)
    done = resolve(spec, first)
    resolve(adaptive(knobs={"epochs": 40}), told(tmp_path, falling))
    before = compared(spec, first.storage)
    again = told(tmp_path, rising)
    assert resolve(spec, again).stage == done.stage
    assert again.ran == []
    assert compared(spec, again.storage) == before
    files = sorted((tmp_path / "memory").rglob("*.parquet"))
    resolve(spec, told(tmp_path, rising))
    assert sorted((tmp_path / "memory").rglob("*.parquet")) == files


def test_one_that_was_killed_anywhere_continues_and_ends_as_one_that_was_not(tmp_path: Path) -> None:
    spec = adaptive()
    whole = told(tmp_path / "whole", rising)
    done = resolve(spec, whole)
    for steps in range(len(whole.ran)):
        root = tmp_path / str(steps)

        def dying(stage: Stage, left: list[int]) -> float:
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            return rising(stage)

        left = [steps]
        with pytest.raises(KeyboardInterrupt):
            resolve(spec, told(root, lambda stage, left=left: dying(stage, left)))  # type: ignore[misc]
        rest = told(root, rising)
        assert resolve(spec, rest).stage == done.stage
        assert len(rest.ran) == len(whole.ran) - steps
        found, expected = compared(spec, rest.storage), compared(spec, whole.storage)
        assert [each.configuration for each in found] == [each.configuration for each in expected]
        names = [{(each.fingerprint, each.status) for each in Memory(at).read()} for at in (root, tmp_path / "whole")]
        assert names[0] == names[1]


def test_a_configuration_that_diverges_is_only_a_bad_one(tmp_path: Path) -> None:
    spec = adaptive()

    def lost(stage: Stage) -> float | None:
        return None if is_student(stage) and tau(stage) == 4.0 else rising(stage)

    runner = told(tmp_path, lost)
    done = resolve(spec, runner)
    found = compared(spec, runner.storage)
    assert found[0].value is None
    assert "not finite" in found[0].error
    assert done.stage != spec.default
    records = {each.fingerprint: each for each in Memory(tmp_path).read()}
    assert records[fingerprint(found[0].stage)].diverged
    again = told(tmp_path, lost)
    resolve(spec, again)
    assert again.ran == []


def test_if_all_diverge_so_does_the_run_and_a_teacher_is_no_configurations_fault(tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match="all 6 short runs"):
        resolve(adaptive(), told(tmp_path / "all", lambda stage: None if is_student(stage) else 0.9))
    with pytest.raises(DivergedError, match="stage teacher"):
        resolve(adaptive(), told(tmp_path / "teacher", lambda stage: rising(stage) if is_student(stage) else None))
    assert not list((tmp_path / "teacher").glob("adaptive/*/lost-*"))


def test_of_a_selection_the_first_runs_short_and_the_winner_is_resolved(tmp_path: Path) -> None:
    spec = adaptive(knobs={"links": 2})
    runner = told(tmp_path, rising)
    done = resolve(spec, runner)
    (taken,) = (each for each in compared(spec, runner.storage) if each.taken)
    winner = spec.written(taken.configuration)
    assert isinstance(winner, Selection)
    assert done.stage == winner.candidates[0]  # the others gain nothing
    assert settled(spec, runner.storage) == winner
    short = {fingerprint(each.stage) for each in compared(spec, runner.storage)}
    assert short == {fingerprint(spec.brief(each.configuration)) for each in compared(spec, runner.storage)}
    for each in compared(spec, runner.storage):
        written = cheapest(spec.written(each.configuration))
        assert replace(each.stage, budget=written.budget) == written
        assert (each.stage.budget.until, each.stage.budget.epochs) == (2, 8)


@pytest.mark.parametrize(
    ("epochs", "short", "expected"), [(2, 10, 1), (8, 10, 2), (40, 10, 10), (240, 10, 10), (240, 3, 3)]
)
def test_a_short_run_is_a_quarter_and_ten_epochs_at_most(epochs: int, short: int, expected: int) -> None:
    assert adaptive(knobs={"epochs": epochs}, short=short).epochs == expected


# --- what is remembered


def test_every_training_is_remembered_once_short_ones_as_stopped_and_as_a_task_of_their_own(tmp_path: Path) -> None:
    spec = adaptive()
    runner = told(tmp_path, rising)
    done = resolve(spec, runner)
    found = compared(spec, runner.storage)
    records = Memory(tmp_path).read("toy")
    assert len(records) == len(found) + 1
    (full,) = (each for each in records if each.status == "done")
    short = [each for each in records if each.status == "stopped"]
    assert full.fingerprint == fingerprint(done.stage)
    assert {each.fingerprint for each in short} == {fingerprint(each.stage) for each in found}
    assert {each.features["epochs"] for each in short} == {2.0}
    assert full.features["epochs"] == 8.0
    assert len({each.task for each in short}) == 1
    assert {**short[0].features, "epochs": 8.0} == pytest.approx(dict(full.features), nan_ok=True)
    assert set(full.configuration) == set(Recipe("toy", toy).knobs)
    assert full.results["val_top1"] == rising(done.stage)
    assert [len(each.curve) for each in (full, short[0])] == [8, 2]


# --- mistakes


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"proposals": 1}, "2 proposals or more, and at most as many as most=6"),
        ({"proposals": 7}, "at most as many as most=6"),
        ({"short": 0}, "short=0 and threshold=1.0 of Adaptive: 1 epoch or more"),
        ({"threshold": math.nan}, "a number from 0 would be right"),
        ({"knobs": {"taus": 3.0}}, "of 'taus': its knobs are tau, alpha"),
        ({"fixed": ("taus",)}, "of 'taus': its knobs are tau, alpha"),
        ({"knobs": {"tau": 3.0, "alpha": 0.5}}, "nothing is left to search"),
        ({"knobs": {"epochs": 1}}, "trains for 1 epoch: 2 or more would be right"),
    ],
)  # fmt: skip
def test_a_mistake_is_refused_when_it_is_written(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        adaptive(**settings)


def test_a_recipe_without_a_space_is_refused() -> None:
    with pytest.raises(ValueError, match="the recipe kd has no space"):
        Adaptive(tiny_jobs.kd)


def test_proposals_outside_of_the_space_are_not_believed(tmp_path: Path) -> None:
    spec = adaptive()
    said = {"features": {}, "proposals": [{"configuration": {"tau": 99.0, "alpha": 0.5}, "reason": ""}]}
    write_json(tmp_path / "adaptive" / spec.name / "1.json", said)
    with pytest.raises(ValueError, match=r"tau=99.0 is outside of Range\(2, 8\)"):
        resolve(spec, told(tmp_path, rising))


def test_it_is_what_it_says_and_every_setting_counts() -> None:
    found = [
        adaptive(), adaptive(seed=1), adaptive(memory=False), adaptive(threshold=0.5), adaptive(proposals=4),
        adaptive(most=7), adaptive(short=1), adaptive(fixed=("alpha",)), adaptive(knobs={"seed": 1}),
    ]  # fmt: skip
    assert len({fingerprint(each) for each in found}) == len(found)
    assert fingerprint(adaptive(knobs={"tau": 4.0})) == fingerprint(adaptive())


# --- really


def test_a_short_run_is_the_beginning_of_the_full_one_bit_for_bit(tmp_path: Path) -> None:
    recipe = Recipe("managed", tiny_jobs.managed)
    spec = recipe.returned(proposals=2, refine=2, teachers=2)
    assert isinstance(spec, Adaptive)
    runner = Local(Storage(tmp_path / "short"), Display(quiet=True))
    done = resolve(spec, runner, baseline=True)
    straight = Local(Storage(tmp_path / "straight"), Display(quiet=True))
    (alone,) = straight.run(done.stage)
    assert alone.metrics == done.metrics
    one, other = load_file(done.weights), load_file(alone.weights)
    assert all(one[name].equal(other[name]) for name in one)
    (taken,) = (each for each in compared(spec, runner.storage) if each.taken)
    lines = [
        (storage.folder(stage) / "metrics.jsonl").read_text().splitlines()
        for storage, stage in (
            (runner.storage, taken.stage),
            (runner.storage, done.stage),
            (straight.storage, done.stage),
        )
    ]
    assert lines[1][: len(lines[0])] == lines[0]  # to the second: the epochs were not done again
    assert [json.loads(line)["loss"] for line in lines[1]] == [json.loads(line)["loss"] for line in lines[2]]
    assert runner.storage.result(done.stage.alone()) is not None
    again = Refusing(Storage(tmp_path / "short"), Display(quiet=True))
    assert resolve(spec, again, baseline=True).metrics == done.metrics


def test_the_command_line_plans_runs_evaluates_and_cites(raykd: Any, tmp_path: Path) -> None:
    words = [TARGET, "--most", "1", "--refine", "3", "--epochs", "4"]
    planned = raykd("plan", *words, "--json")
    assert planned.code == 0, planned.err
    assert planned.json["short_runs"] == {"least": 3, "most": 3, "epochs": 1}
    assert [(each["value"], each["taken"]) for each in planned.json["proposals"]] == [(None, False)]
    assert "3 to 3 short runs of 1 epochs, then the best of them in full" in planned.out
    assert "managed, 1 epoch" in [step["label"] for step in planned.json["steps"]]
    assert not (tmp_path / "storage").exists()

    done = raykd("run", *words, "--local", "--json")
    assert done.code == 0, done.err
    proposals = done.json["proposals"]
    assert len(proposals) == 3
    assert all(each["value"] is not None for each in proposals)
    (taken,) = (each for each in proposals if each["taken"])
    assert taken["value"] == max(each["value"] for each in proposals)
    assert proposals[0]["reason"] == "published defaults"
    assert [each["links"] for each in done.json["candidates"]] == [0, 1]
    assert "proposals of the configuration manager" in done.out
    assert "taken" in done.out
    assert "student alone" in done.out

    again = raykd("run", *words, "--local", "--json")
    assert again.json["metrics"] == done.json["metrics"]
    assert again.json["proposals"] == proposals
    assert again.json["cache_rows"] == 0
    found = raykd("eval", *words, "--json").json
    assert (found["stage"], found["metrics"]["test_top1"]) == (done.json["stage"], done.json["metrics"]["test_top1"])
    planned = raykd("plan", *words, "--json").json
    assert planned["proposals"] == proposals
    assert all(step["done"] for step in planned["steps"] if not step["label"].endswith("alone"))
    cited = raykd("cite", *words)
    assert "adaptive configuration manager" in cited.out
    plain = raykd("cite", *words, "--no-adaptive")
    assert "adaptive configuration manager" not in plain.out
    assert "HPM-KD" in plain.out


def test_what_a_search_tries_of_such_a_recipe_is_what_it_writes_with_just_these_knobs() -> None:
    recipe = Recipe("managed", tiny_jobs.managed)
    assert fingerprint(recipe.written(tau=3.0)) == fingerprint(recipe.written(tau=3.0, adaptive=False))
    assert fingerprint(recipe.stage(tau=3.0)) == fingerprint(recipe.stage(tau=3.0, adaptive=False))
    assert any("moving" in source or "HPM-KD" in source for source in bibliography(recipe.stage()))


def test_it_runs_from_python_too(tmp_path: Path) -> None:
    managed = tiny_jobs.managed()
    assert isinstance(managed, Adaptive)
    trained = run(managed, storage=tmp_path, local=True, quiet=True)
    assert trained.stage == settled(managed, Storage(tmp_path))
