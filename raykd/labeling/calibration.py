"""What a row costs a teacher: measured once on a few rows where teachers run, then remembered on the storage.

It decides who is served first and how many actors each pool gets, and no result.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch

from raykd.identity import fingerprint
from raykd.labeling.labeler import Labeling
from raykd.labeling.predictor import MICRO_BATCH, Predictor
from raykd.storage import is_number, read_json, write_json


def known(labeling: Labeling, kind: str) -> float | None:
    """Seconds that a row takes this teacher on an actor's device, "cpu" or "gpu", if it was measured before."""
    found = read_json(labeling.storage.calibration(_key(labeling, kind)))
    seconds = None if found is None else found.get("seconds_per_row")
    return float(seconds) if seconds is not None and is_number(seconds) and seconds > 0 else None


def calibrate(labelings: Sequence[Labeling], kind: str, device: torch.device) -> None:
    """Measure these teachers where this runs, one of their actors' devices: one micro-batch to warm up, one to time."""
    for labeling in labelings:
        view = labeling.view
        positions_B = np.arange(min(MICRO_BATCH[device.type], len(view.dataset.split("train"))))
        inputs_B = view.batch(positions_B, np.zeros_like(positions_B)).inputs_B
        teacher = labeling.teacher
        signals = tuple(kept.stored for kept in labeling.kept)
        predictor = Predictor(
            teacher.architecture, teacher.weights, signals, device=device, precision=labeling.storage.precision
        )
        predictor(inputs_B)
        started = time.perf_counter()
        predictor(inputs_B)
        seconds = (time.perf_counter() - started) / len(inputs_B)
        path = labeling.storage.calibration(_key(labeling, kind))
        write_json(path, {"seconds_per_row": seconds, "teacher": str(teacher.architecture), "device": str(device)})


def _key(labeling: Labeling, kind: str) -> str:
    return fingerprint([labeling.teacher.architecture, labeling.storage.precision, kind])
