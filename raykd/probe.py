"""Probing the cache: ask the teacher again about some of the rows that it answered, and compare.

    committed rows, drawn at random -> view.batch -> input checksum as stored?
                                            -> predictor -> values as stored?  (agreement.py)

A checksum says that bytes are those that were committed. This says that they are the right ones: no other teacher's, not under
another view, not another row's.

Shapes: B rows probed of one shard.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raykd import tokens
from raykd.agreement import difference
from raykd.cache import Entry, Slot, input_checksums
from raykd.cache.checksum import ids_digest
from raykd.cache.shard import Rows
from raykd.cache.shards import Shards
from raykd.data import View
from raykd.device import device
from raykd.labeling.predictor import Predictor
from raykd.origin import Origin

NOISE = {"float32": 2.0**-8, "float16": 2.0**-7, "bfloat16": 2.0**-4}
"""Relative error of values that are computed twice, on two devices.

Logits of networks of 16 to 50 layers, on a CPU: 3e-7 between batches of 1 and 16 in float32; against float32 8e-4 in float16,
which has as many digits as the TF32 that GPUs may take for float32, and 6e-3 in bfloat16. Five to ten times that is allowed.
"""


@dataclass(frozen=True)
class Probe:
    """What came of an entry."""

    entry: str
    rows: int
    """Rows that were computed again."""
    wrong: tuple[str, ...] = ()
    """What is not as stored, a line for each row."""
    skipped: str = ""
    """Why nothing was computed; empty if something was."""

    def as_json(self) -> dict[str, Any]:
        """For `raykd cache verify --json`."""
        return {"entry": self.entry, "rows": self.rows, "wrong": list(self.wrong), "skipped": self.skipped}


def probe(entry: Entry, origin: Callable[[], Origin], rows: int) -> Probe:
    """Compute up to `rows` committed rows of an entry again, drawn at random. A teacher that cannot be asked is no failure."""
    try:
        return _probe(entry, origin(), rows)
    except Exception as error:  # whatever keeps the teacher from being asked, it says nothing about what is stored
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        return Probe(entry.key_digest, 0, skipped=f"{kind}{error}")


def _probe(listed: Entry, origin: Origin, rows: int) -> Probe:
    entry = _with_ids(listed, origin.view)
    teacher = Predictor(
        origin.architecture, origin.weights, (origin.signal,), device=device(), precision=origin.precision
    )
    count = 0
    wrong: list[str] = []
    for slot, places_B in _drawn(entry, rows):
        stored = entry.shards.read(slot)
        if stored is not None:  # else it is corrupt, and set aside and reported by now
            count += len(places_B)
            wrong += _compared(entry, slot, places_B, _only(stored, places_B), origin, teacher)
    return Probe(entry.key_digest, count, tuple(wrong), "" if count else "it has no rows yet")


def _with_ids(entry: Entry, view: View) -> Entry:
    """A listed entry, once it is certain that its rows are those of the view."""
    ids_N = view.dataset.split("train").ids
    if ids_digest(ids_N) != entry.key["ids"]:
        raise ValueError(f"the training rows of {view.dataset} are not those of the entry any more")
    return Entry(Shards(entry.place, entry.record, entry.codec, ids_N, entry.quarantined))


def _drawn(entry: Entry, rows: int) -> Iterator[tuple[Slot, NDArray[np.int64]]]:
    """Rows of committed shards, each as likely as any other: their places in a shard. [B]"""
    slots = list(entry.shards.committed())
    ends = np.cumsum([len(entry.positions(slot)) for slot in slots], dtype=np.int64)
    total = int(ends[-1]) if slots else 0
    # other ones each time, so that who probes often sees more
    drawn = np.sort(np.random.default_rng().choice(total, min(rows, total), replace=False))
    for number in np.unique(np.searchsorted(ends, drawn, side="right")):
        start = ends[number] - len(entry.positions(slots[number]))
        yield slots[number], drawn[(drawn >= start) & (drawn < ends[number])] - start


def _only(rows: Rows, places_B: NDArray[np.int64]) -> Rows:
    columns = {name: column[places_B] for name, column in rows.columns.items()}
    return Rows(rows.ids_R[places_B], rows.checksums_R[places_B], columns)


def _compared(
    entry: Entry, slot: Slot, places_B: NDArray[np.int64], stored: Rows, origin: Origin, teacher: Predictor
) -> Iterator[str]:
    """What is wrong with these rows of a shard, a line for each."""
    positions_B = entry.positions(slot).start + places_B
    inputs_B = origin.view.batch(positions_B, np.full(len(positions_B), slot.replica)).inputs_B
    fresh_B = teacher(inputs_B)[origin.signal]
    if targets := origin.view.dataset.targets:
        fresh_B = tokens.padded(fresh_B, tokens.counts(inputs_B).numpy(), targets, stored.ids_R)
    codec, noise = entry.shards.own_codec(), NOISE[origin.precision]
    try:
        far_B = difference(codec, stored.columns, fresh_B, stored.ids_R, slot.replica, noise)
    except ValueError as error:
        yield f"entry {entry.key_digest}, replica {slot.replica}: the teacher says what cannot be stored now: {error}"
        return
    same_B = input_checksums(inputs_B) == stored.checksums_R
    for row_id, same, far in zip(stored.ids_R, same_B, far_B, strict=True):
        where = f"entry {entry.key_digest}, row {row_id} in replica {slot.replica}"
        if not same:
            yield f"{where}: the teacher saw another input than the view gives now"
        elif not far <= 1:  # NaN is far
            yield f"{where}: {far:.1f} times as far from what the teacher says now as rounding explains"
