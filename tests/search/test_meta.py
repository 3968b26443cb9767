"""Meta-features: closed forms on data whose features are known, landmarks on a cache that is known."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import tiny_cache
import torch
from hypothesis import given
from hypothesis import strategies as st

from raykd import Dataset, Distill, View
from raykd.data import Arrays, Mixup
from raykd.kept import FEATURES
from raykd.methods.kl import KL
from raykd.models import MLP, size
from raykd.models.weights import load_into
from raykd.search.meta import Scale, calibration_error, confidence, features, probe_top1
from raykd.signals import LOGITS
from raykd.stage import Stage
from raykd.storage import Storage
from raykd.training.evaluate import evaluate

LANDMARKS = {"probe_top1", "confidence", "calibration_error"}


def labelled(counts: list[int]) -> Stage:
    """A stage on vectors with so many rows of each class, of which a half is for training."""
    labels = np.repeat(np.arange(len(counts)), counts)
    inputs = np.random.default_rng(0).normal(size=(len(labels), 6)).astype(np.float32)
    dataset = Dataset(Arrays(inputs, labels, classes=len(counts)), validation=0.5, holdout=0.5)
    return replace(tiny.teacher(), student=MLP((4,), classes=len(counts), shape=(6,)), view=View(dataset))


@pytest.mark.parametrize("counts", [[400, 400], [400, 800, 400], [400, 0, 800, 1600]])
def test_features_of_the_data_have_closed_forms(tmp_path: Path, counts: list[int]) -> None:
    found = features(labelled(counts), Storage(tmp_path))
    p = np.array(counts) / sum(counts)
    assert found["rows"] == sum(counts) / 4
    assert (found["classes"], found["inputs"]) == (len(counts), 6)
    assert found["imbalance"] == pytest.approx(len(counts) * p.max(), rel=0.02)
    assert found["label_entropy"] == pytest.approx(-sum(q * math.log(q) for q in p if q), rel=0.02)


def test_features_of_the_networks_are_their_sizes(tmp_path: Path) -> None:
    stage = tiny.student(epochs=7)
    found = features(stage, Storage(tmp_path))
    small, large = size(stage.student), size(stage.teachers["teacher"].architecture)
    assert (found["student_parameters"], found["teacher_parameters"]) == (small.parameters, large.parameters)
    assert found["compression"] == large.parameters / small.parameters
    assert found["capacity_gap"] == pytest.approx(math.log(large.flops) - math.log(small.flops))
    assert found["epochs"] == 7
    assert found["rows"] == tiny.rows()


def test_of_several_teachers_the_largest_and_the_best_count(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    teachers = {
        f"t{seed}": tiny_cache.teacher(tmp_path, seed, MLP((8 * seed + 8,), shape=tiny.SHAPE)) for seed in range(3)
    }
    stage = replace(tiny.student(), teachers=teachers, objective=1.0 * Distill(KL()))
    cpu = torch.device("cpu")
    evaluated = [
        evaluate(each, stage.view, storage.evaluation(each, stage.view), "float32", cpu)["val_top1"]
        for each in teachers.values()
    ]
    found = features(stage, storage)
    assert found["teacher_top1"] == max(evaluated)
    assert found["teacher_parameters"] == size(MLP((24,), shape=tiny.SHAPE)).parameters
    without = replace(stage, objective=1.0 * Distill(KL(), teachers=("t0",)))
    assert features(without, storage)["teacher_parameters"] == size(MLP((8,), shape=tiny.SHAPE)).parameters


def test_what_is_not_known_is_nan_and_nothing_is_trained(tmp_path: Path) -> None:
    found = features(tiny.student(), Storage(tmp_path))  # its teacher is not there yet
    assert {name for name, value in found.items() if math.isnan(value)} == LANDMARKS | {"teacher_top1"}
    alone = features(tiny.teacher(), Storage(tmp_path))
    unknown = LANDMARKS | {"teacher_top1", "teacher_parameters", "compression", "capacity_gap"}
    assert {name for name, value in alone.items() if math.isnan(value)} == unknown
    assert alone.keys() == found.keys()
    assert not list(tmp_path.rglob("*"))


def taught(tmp_path: Path) -> Stage:
    view = replace(tiny_cache.VIEW, replicas=4)  # only two replicas will be in the cache
    return replace(tiny.student(), teachers={"teacher": tiny_cache.teacher(tmp_path)}, view=view)


def test_landmarks_are_those_of_the_cached_signals(tmp_path: Path) -> None:
    storage, stage = Storage(tmp_path), taught(tmp_path)
    before = features(stage, storage)
    assert {name for name in LANDMARKS if math.isnan(before[name])} == LANDMARKS
    tiny_cache.filled(storage, stage.teachers["teacher"])  # type: ignore[arg-type]
    found = features(stage, storage)
    rows = stage.view.dataset.split("train")
    network = tiny_cache.NETWORK.build()
    load_into(network, stage.teachers["teacher"].weights)  # type: ignore[union-attr]
    network.eval()
    seen = stage.view.batch(np.arange(len(rows)), np.zeros(len(rows), np.int64)).inputs_B
    with torch.inference_mode():
        p = network(seen)["logits"].double().softmax(1).numpy()
    assert found["confidence"] == pytest.approx(p.max(1).mean(), rel=1e-3)  # the cache keeps half precision
    right = p.argmax(1) == rows.labels
    assert found["calibration_error"] == pytest.approx(by_loops(p, rows.labels), abs=5e-3)
    assert right.mean() < found["probe_top1"] < 1  # a random network's logits say more than the network makes of them
    assert {name: found[name] for name in found.keys() - LANDMARKS} == pytest.approx(
        {name: before[name] for name in found.keys() - LANDMARKS}, nan_ok=True
    )


def test_the_probe_reads_features_where_the_cache_holds_them(tmp_path: Path) -> None:
    storage, stage = Storage(tmp_path), taught(tmp_path)
    stage = replace(stage, cache="features")
    tiny_cache.filled(storage, stage.teachers["teacher"], signal=FEATURES)  # type: ignore[arg-type]
    (kept,) = stage.kept["teacher"]
    assert (kept.signal, kept.stored) == (LOGITS, FEATURES)
    rows = stage.view.dataset.split("train")
    replicas, positions = np.zeros(len(rows), np.int64), np.arange(len(rows))
    view = replace(stage.view, replicas=1)
    entry = storage.entry("teacher", stage.teachers["teacher"], view, kept).open(1)
    pooled = entry.gather(replicas, positions).numpy().astype(np.float64)  # type: ignore[union-attr]
    found = features(stage, storage)
    assert found["probe_top1"] == probe_top1(pooled, rows.labels)
    logits = storage.reader("teacher", stage.teachers["teacher"], view, kept).gather(replicas, positions)
    assert found["confidence"] == pytest.approx(float(logits.softmax(1).amax(1).mean()), rel=1e-5)  # type: ignore[union-attr]


def test_rows_that_are_mixed_have_no_landmarks(tmp_path: Path) -> None:
    storage, stage = Storage(tmp_path), taught(tmp_path)
    mixed = replace(stage, view=replace(stage.view, ops=(*stage.view.ops, Mixup())))
    tiny_cache.filled(storage, stage.teachers["teacher"], view=replace(mixed.view, replicas=1))  # type: ignore[arg-type]
    assert {name for name in LANDMARKS if math.isnan(features(mixed, storage)[name])} == LANDMARKS


def by_loops(p: np.ndarray, labels: np.ndarray) -> float:
    """Guo et al.: bin m holds confidences in ((m - 1) / 15, m / 15]."""
    error = 0.0
    for m in range(1, 16):
        inside = [i for i in range(len(p)) if (m - 1) / 15 < max(p[i]) <= m / 15]
        if inside:
            accuracy = sum(p[i].argmax() == labels[i] for i in inside) / len(inside)
            error += len(inside) / len(p) * abs(accuracy - sum(max(p[i]) for i in inside) / len(inside))
    return error


def test_calibration_error_is_that_of_its_definition() -> None:
    generator = np.random.default_rng(1)
    p, labels = generator.dirichlet(np.full(5, 0.3), 700), generator.integers(0, 5, 700)
    assert calibration_error(p, labels) == pytest.approx(by_loops(p, labels))
    assert confidence(p) == pytest.approx(sum(max(row) for row in p) / 700)


def test_calibration_error_of_the_sure_and_of_the_calibrated() -> None:
    sure = np.eye(4)[[0, 1, 2, 3]]
    assert calibration_error(sure, np.array([0, 1, 2, 3])) == 0
    assert calibration_error(sure, np.array([0, 1, 0, 0])) == pytest.approx(0.5)
    guess = np.full((8, 2), [0.75, 0.25])
    assert calibration_error(guess, np.array([0] * 6 + [1] * 2)) == pytest.approx(0)


def test_the_probe_of_separable_rows_is_right_and_that_of_noise_is_not() -> None:
    generator = np.random.default_rng(2)
    labels = generator.integers(0, 3, 400)
    separable = 10 * np.eye(3)[labels] + generator.normal(size=(400, 3))
    assert probe_top1(separable, labels) == 1
    assert probe_top1(generator.normal(size=(400, 3)), labels) == pytest.approx(1 / 3, abs=0.15)
    assert probe_top1(np.hstack([separable, np.ones((400, 1))]), labels) == 1  # a feature that never changes
    assert probe_top1(generator.normal(size=(8, 50)), np.arange(8) % 2) >= 0  # more features than rows
    assert math.isnan(probe_top1(separable, np.zeros(400, np.int64)))


SHARES = st.floats(0, 1) | st.just(math.nan)
TASK = st.fixed_dictionaries({"rows": st.floats(1, 1e9), "label_entropy": st.floats(0, 5), "probe_top1": SHARES})


@given(st.lists(TASK, min_size=1, max_size=8))
def test_scaled_features_have_mean_0_and_deviation_1_over_the_tasks(tasks: list[dict[str, float]]) -> None:
    scale = Scale.of(tasks)
    assert scale.names == ("label_entropy", "probe_top1", "rows")
    rows = np.stack([scale(each) for each in tasks])
    assert np.isfinite(rows).all()
    for column, name in enumerate(scale.names):
        known = [i for i, each in enumerate(tasks) if not math.isnan(each[name])]
        values = rows[known, column]
        assert len(known) == 0 or abs(values.mean()) < 1e-6
        assert len(known) == 0 or values.std() == pytest.approx(1) or not values.any()
        assert not rows[[i for i in range(len(tasks)) if i not in known], column].any()  # unknown is as the mean


def test_counts_compare_by_factors() -> None:
    tasks = [{"rows": rows, "label_entropy": 1.0} for rows in (100, 1000, 10_000)]
    scale = Scale.of(tasks)
    first, second, third = (scale(each)[1] for each in tasks)
    assert second == pytest.approx(0)
    assert first == pytest.approx(-third)
    more = Scale.of([{**each, "rows": 7 * each["rows"]} for each in tasks])
    assert more({"rows": 700, "label_entropy": 1.0}) == pytest.approx(scale({"rows": 100, "label_entropy": 1.0}))


def test_likeness_is_the_cosine() -> None:
    tasks = [{"label_entropy": a, "probe_top1": b} for a, b in ((1, 0), (0, 1), (-1, 0), (0, -1), (2, 2), (-2, -2))]
    scale = Scale.of(tasks)
    assert scale.likeness(tasks[0], tasks[0]) == 1
    assert scale.likeness(tasks[0], tasks[1]) == pytest.approx(0)
    assert scale.likeness(tasks[0], tasks[2]) == pytest.approx(-1)
    assert scale.likeness(tasks[0], tasks[4]) == pytest.approx(1 / math.sqrt(2))
    alone = Scale.of(tasks[:1])
    assert alone.likeness(tasks[0], tasks[0]) == 1
    middle = {"label_entropy": 0.0, "probe_top1": 0.0}
    assert scale.likeness(middle, tasks[0]) == 0
