"""A space beside a recipe: what it refuses, what it draws, how it is encoded."""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from raykd import Stage, recipes
from raykd.recipes import Recipe
from raykd.search import Choice, Range, Space, searched, space_of

Method = Literal["kd", "dkd", "dist"]


@searched(
    beta=Range(1, 10, when={"method": "dkd"}),
    warmup=Range(1, 20, log=True, when={"beta_on": True}),
    method=Choice(),
    beta_on=Choice(when={"method": ("dkd", "dist")}),
    tau=Range(1, 8),
    lr=Range(1e-3, 0.5, log=True),
    width=Choice(4, 8),
)
def student(
    method: Method = "kd", tau: float = 4.0, lr: float = 0.1, beta: float = 8.0, beta_on: bool = False,
    warmup: int = 5, width: int = 8, epochs: int = 2,
) -> Stage:  # fmt: skip
    """A student."""
    return tiny.student(tau=tau, epochs=epochs)


RECIPE = Recipe("here:student", student)
SPACE = space_of(RECIPE)


def test_the_function_stays_what_it_is() -> None:
    assert student.__module__ == __name__
    assert student.__name__ == "student"
    assert student(tau=2.0) == tiny.student(tau=2.0, epochs=2)
    assert list(RECIPE.knobs) == ["method", "tau", "lr", "beta", "beta_on", "warmup", "width", "epochs"]


def test_a_file_with_spaces_is_a_file_of_recipes(tmp_path: Path) -> None:
    file = tmp_path / "spaced.py"
    file.write_text(
        "import tiny\nfrom raykd import Stage\nfrom raykd.search import Range, searched\n"
        "@searched(tau=Range(1, 8))\ndef kd(tau: float = 4.0) -> Stage:\n    return tiny.student(tau=tau)\n"
    )
    assert recipes.names(recipes.load_file(file)) == ["kd"]
    assert space_of(recipes.load(f"{file}:kd")).axes["tau"] == Range(1.0, 8.0)


def test_a_mistake_is_found_when_the_file_is_loaded(tmp_path: Path) -> None:
    file = tmp_path / "wrong.py"
    file.write_text(
        "from raykd import Stage\nfrom raykd.search import Range, searched\n"
        "@searched(tua=Range(1, 8))\ndef kd(tau: float = 4.0) -> Stage: ...\n"
    )
    with pytest.raises(ValueError, match=r"^searched of kd: tua is no knob: tau would be right$"):
        recipes.load(f"{file}:kd")


WRONG = {
    "names nothing": {},
    "no knob": {"tua": Range(1, 8)},
    "no default": {"steps": Range(1, 8)},
    "a Choice would be right": {"mixed": Range(0, 1)},
    "whole ends": {"epochs": Range(0.5, 4)},
    "cannot be 'ce'": {"method": Choice("kd", "ce")},
    "cannot be 2.5": {"epochs": Choice(2, 2.5)},
    "cannot be True": {"epochs": Choice(2, True)},
    "cannot be None": {"epochs": Choice(2, None)},
    "cannot be inf": {"tau": Choice(4.0, math.inf)},
    "two different values": {"width": Choice(8)},
    "two different values or": {"width": Choice(8, 8)},
    "two different": {"tau": Choice()},
    "its default 4.0 lies outside": {"tau": Range(5, 8)},
    "its default 8 lies outside": {"width": Choice(2, 4)},
    "epochs, which is not searched": {"tau": Range(1, 8, when={"epochs": 2})},
    "method='ce', which is outside": {"method": Choice(), "tau": Range(1, 8, when={"method": "ce"})},
    "in a circle": {"mixed": Choice(when={"method": "kd"}), "method": Choice(when={"mixed": True})},
}


@pytest.mark.parametrize("words", WRONG)
def test_what_cannot_be_searched_is_refused_in_one_line(words: str) -> None:
    def recipe(
        steps: int, method: Method = "kd", tau: float = 4.0, epochs: int = 2, width: int = 8, mixed: bool = False
    ) -> Stage: ...

    with pytest.raises(ValueError, match=words) as refused:
        searched(**WRONG[words])(recipe)
    assert "\n" not in str(refused.value)
    assert str(refused.value).startswith("searched of recipe: ")


