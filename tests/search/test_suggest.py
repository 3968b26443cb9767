"""What a search begins with, and what comes after that."""

from __future__ import annotations

from pathlib import Path

from search_examples import DEFAULTS, SPACE, history, task, tried
from test_search import of

from raykd.recipes import Recipe
from raykd.search.record import task_of
from raykd.search.search import Search
from raykd.search.space import Configuration
from raykd.search.suggest import Suggestions, known, starting
from raykd.storage import Storage

NEW = task(90)


def toy(method: str = "kd", tau: float = 4.0, lr: float = 0.05, beta: float = 8.0, epochs: int = 30) -> None:
    """A recipe in name only: what is proposed never depends on the stage."""


def made(**settings: object) -> Search:
    return Search(Recipe("toy:toy", toy), SPACE, **settings)  # type: ignore[arg-type]


def test_draws_are_all_known_at_the_beginning_and_the_longest_expected_comes_first(tmp_path: Path) -> None:
    search = of("long", searcher="random", trials=6)
    found = starting(search, [], {}, Storage(tmp_path))
    assert 2 <= len(found) <= 6
    assert {"epochs": 2} in found
    epochs = [int(str(each["epochs"])) for each in found]
    assert epochs == sorted(epochs, reverse=True)
    assert len(set(epochs)) > 1


def test_a_configuration_that_the_recipe_refuses_is_left_to_its_trial(tmp_path: Path) -> None:
    search = of("methods", searcher="random", trials=12)
    found = starting(search, [], {}, Storage(tmp_path))
    assert found[-1]["method"] == "refused"  # nothing is expected of it


def test_optuna_begins_with_the_defaults_and_with_what_was_good_elsewhere(tmp_path: Path) -> None:
    search = of("kd", trials=16)
    assert starting(search, [], {}, Storage(tmp_path)) == [{"tau": 2.0, "lr": 0.05}]


def test_a_suggestion_is_new_and_knows_what_came_of_those_before() -> None:
    search = made(searcher="memory", trials=30)
    records = history(6, 12)
    suggestions = Suggestions(search, records, NEW, [DEFAULTS])
    seen: list[Configuration] = []
    for trial in range(14):
        configuration = suggestions.next(f"trial{trial}")
        assert configuration is not None
        assert configuration not in seen
        seen.append(configuration)
        if trial % 3:
            suggestions.told[f"trial{trial}"] = {"val_top1": tried(NEW, configuration, trial).results["val_top1"]}
        elif trial:
            suggestions.told[f"trial{trial}"] = None  # a failure
    assert seen[0] == DEFAULTS
    again = Suggestions(search, records, NEW, [DEFAULTS])
    again.asked, again.told = dict(suggestions.asked), dict(suggestions.told)
    assert again.next("another") == suggestions.next("another")
    forgetful = Suggestions(search, records, NEW, [DEFAULTS], dict(suggestions.asked), {})
    assert forgetful.next("another") != suggestions.next("one more")


def test_what_is_known_of_the_task_itself_is_told_and_of_others_is_not() -> None:
    mine = [tried(NEW, each, 10**6 + i) for i, each in enumerate(SPACE.samples(1, 3))]
    mine[1] = tried(NEW, SPACE.samples(1, 2)[1], 10**6 + 1, status="stopped")
    found = known(made(), [*history(3, 4), *mine], task_of(NEW))
    wanted = [(SPACE.active(each.configuration), each.results["val_top1"]) for each in (mine[0], mine[2])]
    assert sorted(found, key=str) == sorted(wanted, key=str)
