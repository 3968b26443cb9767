"""What is known of a task before anything is trained on it: numbers by which earlier tasks are more or less like it.

    rows, classes, inputs                        of the data: training rows, classes, numbers of an input
    imbalance, label_entropy                     C max_c p_c, 1 if balanced; -sum_c p_c ln p_c in nats
    teacher_parameters, student_parameters       the largest teacher counts
    compression, capacity_gap                    their ratio; ln of the ratio of FLOPs
    teacher_top1                                 the best teacher's, on validation
    epochs                                       that the student is trained for
    probe_top1                                   landmarks: a linear classifier on what the cache holds of the teacher,
    confidence, calibration_error                its mean largest probability, and how far that is from its accuracy

Whatever is not known is NaN and stays so in the memory. Nothing is computed by a network here: landmarks read the first
replica of what is cached, at most 2,000 rows of it.

Source: Haase and da Silva, "HPM-KD", 2025, section on the adaptive configuration manager. [interpretation] The capacity gap
is that of FLOPs: of parameters it would be the logarithm of the compression ratio, which is there already. The budget's
epochs and the landmarks are ours.

Shapes: N training rows, R rows of a landmark, C classes, D features of a row.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from raykd.cache import IncompleteEntry
from raykd.data import Mixing, View
from raykd.kept import FEATURES, Kept
from raykd.models import size
from raykd.plan import needed
from raykd.signals import LOGITS
from raykd.stage import Pretrained, Stage
from raykd.storage import Storage
from raykd.training.evaluate import evaluated

Features = Mapping[str, float]

COUNTED = frozenset(
    {"rows", "classes", "inputs", "teacher_parameters", "student_parameters", "compression", "imbalance", "epochs"}
)
"""Compared by their logarithms."""
ROWS = 2000  # of a landmark
HELD_OUT = 4  # each so manieth row judges the probe
BINS = 15
RIDGE = 1.0  # per standardised feature, so that a probe of more features than rows is defined


def features(stage: Stage, storage: Storage) -> dict[str, float]:
    """The meta-features of a task; loads its data and reads the cache, trains nothing."""
    dataset = stage.view.dataset
    rows = len(dataset.split("train"))
    counts_C = np.bincount(_labels(stage.view, rows), minlength=dataset.classes)
    share_C = counts_C / counts_C.sum()
    teachers = dict(needed(stage))
    student, largest = (
        size(stage.student),
        max(
            (size(teacher.architecture) for teacher in teachers.values()),
            key=lambda each: each.parameters,
            default=None,
        ),
    )
    found = {
        "rows": rows,
        "classes": dataset.classes,
        "inputs": math.prod(dataset.shape),
        "imbalance": dataset.classes * share_C.max(),
        "label_entropy": -sum(share * math.log(share) for share in share_C.tolist() if share),
        "student_parameters": student.parameters,
        "teacher_parameters": math.nan if largest is None else largest.parameters,
        "compression": math.nan if largest is None else largest.parameters / student.parameters,
        "capacity_gap": math.nan if largest is None else math.log(largest.flops / student.flops),
        "teacher_top1": max(_teachers_top1(stage, storage), default=math.nan),
        "epochs": stage.budget.trained,
    }
    return {name: float(value) for name, value in found.items()} | _landmarks(stage, storage)


def probe_top1(features_RD: NDArray[np.float64], labels_R: NDArray[np.int64]) -> float:
    """Accuracy of a linear classifier (one ridge regression per class) on every fourth row, fitted to the others.

    NaN where the others are of one class.
    """
    from sklearn.linear_model import RidgeClassifier  # a second that only a search pays

    judged_R = np.arange(len(labels_R)) % HELD_OUT == 0
    fitted_RD = features_RD[~judged_R]
    if len(np.unique(labels_R[~judged_R])) < 2:
        return math.nan
    center_D, scale_D = fitted_RD.mean(0), fitted_RD.std(0)
    scaled_RD = (features_RD - center_D) / np.where(scale_D > 0, scale_D, 1.0)
    probe = RidgeClassifier(alpha=RIDGE * fitted_RD.shape[1]).fit(scaled_RD[~judged_R], labels_R[~judged_R])
    return float(np.mean(probe.predict(scaled_RD[judged_R]) == labels_R[judged_R]))


def confidence(probability_RC: NDArray[np.float64]) -> float:
    """Mean of the largest probability of a row."""
    return float(probability_RC.max(1).mean())


def calibration_error(probability_RC: NDArray[np.float64], labels_R: NDArray[np.int64]) -> float:
    """Expected calibration error: sum over 15 equal bins of confidence of n_bin / R |accuracy - confidence|.

    Source: Guo et al., "On Calibration of Modern Neural Networks", 2017, equation 3.
    """
    largest_R, right_R = probability_RC.max(1), probability_RC.argmax(1) == labels_R
    bins_R = np.clip(np.ceil(largest_R * BINS).astype(np.int64) - 1, 0, BINS - 1)
    gap_bins = np.bincount(bins_R, weights=right_R - largest_R, minlength=BINS)
    return float(np.abs(gap_bins).sum() / len(labels_R))


def _teachers_top1(stage: Stage, storage: Storage) -> Iterator[float]:
    """On validation, of those that were evaluated there."""
    for teacher in needed(stage).values():
        if storage.digest(teacher) is not None:
            metrics = evaluated(storage.evaluation(storage.finished(teacher), stage.view))
            if metrics is not None:
                yield metrics["val_top1"]


def _landmarks(stage: Stage, storage: Storage) -> dict[str, float]:
    """Of the largest teacher that has something in the cache."""
    found = {"probe_top1": math.nan, "confidence": math.nan, "calibration_error": math.nan}
    teachers = sorted(needed(stage).items(), key=lambda each: -size(each[1].architecture).parameters)
    for name, teacher in teachers:
        signals = dict(_cached(name, teacher, stage, storage))
        if not signals:
            continue
        labels_R = _labels(stage.view, _rows(stage.view))
        first = signals.get("features", signals.get("logits"))
        if first is not None and len(labels_R) >= HELD_OUT:
            found["probe_top1"] = probe_top1(first, labels_R)
        if "logits" in signals and teacher.architecture.classes == stage.view.dataset.classes:
            probability_RC = _softmax(signals["logits"])
            found["confidence"] = confidence(probability_RC)
            found["calibration_error"] = calibration_error(probability_RC, labels_R)
        return found
    return found


def _cached(
    name: str, teacher: Stage | Pretrained, stage: Stage, storage: Storage
) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """What of the first replica is there: `features` under the classifier, and `logits`."""
    mixed = any(isinstance(op, Mixing) for op in stage.view.ops)  # a row has no label of its own then
    if mixed or stage.cache == "off" or storage.digest(teacher) is None:
        return
    view = replace(stage.view, replicas=1)
    for kept in stage.kept[name]:
        for called, each in _readings(kept):
            try:
                reader = storage.reader(name, teacher, view, each)
            except IncompleteEntry:
                continue
            places_R = np.arange(_rows(view))
            values = reader.gather(np.zeros_like(places_R), places_R)
            if isinstance(values, Tensor):  # of many classes only some are stored: what is left says too little
                yield called, values.flatten(1).numpy().astype(np.float64)


def _readings(kept: Kept) -> Iterator[tuple[str, Kept]]:
    if kept.stored == FEATURES:
        yield "features", replace(kept, signal=FEATURES)
    if kept.signal == LOGITS:
        yield "logits", kept


def _rows(view: View) -> int:
    """How many of the first rows are looked at: of sequences fewer."""
    return min(ROWS // max(view.dataset.targets, 1) + 1, len(view.dataset.split("train")))


def _labels(view: View, rows: int) -> NDArray[np.int64]:
    """Labels of the first rows, and of sequences those of no more than are looked at."""
    if not view.dataset.targets:
        return view.dataset.split("train").labels[:rows]
    positions_R = np.arange(min(rows, _rows(view)))
    return view.batch(positions_R, np.zeros_like(positions_R)).labels_B.numpy()


def _softmax(logits_RC: NDArray[np.float64]) -> NDArray[np.float64]:
    exp_RC = np.exp(logits_RC - logits_RC.max(1, keepdims=True))
    probability_RC: NDArray[np.float64] = exp_RC / exp_RC.sum(1, keepdims=True)
    return probability_RC


@dataclass(frozen=True)
class Scale:
    """What makes features of tasks comparable: logarithms of what counts, then mean 0 and deviation 1 over the tasks."""

    names: tuple[str, ...]
    centers: tuple[float, ...]
    deviations: tuple[float, ...]
    """0 where all tasks are alike."""

    @classmethod
    def of(cls, tasks: Sequence[Features]) -> Scale:
        """Over these tasks, each of them once. What is not known of a task does not count."""
        names = tuple(sorted({name for task in tasks for name in task}))
        known = {name: [x for x in (_number(task, name) for task in tasks) if not math.isnan(x)] for name in names}
        centers = tuple(float(np.mean(known[name])) if known[name] else 0.0 for name in names)
        deviations = tuple(float(np.std(known[name])) if known[name] else 0.0 for name in names)
        return cls(names, centers, deviations)

    def __call__(self, task: Features) -> NDArray[np.float64]:
        """The task as numbers about 0, in the order of `names`. What is not known is as in the mean task, so 0."""
        return np.array(
            [
                0.0 if math.isnan(x := _number(task, name)) or _flat(center, deviation) else (x - center) / deviation
                for name, center, deviation in zip(self.names, self.centers, self.deviations, strict=True)
            ]
        )

    def likeness(self, one: Features, other: Features) -> float:
        """Cosine of both in [-1, 1]; a task in the middle of all is like none, 0, unless it is the same."""
        first, second = self(one), self(other)
        if np.array_equal(first, second):
            return 1.0
        lengths = float(np.linalg.norm(first) * np.linalg.norm(second))
        return float(first @ second) / lengths if lengths else 0.0


def _number(task: Features, name: str) -> float:
    value = task.get(name, math.nan)
    if name in COUNTED:
        return math.log(value) if value > 0 else math.nan
    return value if math.isfinite(value) else math.nan


def _flat(center: float, deviation: float) -> bool:
    return deviation <= 1e-9 * max(abs(center), 1.0)