@pytest.mark.parametrize(
    ("low", "high", "log"),
    [(2, 1, False), (1, 1, False), (0, 1, True), (-1, 1, True), (0, math.nan, False), (0, math.inf, False)],
)
def test_a_range_without_numbers_is_refused(low: float, high: float, log: bool) -> None:
    with pytest.raises(ValueError, match="would be right"):
        Range(low, high, log=log)


def test_a_recipe_without_a_space_says_how_to_give_it_one() -> None:
    with pytest.raises(ValueError, match="has no space: write @searched"):
        space_of(Recipe("here:plain", tiny.student))


def test_an_optional_knob_may_be_none() -> None:
    @searched(clip=Choice(None, 1.0, 5.0))
    def recipe(clip: float | None = None) -> Stage: ...

    space = space_of(Recipe("here:recipe", recipe))
    assert {space.sample(0, i)["clip"] for i in range(40)} == {None, 1.0, 5.0}
    assert space.encode({"clip": None}).tolist() == [1, 0, 0]


def test_types_follow_the_signature() -> None:
    for number in range(200):
        drawn = SPACE.sample(0, number)
        assert type(drawn["tau"]) is float
        assert type(drawn["width"]) is int
        if "warmup" in drawn:
            assert type(drawn["warmup"]) is int
        RECIPE.stage(**drawn)


def test_a_configuration_holds_the_active_knobs_only() -> None:
    seen = {tuple(sorted(SPACE.sample(0, number))) for number in range(300)}
    always = {"method", "tau", "lr", "width"}
    assert seen == {
        tuple(sorted(always | more))
        for more in (set(), {"beta", "beta_on"}, {"beta", "beta_on", "warmup"}, {"beta_on"}, {"beta_on", "warmup"})
    }
    for number in range(300):
        drawn = SPACE.sample(0, number)
        assert ("beta" in drawn) == (drawn["method"] == "dkd")
        assert ("beta_on" in drawn) == (drawn["method"] != "kd")
        assert ("warmup" in drawn) == (drawn.get("beta_on") is True)


def test_published_defaults_are_a_configuration() -> None:
    assert SPACE.defaults(RECIPE) == {"method": "kd", "tau": 4.0, "lr": 0.1, "width": 8}
    SPACE.check(SPACE.defaults(RECIPE))


@given(st.integers(0, 2**40), st.integers(0, 2**40))
def test_a_draw_is_a_function_of_seed_and_number(seed: int, number: int) -> None:
    drawn = SPACE.sample(seed, number)
    SPACE.check(drawn)
    assert SPACE.samples(seed, 3, start=number)[0] == drawn
    assert SPACE.project(drawn) == drawn
    assert pickle.loads(pickle.dumps(SPACE)).sample(seed, number) == drawn


def test_one_knob_more_leaves_the_draws_of_the_others() -> None:
    fewer = Space({name: axis for name, axis in SPACE.axes.items() if name in ("tau", "width")})
    for number in range(20):
        drawn = SPACE.sample(3, number)
        assert fewer.sample(3, number) == {"tau": drawn["tau"], "width": drawn["width"]}


def test_draws_fill_each_axis_evenly() -> None:
    count = 4000
    axes = {"a": Range(1, 8), "b": Range(1e-3, 10.0, log=True), "c": Choice(1, 2, 3), "n": Range(1, 4, whole=True)}
    drawn = Space(axes).samples(1, count)
    a = np.array([each["a"] for each in drawn])
    b = np.log10([each["b"] for each in drawn])
    for values, low, high in ((a, 1, 8), (b, -3, 1)):
        sorted_ = (np.sort(values) - low) / (high - low)
        # Kolmogorov-Smirnov: P(D > 1.95 / sqrt n) < .001 for even draws
        assert np.abs(sorted_ - (np.arange(count) + 0.5) / count).max() < 1.95 / math.sqrt(count)
    for name, values in (("c", (1, 2, 3)), ("n", (1, 2, 3, 4))):
        shares = [sum(each[name] == value for each in drawn) / count for value in values]
        assert shares == pytest.approx([1 / len(values)] * len(values), abs=4 * math.sqrt(0.25 / count))


