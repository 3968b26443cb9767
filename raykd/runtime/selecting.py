"""Resolving a selection: candidates are made until one more gains too little, in turn or several at once.

What exists is not made again, and what candidates share is made once: equal specs are one stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from raykd.identity import fingerprint
from raykd.plan import plan
from raykd.runtime.runner import Runner
from raykd.runtime.trained import Trained
from raykd.selection import Selection
from raykd.stage import Stage
from raykd.storage import Storage


def resolve(selection: Selection, runner: Runner, *, speculative: int = 1, beside: Sequence[Stage] = ()) -> Trained:
    """The candidate that is worth its cost, made real.

    `speculative`: so many candidates are given to the runner together, which may make them at once; the choice is the same,
    and those after the first that gained too little were made in vain. `beside`: stages to make as well.

    Raises what the runner raises.
    """
    candidates = selection.candidates
    found = candidates[0] if len(candidates) == 1 else chosen(selection, runner.storage)
    if found is not None:
        return runner.run(*beside, found)[-1]
    plan([*beside, *candidates], runner.storage)  # what is wrong with any of them is found before any work
    with runner.storage.held(), runner.session():
        known = 0
        while True:
            # nothing can be told without the first two, so they may as well be made together
            known += max(speculative, 1 if known else 2)
            made = runner.run(*beside, *candidates[:known])[len(beside) :]
            if (place := selection.chosen([each.metrics[selection.metric] for each in made])) is not None:
                return made[place]


def chosen(selection: Selection, storage: Storage) -> Stage | None:
    """The candidate to take by what is on the storage; None if another one must be made to tell."""
    place = selection.chosen(_values(selection, storage))
    return None if place is None else selection.candidates[place]


@dataclass(frozen=True)
class Candidate:
    """A candidate that was made."""

    stage: Stage
    made: tuple[Stage, ...]
    """What it takes that the first candidate does not; its student is the last. Of a chain: the links and the student."""
    value: float
    """Of the selection's metric."""
    gain: float | None
    """Over the candidate before it; None for the first."""
    seconds: float
    """Of training what no candidate before it takes."""
    taken: bool


def compared(selection: Selection, storage: Storage) -> list[Candidate]:
    """The candidates that were made, in their order, up to one that was not."""
    values = _values(selection, storage)
    taken = selection.chosen(values)
    first = {fingerprint(each) for each in _stages(selection.candidates[0], storage)}
    before: set[str] = set()
    found = []
    for place, value in enumerate(values):
        stages = {fingerprint(each): each for each in _stages(selection.candidates[place], storage)}
        results = [storage.result(each) for name, each in stages.items() if name not in before]
        gain = selection.gain(values[place - 1], value) if place else None
        *links, student = stages.items()
        made = (*(each for name, each in links if name not in first), student[1])
        seconds = sum(float(result["seconds"]) for result in results if result)
        found.append(Candidate(selection.candidates[place], made, value, gain, seconds, place == taken))
        before |= set(stages)
    return found


def _values(selection: Selection, storage: Storage) -> list[float]:
    """The metric of the candidates that were made, up to one that was not."""
    results = (storage.result(candidate) for candidate in selection.candidates)
    return [
        float(result["metrics"][selection.metric])
        for result in takewhile(lambda each: each is not None, results)
        if result
    ]


def _stages(stage: Stage, storage: Storage) -> list[Stage]:
    """All that a stage takes, itself the last."""
    return [step.network for step in plan([stage], storage).steps if isinstance(step.network, Stage)]
