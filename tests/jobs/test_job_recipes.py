"""The recipes of jobs/ as values: what they write, what their knobs change, what they cite. Nothing is computed."""

from __future__ import annotations

import re
import typing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from job_cases import METHODS, RECIPES, ROOT, another, graph, module, of, returned, write_cifar100, written
from refusing import Refusing

from raykd.budget import Falling
from raykd.cite import bibliography
from raykd.identity import fingerprint
from raykd.methods.classroom import Certainty, KnowledgeFilter, Mentoring, Rank
from raykd.methods.smskd import REFERENCE, Doubt, Trust
from raykd.objective import About, Objective
from raykd.plan import plan
from raykd.runtime import Display
from raykd.stage import Stage
from raykd.storage import Storage
from raykd.terms import Constant, CrossEntropy, Distill, DistillEnsemble, Uniform

README = (ROOT / "README.md").read_text()
SHARED = {"epochs", "lr", "rows", "seed", "pair", "data", "teacher_weights"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cifar100(tmp_path_factory.mktemp("cifar"))


def terms(objective: Objective) -> list[Any]:
    return [each.term.term if isinstance(each.term, About) else each.term for each in objective.terms]


@pytest.mark.parametrize("target", RECIPES)
def test_building_and_planning_a_recipe_computes_nothing(target: str, data: Path, tmp_path: Path) -> None:
    stage = written(target, data)
    found = plan([stage], Storage(tmp_path))
    assert found.to_train
    assert found.to_train[-1] == stage
    assert not list(tmp_path.rglob("*"))
    with pytest.raises(AssertionError, match="asked to train"):
        Refusing(Storage(tmp_path), Display(quiet=True)).run(stage)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_the_jobs_have_the_same_recipes() -> None:
    assert of("digits") == of("fashion") == of("cifar100")


@pytest.mark.parametrize("target", RECIPES)
def test_a_recipe_says_its_paper_and_what_each_knob_does(target: str) -> None:
    recipe = RECIPES[target]
    if target in METHODS:
        assert re.search(r"\((\D+, )?\d{4}[);]", recipe.summary) or re.search(r"et al\., \d{4}", recipe.summary)
        assert {"epochs", "lr", "seed"} <= recipe.knobs.keys()
    assert [name for name, knob in recipe.knobs.items() if not knob.help] == []
    assert len(recipe.knobs) == len(typing.get_type_hints(recipe.function)) - 1, "a knob that no command line can say"


@pytest.mark.parametrize("target", RECIPES)
def test_every_knob_changes_what_is_written(target: str, data: Path) -> None:
    as_it_is = fingerprint(returned(target, data))
    for name, knob in RECIPES[target].knobs.items():
        if name not in ("data", "teacher_weights"):
            assert fingerprint(returned(target, data, **{name: another(knob)})) != as_it_is, name


@pytest.mark.parametrize("target", METHODS)
def test_a_method_distils_into_the_student_that_it_is_compared_with(target: str, data: Path) -> None:
    job, _, name = target.partition(":")
    student, stage = written(f"{job}:student", data), written(target, data)
    assert replace(stage.view, replicas=student.view.replicas) == student.view
    if stage.view.replicas != student.view.replicas:  # whole maps: fewer copies, unless one says so
        assert job == "fashion"
        assert "replicas" in RECIPES[target].knobs or name == "smskd"
    assert stage.seed == student.seed + (name == "born_again")
    assert stage.alone().student == student.student


# --- what the knobs of an ablation take out


def classroom(**knobs: Any) -> Stage:
    return RECIPES["digits:classroom"].stage(**knobs)


def test_classroomkd_has_one_teacher_and_five_peers_as_published() -> None:
    stage = classroom()
    assert set(stage.teachers) == {"teacher", *(f"peer{i}" for i in range(5))}
    labels, mentors = stage.objective.terms
    assert (labels.weight, labels.term) == (Certainty(), CrossEntropy())
    assert (mentors.term.weights, mentors.term.temperature) == (KnowledgeFilter(), Mentoring(12.0))  # type: ignore[attr-defined]


@pytest.mark.parametrize("teachers", range(4))
@pytest.mark.parametrize("peers", range(7))
def test_classroomkd_takes_any_number_of_mentors(teachers: int, peers: int) -> None:
    if not teachers + peers:
        with pytest.raises(ValueError, match="this stage has none"):
            classroom(teachers=0, peers=0)
        return
    found = classroom(teachers=teachers, peers=peers).teachers
    assert sum(name.startswith("teacher") for name in found) == teachers
    assert sum(name.startswith("peer") for name in found) == peers
    assert len({fingerprint(each) for each in found.values()}) == teachers + peers


@pytest.mark.parametrize("job", ["digits", "fashion", "cifar100"])
def test_a_classroom_of_more_mentors_than_there_are_is_refused(job: str, data: Path) -> None:
    with pytest.raises(ValueError, match="teachers=4: 0 to 3"):
        written(f"{job}:classroom", data, teachers=4)
    with pytest.raises(ValueError, match="peers=7: 0 to 6"):
        written(f"{job}:classroom", data, peers=7)


def test_each_switch_of_classroomkd_takes_out_its_part_and_nothing_else() -> None:
    (labels, mentors), teachers = classroom().objective.terms, classroom().teachers
    for knobs, part, other in (
        ({"filtering": False}, "weights", Rank()),
        ({"mentoring": False}, "temperature", Constant(1.0)),
        ({"mentoring": False, "base": 4.0}, "temperature", Constant(4.0)),
        ({"stretch": 4.0}, "temperature", Mentoring(4.0)),
    ):
        stage = classroom(**knobs)
        assert stage.objective.terms == (labels, replace(mentors, term=replace(mentors.term, **{part: other})))  # type: ignore[type-var]
        assert stage.teachers == teachers
    found = classroom(per="batch").objective.terms
    assert found[0].weight == Certainty("batch")
    assert terms(classroom(per="batch").objective)[1].weights == KnowledgeFilter("batch")


@pytest.mark.parametrize("job", ["digits", "fashion", "cifar100"])
def test_quality_is_how_long_peers_are_trained(job: str, data: Path) -> None:
    def epochs(quality: str) -> list[int]:
        found = written(f"{job}:classroom", data, peers=6, quality=quality).teachers
        return [each.budget.epochs for name, each in found.items() if name.startswith("peer")]  # type: ignore[union-attr]

    whole = written(f"{job}:student", data).budget.epochs
    assert epochs("trained") == [whole] * 6
    assert epochs("mixed")[0] == whole
    assert epochs("mixed") == sorted(epochs("mixed"), reverse=True)
    assert max(epochs("weak")) == min(epochs("weak")) < whole / 4


def arm(name: str, job: str = "digits", data: Path = ROOT, **knobs: Any) -> Stage:
    return written(f"{job}:smskd", data, arm=name, **knobs)


def stages(stage: Stage) -> list[Stage]:
    """The stages of one student, the first one first."""
    return [*(stages(stage.init) if isinstance(stage.init, Stage) else []), stage]


ARMS = ("anchored", "uniform", "trust", "sequential", "joint")


@pytest.mark.parametrize("job", ["digits", "fashion", "cifar100"])
@pytest.mark.parametrize("then", ["kd", "fitnet", "dkd,kd"])
def test_all_arms_of_smskd_train_for_the_same_number_of_epochs(job: str, then: str, data: Path) -> None:
    whole = written(f"{job}:smskd", data).init
    assert isinstance(whole, Stage)
    totals = {name: sum(s.budget.trained for s in stages(arm(name, job, data, then=then))) for name in ARMS}
    assert len(set(totals.values())) == 1, totals
    assert (
        totals["joint"] == whole.budget.epochs + (1 + then.count(",")) * RECIPES[f"{job}:smskd"].knobs["extra"].default
    )


def test_each_arm_of_smskd_differs_in_what_holds_the_second_stage() -> None:
    found = {name: arm(name) for name in ARMS}
    first = found["anchored"].init
    assert isinstance(first, Stage)
    assert first.objective == RECIPES["digits:fitnet"].stage().objective
    for name, weights in (("anchored", Doubt(("teacher",))), ("trust", Trust(("teacher",))), ("uniform", Uniform())):
        *method, anchor = terms(found[name].objective)
        assert anchor.weights == weights
        assert anchor.teachers == (REFERENCE,)
        assert method == terms(RECIPES["digits:kd"].stage().objective)
        assert found[name].init == found[name].teachers[REFERENCE] == first
    assert set(found["sequential"].teachers) == {"teacher"}
    assert found["sequential"].init == first
    assert found["joint"].init is None
    both = [RECIPES[f"digits:{name}"].stage().objective for name in ("fitnet", "kd")]
    assert found["joint"].objective == both[0] + both[1]


def test_smskd_takes_any_number_of_stages_and_the_same_method_twice() -> None:
    three = stages(RECIPES["digits:smskd"].stage(first="kd", then="kd,dist"))
    assert [terms(each.objective)[:2] for each in three] == [
        terms(RECIPES[f"digits:{name}"].stage().objective) for name in ("kd", "kd", "dist")
    ]
    with pytest.raises(ValueError, match="'simkd': one of kd, reverse_kl"):
        RECIPES["digits:smskd"].stage(then="simkd")


@pytest.mark.parametrize("job", ["digits", "fashion", "cifar100"])
def test_what_can_be_a_stage_of_smskd_is_an_objective_about_one_teacher(job: str) -> None:
    assert set(module(job).METHODS) == set(of(job)) - {
        "teacher", "student", "simkd", "aver", "ebkd", "camkd", "takd", "dgkd", "dml", "dml_rounds", "progressive",
        "curriculum", "born_again", "classroom", "smskd", "hpm",
    }  # fmt: skip


def test_mixtures_of_equal_teachers_are_compared_one_by_one_or_as_one() -> None:
    separate, logits, probabilities = (
        terms(RECIPES["digits:aver"].stage(mixture=each).objective)[1]
        for each in ("separate", "logits", "probabilities")
    )
    assert isinstance(separate, Distill)
    assert isinstance(logits, DistillEnsemble)
    assert isinstance(probabilities, DistillEnsemble)
    assert str(logits.mixture) == "logits"
    assert str(probabilities.mixture) == "probabilities"


@pytest.mark.parametrize("job", ["digits", "fashion"])
@pytest.mark.parametrize("assistants", [0, 1, 3])
def test_assistants_have_widths_in_geometric_series(job: str, assistants: int) -> None:
    stage = RECIPES[f"{job}:takd"].stage(assistants=assistants)
    chain = [each.architecture.width for each in graph(stage)]  # type: ignore[attr-defined]
    assert len(chain) == assistants + 2
    ratio = (chain[-1] / chain[0]) ** (1 / (assistants + 1))
    assert chain == [round(chain[0] * ratio**i) for i in range(assistants + 2)]
    dense = RECIPES[f"{job}:dgkd"].stage(assistants=assistants)
    assert len(dense.teachers) == assistants + 1


# --- CIFAR-100's protocol


def rates(stage: Stage) -> list[float]:
    return [stage.budget.lr(float(epoch)) for epoch in range(stage.budget.epochs)]


def test_the_rate_falls_as_in_the_contrastive_distillation_protocol(data: Path) -> None:
    found = rates(written("cifar100:dkd", data))
    expected = [0.05] * 150 + [0.005] * 30 + [0.0005] * 30 + [0.00005] * 30
    assert found == pytest.approx(expected)
    light = rates(written("cifar100:dkd", data, pair="vgg13-mobilenetv2"))
    assert light == pytest.approx([rate / 5 for rate in expected])
    half = rates(written("cifar100:dkd", data, epochs=120))
    assert half == pytest.approx(expected[::2])


def test_the_rate_falls_as_in_classroomkd(data: Path) -> None:
    found = rates(written("cifar100:classroom", data))
    falling = [0.05 - 0.04 * epoch / 120 for epoch in range(120)]
    assert found == pytest.approx(falling + [0.01] * 30 + [0.001] * 30 + [0.0001] * 30 + [0.00001] * 30)


def test_a_rate_that_falls_after_a_warmup_starts_at_its_peak_and_bends_where_it_says() -> None:
    falling = Falling(fall=10, every=5, warmup=2)
    assert [falling(each, 30) for each in (0, 1, 2, 6, 10, 14.9, 15, 20)] == pytest.approx(
        [0, 0.5, 1, 0.6, 0.2, 0.2, 0.02, 0.002]
    )
    with pytest.raises(ValueError, match="more than the 10 epochs of warmup"):
        Falling(fall=10, every=5, warmup=10)
    with pytest.raises(ValueError, match="every=0"):
        Falling(fall=10, every=0)


def test_further_stages_on_cifar_have_ninety_epochs_and_a_schedule_of_their_own(data: Path) -> None:
    first, second = stages(written("cifar100:smskd", data))
    assert (first.budget.epochs, second.budget.epochs) == (240, 90)
    assert rates(second)[56:58] == pytest.approx([0.05, 0.005])


def test_every_pair_is_of_the_two_networks_that_it_names() -> None:
    jobs = module("cifar100")
    assert set(typing.get_args(jobs.Pair)) == jobs.PAIRS.keys()
    for name, networks in jobs.PAIRS.items():
        for said, found in zip(name.split("-"), (networks[0], networks[-1]), strict=True):
            plain = str(found).replace("-", "_") if said.startswith("wrn") else str(found).partition("-")[0]
            assert plain == said
        sizes = [sum(each.numel() for each in network.blueprint().parameters()) for network in networks]
        assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize("pair", typing.get_args(module("cifar100").Pair))
def test_the_stages_of_every_pair_can_be_extracted(pair: str, data: Path) -> None:
    stage = written("cifar100:curriculum", data, pair=pair)
    assert [str(each).rpartition("/")[2] for each in stages(stage)] == ["stage1", "stage2", "stage3", "curriculum"]
    assert sum(each.budget.trained for each in stages(stage)) == 240
    assert [each.budget.trained for each in stages(stage)] == [40, 40, 40, 120]


@pytest.mark.parametrize("job", ["digits", "fashion", "cifar100"])
def test_a_curriculum_without_layers_is_plain_distillation(job: str, data: Path) -> None:
    one_shot = written(f"{job}:curriculum", data, layers=0)
    plain = written(f"{job}:kd", data)
    assert fingerprint(replace(one_shot, cache="auto")) == fingerprint(plain)


# --- what is cited


def titles(target: str, **knobs: Any) -> set[str]:
    found = bibliography(RECIPES[target].stage(**knobs))
    return {re.findall(r'"(.+?)"', source)[0] for source in found}


def test_classroomkd_cites_exactly_its_sources(raykd: Any) -> None:
    expected = {
        "Classroom-Inspired Multi-Mentor Distillation with Adaptive Learning Strategies",
        "Distilling the Knowledge in a Neural Network",
        "The MNIST database",
    }
    assert titles("fashion:classroom") == expected
    printed = raykd("cite", f"{ROOT}/jobs/fashion.py:classroom")
    assert printed.code == 0
    assert len(printed.out.splitlines()) == len(expected)
    for title in expected:
        assert title in printed.out


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("takd", "Improved Knowledge Distillation via Teacher Assistant"),
        ("dgkd", "Densely Guided Knowledge Distillation using Multiple Teacher Assistants"),
        ("dml", "Deep Mutual Learning"),
        ("dml_rounds", "Deep Mutual Learning"),
        ("progressive", "Progressive distillation induces an implicit curriculum"),
        ("curriculum", "Efficient Knowledge Distillation via Curriculum Extraction"),
        ("born_again", "Born-Again Neural Networks"),
        ("smskd", "SMSKD: Sequential Multi-Stage Knowledge Distillation"),
        ("smskd", "FitNets: Hints for Thin Deep Nets"),
        ("simkd", "Knowledge Distillation with the Reused Teacher Classifier"),
    ],
)
def test_what_writes_the_graph_is_cited(name: str, title: str) -> None:
    assert title in titles(f"digits:{name}")
    assert title not in titles("digits:kd")


@pytest.mark.parametrize("job", ["digits", "fashion", "cifar100"])
@pytest.mark.parametrize("name", ARMS)
def test_every_arm_of_smskd_cites_it(job: str, name: str, data: Path) -> None:
    assert any("SMSKD: Sequential" in source for source in bibliography(arm(name, job, data)))


# --- the README's table


def test_the_readme_lists_every_recipe_with_the_knobs_of_its_own() -> None:
    section = README.split("\n## Recipes\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| .* \| (.*) \|$", section, re.MULTILINE)
    assert sorted(name for name, _ in rows) == sorted(of("fashion"))
    for name, knobs in rows:
        own = set(RECIPES[f"fashion:{name}"].knobs) - SHARED
        assert set(re.findall(r"`(\w+)`", knobs)) == own, name
