"""Preflight: is this teacher any good on these rows? Asked before long work, and again of what the cache then holds.

A teacher is tried on a fixed random sample of labelled rows, as the view shows them. Wrong weights, wrong preprocessing and
all-zero outputs leave it no better than chance; misaligned rows show afterwards, when the cached answers on the same rows
no longer match the labels as often.

Shapes: B rows tried, C classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from raykd.data import View
from raykd.kept import Kept
from raykd.labeling.predictor import Predictor
from raykd.models.weights import metadata
from raykd.signals import LOGITS
from raykd.sparse import Sparse
from raykd.stage import Pretrained
from raykd.storage import Storage, is_number, read_json, write_json

ROWS = 512
STANDARD_ERRORS = 5.0
"""How far above chance an accuracy must be: by luck, one teacher in three million gets there."""
LOST = 0.1
"""How much lower than the accuracy noted in its own weights file a teacher may do here."""
DRIFT = 0.02
"""How much the accuracy may differ between the preflight and the cache: float16 and batched kernels flip near ties."""


@dataclass(frozen=True)
class Preflight:
    """What a teacher did on `rows` labelled rows. `chance` is the share of their commonest label."""

    rows: int
    accuracy: float
    chance: float
    expected: float | None
    """Validation accuracy noted in the weights file by the training that wrote it."""

    @property
    def threshold(self) -> float:
        """The accuracy that counts as clearly better than chance."""
        return self.chance + STANDARD_ERRORS * math.sqrt(self.chance * (1 - self.chance) / self.rows)

    def check(self, teacher: str) -> None:
        """Raise `ValueError` if the teacher must not teach."""
        if doubt := self.doubt(teacher):
            raise ValueError(f"{doubt}: check weights, classes and preprocessing, or pass --any-teacher")

    def doubt(self, teacher: str) -> str:
        """Why it should not teach; empty if it may."""
        found = f"the teacher {teacher} gets {self.accuracy:.1%} of {self.rows} labelled rows right"
        if not self.accuracy > self.threshold:
            return f"{found}, not clearly better than chance (more than {self.threshold:.1%} would be)"
        if self.expected is not None and self.accuracy < self.expected - LOST:
            return f"{found}, and its file says {self.expected:.1%} on validation"
        return ""


def tried(view: View) -> NDArray[np.int64]:
    """The positions of the training rows that every teacher under this view is tried on. [B]

    The first ones: rows lie in the order of a hash, so they are a random sample, and they are in the first shard.
    """
    return np.arange(min(ROWS, len(view.dataset.split("train"))))


def remembered(teacher: Pretrained, view: View, storage: Storage) -> Preflight | None:
    """What the storage knows of this teacher under this view."""
    path = storage.preflight(teacher, view)
    known = read_json(path, rows=int, accuracy=float, chance=float)
    if known is None:
        return None
    found = Preflight(known["rows"], known["accuracy"], known["chance"], known.get("expected"))
    shares = [found.accuracy, found.chance, 0.0 if found.expected is None else found.expected]
    if found.rows < 1 or not all(is_number(share) and 0 <= share <= 1 for share in shares):
        raise ValueError(
            f"{path} holds {found}: shares are between 0 and 1; remove it, and the teacher will be tried again"
        )
    return found


def preflight(teacher: Pretrained, view: View, storage: Storage, device: torch.device) -> Preflight:
    """Try the teacher on `tried(view)`, first replica, and remember what came of it."""
    positions_B = tried(view)
    sample = view.batch(positions_B, np.zeros_like(positions_B))
    predictor = Predictor(teacher.architecture, teacher.weights, (LOGITS,), device=device, precision=storage.precision)
    logits_BC = predictor(sample.inputs_B)[LOGITS]
    labels_B = sample.labels_B.numpy()
    noted = metadata(teacher.weights).get("val_top1")
    found = Preflight(
        rows=len(labels_B),
        accuracy=_accuracy(logits_BC, labels_B),
        chance=float(np.bincount(labels_B).max() / len(labels_B)),
        expected=None if noted is None or view.ops else _share(noted, teacher.weights),
    )
    write_json(storage.preflight(teacher, view), vars(found))
    return found


def _share(noted: str, path: str) -> float:
    """What a file notes of its own accuracy."""
    try:
        share = float(noted)
    except ValueError:
        share = math.nan
    if not 0 <= share <= 1:
        raise ValueError(f"{path} notes val_top1={noted[:60]!r} of itself: a number between 0 and 1 would be right")
    return share


def confirm(teacher: Pretrained, name: str, view: View, kept: Kept, storage: Storage) -> None:
    """Check that the cached logits answer the tried rows as the preflight did. Their shards must be there, or on their way.

    Raises `ValueError` if they do not: the rows and the teacher's outputs are out of step.
    """
    known = remembered(teacher, view, storage)
    if known is None or kept.codec.kind == "sampled":  # a few draws need not hold the most likely class
        return
    positions_B = tried(view)
    reader = storage.reader(name, teacher, view, kept, follow=True)
    values = reader.gather(np.zeros_like(positions_B), positions_B)
    labels_B = view.batch(positions_B, np.zeros_like(positions_B)).labels_B.numpy()  # of sequences: of all positions
    if isinstance(values, Sparse):  # the largest logit's class is among those stored
        best_B = values.ids_BK.gather(1, values.values_BK.argmax(1, keepdim=True))[:, 0].numpy()
        accuracy = float(np.mean(best_B == labels_B))
    else:
        accuracy = _accuracy(values.numpy(), labels_B)
    if abs(accuracy - known.accuracy) > DRIFT:
        raise ValueError(
            f"the cached logits of the teacher {name} get {accuracy:.1%} of {len(labels_B)} rows right, where the teacher"
            f" itself got {known.accuracy:.1%}: rows and outputs are out of step; remove {reader.reader.entry}"
        )


def _accuracy(logits_BC: NDArray[np.float32], labels_B: NDArray[np.int64]) -> float:
    """Share of rows whose largest logit is the label's. A row without finite logits, or with equal ones, is wrong."""
    decided_B = np.isfinite(logits_BC).all(1) & (np.ptp(logits_BC, axis=1) > 0)
    return float(np.mean((logits_BC.argmax(1) == labels_B) & decided_B))
