"""HPM-KD as one call: what each switch changes, that all off is the stage itself, and how small a student it makes."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import tiny
from laws import NAMES, random_batch

from raykd import recipes
from raykd.cite import bibliography
from raykd.identity import fingerprint
from raykd.methods import published
from raykd.methods.auto_chain import auto_chain
from raykd.methods.chain import the_teacher
from raykd.methods.ctkd import CTKD
from raykd.methods.gate import Gate, GateAccuracy, GateEntropy, attended
from raykd.methods.hpm import compressed, hpm
from raykd.methods.kl import KL
from raykd.methods.meta_temperature import MetaTemperature
from raykd.models import CNN, MLP, Architecture, ResNet, size
from raykd.objective import STUDENT, Context
from raykd.search import Adaptive
from raykd.selection import Selection
from raykd.signals import INPUT, LOGITS
from raykd.stage import Stage
from raykd.terms import Constant, CrossEntropy, Distill, DistillEnsemble

JOBS = Path(__file__).parents[2] / "jobs"
OFF = {"chain": False, "attention": False, "temperature": False}
TAUGHT = {"large": tiny.teacher(width=32), "middle": tiny.teacher(width=24), "small": tiny.teacher(width=12)}
PLAIN = replace(
    tiny.student(), student=MLP((4,), shape=tiny.SHAPE), objective=published.kd(0.7, 4.0), teachers=TAUGHT, label="plain"
)  # fmt: skip
ONE = replace(PLAIN, teachers={"teacher": TAUGHT["large"]})


def parts(stage: Stage) -> tuple[object, ...]:
    """All of it but the objective and what it cites."""
    return fingerprint(replace(stage, objective=PLAIN.objective)), stage.label


def only(**switches: bool) -> Stage:
    found = hpm(PLAIN, **{**OFF, **switches})
    assert isinstance(found, Stage)
    return found


@pytest.mark.parametrize("stage", [PLAIN, ONE], ids=["three", "one"])
def test_all_off_is_the_plain_stage_itself(stage: Stage) -> None:
    assert hpm(stage, **OFF) == stage
    assert hpm(stage, **OFF).cites == stage.cites  # type: ignore[union-attr]


def test_attention_is_the_published_loss_of_a_gate_and_nothing_else_changes() -> None:
    stage, plain = only(attention=True), PLAIN.objective
    labels, mixed, entropy = stage.objective.terms
    assert labels == plain.terms[0]
    assert (mixed.weight, mixed.term) == (0.7, DistillEnsemble(KL(), Gate(), Constant(4.0)))
    assert (entropy.weight, entropy.term) == (0.01, GateEntropy(Gate()))
    assert parts(stage) == parts(PLAIN)
    by_gate = attended(DistillEnsemble(KL(), Gate(), Constant(4.0)), alpha=0.7)
    assert {fingerprint(each) for each in by_gate.terms[2:]} == {fingerprint(entropy)}


def test_the_gates_own_terms_have_the_weights_that_are_asked_for() -> None:
    found = hpm(PLAIN, chain=False, temperature=False, entropy=0.0, accuracy=0.5)
    assert isinstance(found, Stage)
    assert [type(each.term) for each in found.objective.terms] == [CrossEntropy, DistillEnsemble, GateAccuracy]


def test_attention_over_some_of_the_teachers_is_about_those() -> None:
    some = replace(PLAIN, objective=CrossEntropy() + 0.5 * Distill(KL(), teachers=("large", "small")))
    found = hpm(some, chain=False)
    assert isinstance(found, Stage)
    assert found.needs.keys() == {STUDENT, "large", "small"}
    shapes = {name: {LOGITS: (5,)} for name in NAMES} | {STUDENT: {LOGITS: (5,), INPUT: (2, 2)}}
    taught = hpm(replace(some, objective=1.0 * Distill(KL(), teachers=("large", "small"))), chain=False)
    assert isinstance(taught, Stage)
    named = {"large": NAMES[0], "small": NAMES[1]}
    batch = random_batch()
    context = Context(
        {**shapes, **{new: shapes[old] for new, old in named.items()}}, ("large", "middle", "small"), 5, 9
    )
    criterion = taught.objective.build(context)
    inputs = batch.student[LOGITS].detach()[:, :4].reshape(-1, 2, 2)
    seen = replace(
        batch,
        student={**batch.student, INPUT: inputs},
        teachers={new: batch.teachers[old] for new, old in named.items()},
    )
    assert criterion(seen).isfinite().all()
    assert len(criterion.learned) == 1  # one gate for both terms


def test_of_one_teacher_attention_is_plain_distillation_bit_for_bit() -> None:
    assert fingerprint(hpm(ONE, chain=False, temperature=False)) == fingerprint(ONE)


@pytest.mark.parametrize("attention", [False, True])
def test_temperature_moves_about_the_fixed_one_and_nothing_else_changes(attention: bool) -> None:
    still, moving = only(attention=attention), only(attention=attention, temperature=True)
    before, after = still.objective.terms[1].term, moving.objective.terms[1].term
    assert isinstance(before, Distill | DistillEnsemble)
    assert after == replace(before, temperature=MetaTemperature("auto", 2.0, 6.0, 4.0, every=1))
    assert [moving.objective.terms[i] for i in (0, *range(2, len(moving.objective.terms)))] == [
        still.objective.terms[i] for i in (0, *range(2, len(still.objective.terms)))
    ]
    assert parts(moving) == parts(still)


@pytest.mark.parametrize(("epochs", "every"), [(1, 1), (9, 1), (20, 2), (100, 10), (240, 10)])
def test_the_temperature_is_revised_every_tenth_of_the_epochs_and_as_published_of_long_trainings(
    epochs: int, every: int
) -> None:
    found = hpm(replace(PLAIN, budget=replace(PLAIN.budget, epochs=epochs)), chain=False)
    assert isinstance(found, Stage)
    assert found.objective.terms[1].term.temperature.every == every  # type: ignore[attr-defined]


@pytest.mark.parametrize(("attention", "temperature"), list(product([False, True], repeat=2)))
def test_a_chain_is_the_automatic_one_of_the_same_stage_from_the_largest_teacher(
    attention: bool, temperature: bool
) -> None:
    without = only(attention=attention, temperature=temperature)
    found = hpm(PLAIN, attention=attention, temperature=temperature, epsilon=0.02, most=2)
    assert isinstance(found, Selection)
    assert found.candidates == auto_chain(without, 2, epsilon=0.02, relative=True, teacher="large").candidates
    assert (found.epsilon, found.relative) == (0.02, True)
    assert found.candidates[0] == without
    for candidate in found.candidates[1:]:
        assert candidate.objective == without.objective
        assert {name: each for name, each in candidate.teachers.items() if name != "large"} == {
            name: each for name, each in TAUGHT.items() if name != "large"
        }


def test_every_combination_of_switches_is_a_stage_of_its_own() -> None:
    found = [hpm(PLAIN, chain=c, attention=a, temperature=t) for c, a, t in product([False, True], repeat=3)]
    assert len({fingerprint(each) for each in found}) == 8


def test_what_is_switched_on_is_cited() -> None:
    def cited(stage: Stage) -> bool:
        return any("HPM-KD" in source for source in bibliography(stage))

    assert not cited(only())
    assert all(cited(only(**{name: True})) for name in ("attention", "temperature"))


@pytest.mark.parametrize(
    "objective",
    [
        1.0 * CrossEntropy(),
        CrossEntropy() + 1.0 * Distill(KL(), temperature=CTKD()),
        1.0 * Distill(KL()) + 1.0 * Distill(KL(), temperature=Constant(2.0)),
        CrossEntropy() + 1.0 * DistillEnsemble(KL(), Gate()),
    ],
    ids=str,
)
def test_what_is_not_plain_distillation_is_refused(objective: object) -> None:
    with pytest.raises(ValueError, match="one Distill term with even weights and a constant temperature"):
        hpm(replace(PLAIN, objective=objective))  # type: ignore[arg-type]


# --- how small the student is


@pytest.mark.parametrize("teacher", [CNN(12, shape=(1, 8, 8)), MLP((32, 16), shape=(1, 8, 8)), ResNet(20)], ids=str)
@pytest.mark.parametrize("compression", [1.2, 2.0, 3.3])
def test_the_student_is_the_largest_of_the_family_from_below(teacher: Architecture, compression: float) -> None:
    large = size(teacher).parameters
    limit = large / compression
    found = compressed(teacher, compression=compression)
    assert type(found) is type(teacher)
    assert size(found).parameters <= limit
    assert compressed(teacher, target_params=int(limit)) == found
    if isinstance(teacher, CNN):
        members = [replace(teacher, width=width) for width in range(1, teacher.width)]
        assert found == max(
            (each for each in members if size(each).parameters <= limit), key=lambda each: size(each).parameters
        )


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ({}, "no target for cnn12: one of target_params and compression would be right"),
        ({"target_params": 99, "compression": 2.0}, "target_params=99 and compression=2 for cnn12: one of"),
        (
            {"target_params": 10},
            "target_params=10 of cnn12, which has .* no member .* less than 163: 163 to .* would be right",
        ),
        ({"target_params": 10**9}, "163 to .* would be right"),
        ({"compression": 1.0}, "above 1 to .* would be right"),
        ({"compression": 1e9}, "above 1 to .* would be right"),
        ({"compression": -3.0}, "above 1 to .* would be right"),
        ({"compression": float("nan")}, "would be right"),
    ],
)
def test_a_target_that_cannot_be_met_says_what_can(target: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words) as told:
        compressed(CNN(12, shape=(1, 8, 8)), **target)  # type: ignore[arg-type]
    assert "\n" not in str(told.value)


# --- the recipes


def returned(job: str, **knobs: object) -> recipes.Written:
    return recipes.load(f"{JOBS}/{job}.py:hpm").returned(**knobs)


@pytest.mark.parametrize("job", ["digits", "fashion"])
def test_a_job_without_any_component_is_its_plain_distillation_bit_for_bit(job: str) -> None:
    width = {"width": 16} if job == "fashion" else {}
    plain = recipes.load(f"{JOBS}/{job}.py:kd").stage(epochs=7, rows=60)
    assert fingerprint(returned(job, teachers=1, adaptive=False, epochs=7, rows=60, **width, **OFF)) == fingerprint(
        plain
    )


@pytest.mark.parametrize("switch", ["chain", "attention", "temperature"])
@pytest.mark.parametrize("job", ["digits", "fashion"])
def test_a_switch_of_a_job_is_that_of_the_method_and_changes_nothing_else(job: str, switch: str) -> None:
    plain = returned(job, adaptive=False, **OFF)
    assert isinstance(plain, Stage)
    on = returned(job, adaptive=False, **{**OFF, switch: True})
    assert fingerprint(on) == fingerprint(hpm(plain, **{**OFF, switch: True}))
    assert fingerprint(on) != fingerprint(plain)


@pytest.mark.parametrize("job", ["digits", "fashion"])
def test_the_manager_starts_from_the_published_knobs_with_all_other_switches_on(job: str) -> None:
    found = returned(job)
    assert isinstance(found, Adaptive)
    assert found.memory
    assert fingerprint(found.default) == fingerprint(returned(job, adaptive=False))
    assert set(found.space.axes) == {"tau", "alpha", "lr", "weight_decay", "epsilon"}
    without = returned(job, chain=False, memory=False)
    assert isinstance(without, Adaptive)
    assert not without.memory
    assert set(without.space.axes) == {"tau", "alpha", "lr", "weight_decay"}


def test_the_command_of_the_readme_makes_a_student_of_at_most_so_many_parameters() -> None:
    for knobs, most in (({"target_params": 30000}, 30000), ({"compression": 15.0}, 94186 / 15)):
        found = returned("fashion", **knobs)
        assert isinstance(found, Adaptive)
        largest = found.first.teachers[the_teacher(found.first, "teacher")]
        assert size(largest.architecture).parameters == 94186
        assert 0.8 * most < size(found.first.student).parameters <= most
