"""Filling the cache until nothing is missing, beside other runs that fill it too.

    missing -> label what nobody has in hand -> what others had in hand: wait until it is there, or free -> missing -> ...

Which run computes a slot is settled by leases, so no slot is computed twice, and one whose holder was killed is free again.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from threading import Event
from typing import Literal

from raykd.cache import Slot
from raykd.labeling.labeler import Labeled, Labeling
from raykd.runtime.events import Tell
from raykd.runtime.progress import Advance, Display

OnMissing = Literal["compute", "wait", "error"]
Missing = Mapping[Slot, Sequence[int]]
"""The teachers, by their place, that each slot lacks."""
POLL_S = (0.05, 1.0)  # seconds between looks at what another run does: at first, and at most
TELL_S = 5.0  # seconds between two events that say how far it is


@dataclass
class Filling:
    """One fill of the cache with what some teachers say about one view."""

    labelings: Sequence[Labeling]
    label: Callable[[Sequence[Labeling], Missing], Iterator[tuple[Labeling, Labeled]]]
    """Labels what no other run has in hand."""
    on_missing: OnMissing
    display: Display
    count: Callable[[str, float], None]
    """Is told what was done: rows, bytes, waits, retries, quarantines."""
    teacher_rows: Counter[str]
    """Grows by the rows that each teacher computes."""
    cancelled: Event = field(default_factory=Event)
    """Set: stop at the next slot."""
    tell: Tell | None = None
    """Is told what happens, as events; by default the display is."""

    def run(self) -> None:
        """Come back when nothing is missing, or when it was cancelled.

        Raises `ValueError` for a mistake that a teacher's worker met, and if something is missing with `on_missing` "error".
        """
        missing = self._verified()
        if not missing:
            return
        if self.on_missing == "error":
            rows = f"{self._rows(missing):,} rows of the teacher {self._names}"
            raise ValueError(f"{rows} are not in the cache: --on-missing compute would compute them")
        with self._telling(missing) as advance:
            mine = missing if self.on_missing == "compute" else {}
            while True:
                missing = self._label(mine, missing, advance)
                if not missing or self.cancelled.is_set():
                    return
                mine = self._wait(missing, advance)
                missing = self._absent(missing)
                self.count("retries", sum(map(len, mine.values())))

    def _verified(self) -> Missing:
        """What is missing, all the rest having been read and checked."""
        found: dict[Slot, list[int]] = {}
        for teacher, labeling in enumerate(self.labelings):
            slots, quarantined = labeling.missing()
            self.count("quarantines", len(quarantined))
            for path in quarantined:
                text = f"  a corrupt shard was put aside as {path} and is computed anew"
                self._tell("quarantine", text, phase="label", path=path)
            for slot in slots:
                found.setdefault(slot, []).append(teacher)
        return dict(sorted(found.items()))

    def _label(self, mine: Missing, missing: Missing, advance: Advance) -> Missing:
        """Label what is ours to do; what is missing after that."""
        if not mine:
            return missing
        done = 0
        with closing(self.label(self.labelings, mine)) as labeled:  # type: ignore[type-var]
            for labeling, each in labeled:
                self.teacher_rows[labeling.name] += each.rows
                self._mine[labeling.name] += each.rows
                self.count("rows", each.rows)
                self.count("bytes", each.bytes)
                self.count("retries", each.retries)
                advance(each.rows)
                done += each.rows
                if self.cancelled.is_set():
                    break
        left = self._absent(missing)
        advance(max(0, self._rows(missing) - self._rows(left) - done))  # what others did
        return left

    def _wait(self, missing: Missing, advance: Advance) -> Missing:
        """Wait for other runs; what they leave undone is ours. Nothing is, once all is there."""
        computes = self.on_missing == "compute"
        waiting = self._rows(missing)
        what = f"{waiting:,} rows of {self._names}"
        self._tell("waiting", f"  waiting for {what} that another run computes", phase="label", what=what)
        self.count("waits", sum(map(len, missing.values())))
        pause = POLL_S[0]
        while missing and not self.cancelled.is_set():
            if computes and (free := self._free(missing)):
                return free
            time.sleep(pause)
            left = self._absent(missing)
            advance(self._rows(missing) - self._rows(left))
            pause = POLL_S[0] if len(left) < len(missing) else min(2 * pause, POLL_S[1])
            missing = left
        return {}

    @contextmanager
    def _telling(self, missing: Missing) -> Iterator[Advance]:
        """Say that it begins, now and then how far it is, and when nothing is missing any more."""
        total, done, began = self._rows(missing), 0, time.monotonic()
        told = began
        lacking: Counter[str] = Counter()
        for slot, teachers in missing.items():
            lacking.update({self.labelings[t].name: len(self._entries[0][0].positions(slot)) for t in teachers})
        entries = {
            entry.key_digest: len(entry.slots(labeling.view.replicas))
            for labeling, filled in zip(self.labelings, self._entries, strict=True)
            for entry in filled
        }
        self._tell("labeling started", **self._about, missing=lacking, entries=entries)

        def advanced(amount: int) -> None:
            nonlocal done, told
            advance(amount)
            done += amount
            if amount and time.monotonic() - told >= TELL_S:
                told = time.monotonic()
                self._tell("labeling progress", **self._about, rows=self._mine, done=done, of=total)

        with self.display.bar(f"labeling with {self._names}", total) as advance:
            yield advanced
        if not self.cancelled.is_set():
            seconds = round(time.monotonic() - began, 3)
            self._tell("labeling done", **self._about, rows=self._mine, done=total, of=total, seconds=seconds)

    def _absent(self, missing: Missing) -> Missing:
        """What is still missing, by name alone."""
        return self._those(missing, lambda slot, teacher: any(e.lacks(slot) for e in self._entries[teacher]))

    def _free(self, missing: Missing) -> Missing:
        """What no other run has in hand."""
        return self._those(missing, lambda slot, teacher: not any(e.busy(slot) for e in self._entries[teacher]))

    def _those(self, missing: Missing, wanted: Callable[[Slot, int], bool]) -> Missing:
        found = {slot: [t for t in teachers if wanted(slot, t)] for slot, teachers in missing.items()}
        return {slot: teachers for slot, teachers in found.items() if teachers}

    def _rows(self, missing: Missing) -> int:
        return sum(len(self._entries[0][0].positions(slot)) * len(teachers) for slot, teachers in missing.items())

    def __post_init__(self) -> None:
        self._entries = [labeling.entries() for labeling in self.labelings]
        self._tell = self.tell or self.display.tell
        self._mine: Counter[str] = Counter()
        self._about = {"phase": "label", "teacher": self._names}

    @property
    def _names(self) -> str:
        return ", ".join(labeling.name for labeling in self.labelings)