def test_whole_numbers_of_a_log_range_reach_both_ends() -> None:
    drawn = {each["n"] for each in Space({"n": Range(1, 64, log=True, whole=True)}).samples(0, 4000)}
    assert min(drawn) == 1
    assert max(drawn) == 64


def test_encoding_is_the_place_in_the_range_the_one_of_a_choice_and_minus_one_elsewhere() -> None:
    lr, tau = math.sqrt(1e-3 * 0.5), 4.5
    configuration = {"method": "kd", "tau": tau, "lr": lr, "width": 8}
    columns: dict[str, list[float]] = {}
    encoded, start = SPACE.encode(configuration).tolist(), 0
    for name, axis in SPACE.axes.items():
        columns[name] = encoded[start : start + axis.width]
        start += axis.width
    assert start == SPACE.width == len(encoded)
    assert columns == {
        "method": [1, 0, 0], "tau": [0.5], "lr": [pytest.approx(0.5)], "width": [0, 1],
        "beta": [-1], "beta_on": [-1, -1], "warmup": [-1],
    }  # fmt: skip


def test_encoded_numbers_are_in_the_unit_interval_and_different_for_different_configurations() -> None:
    drawn = SPACE.samples(5, 500)
    encoded = np.stack([SPACE.encode(each) for each in drawn])
    assert ((encoded == -1) | ((encoded >= 0) & (encoded <= 1))).all()
    different = {str(each): row.tobytes() for each, row in zip(drawn, encoded, strict=True)}
    assert len(different) == len(set(different.values())) > 490


BAD = {
    "epochs=3 is not searched": {"epochs": 3},
    "without tau": {"tau": "gone"},
    "tau=9.0 is outside of Range": {"tau": 9.0},
    "tau=nan is outside": {"tau": math.nan},
    "tau='warm' is outside": {"tau": "warm"},
    "tau=True is outside": {"tau": True},
    "width=6 is outside of Choice": {"width": 6},
    "matters only when method is 'dkd'": {"beta": 2.0},
    "matters only when beta_on is True": {"warmup": 2},
}


@pytest.mark.parametrize("words", BAD)
def test_what_is_no_configuration_is_named(words: str) -> None:
    configuration = {"method": "kd", "tau": 4.0, "lr": 0.1, "width": 8, **BAD[words]}
    configuration = {name: value for name, value in configuration.items() if value != "gone"}
    for refuse in (SPACE.check, SPACE.encode):
        with pytest.raises(ValueError, match=words):
            refuse(configuration)


def test_the_values_of_all_knobs_are_projected_on_the_space() -> None:
    values = {"method": "kd", "tau": 2.0, "lr": 0.1, "beta": 3.0, "beta_on": True, "warmup": 2, "width": 4, "epochs": 9}
    assert SPACE.project(values) == {"method": "kd", "tau": 2.0, "lr": 0.1, "width": 4}
    dkd = {**values, "method": "dkd"}
    assert SPACE.project(dkd) == {name: value for name, value in dkd.items() if name != "epochs"}
    assert SPACE.project({**values, "tau": 80.0}) is None
    assert SPACE.project({name: value for name, value in values.items() if name != "lr"}) is None


def test_what_is_given_is_not_searched_and_decides() -> None:
    dkd = SPACE.given(method="dkd", epochs=10)
    assert set(dkd.axes) == {"tau", "lr", "width", "beta", "beta_on", "warmup"}
    assert dkd.axes["beta"].when == {}
    assert set(dkd.sample(0, 0)) >= {"beta", "beta_on"}
    kd = SPACE.given(method="kd")
    assert set(kd.axes) == {"tau", "lr", "width"}  # warmup hangs on beta_on, which hangs on the method
    assert set(SPACE.given(beta_on=False).axes) == {"method", "tau", "lr", "width", "beta"}
    values = {"tau": 2.0, "lr": 0.1, "width": 4, "epochs": 120}
    assert kd.project({"method": "kd", **values}) == {"tau": 2.0, "lr": 0.1, "width": 4}
    assert kd.project({"method": "dkd", **values}) is None  # what was found with another method says nothing here
    assert (
        SPACE.given(method="kd", epochs=10).project({"method": "kd", **values}) is not None
    )  # epochs were never searched
    with pytest.raises(ValueError, match="nothing is left"):
        SPACE.given(method="kd", tau=1.0, lr=0.1, width=4)
