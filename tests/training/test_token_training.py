"""Sequences in training, cache and evaluation: one row for each position asked."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_tokens as tiny
import torch
from torch.nn import functional as F

from raykd import tokens
from raykd.data import Crop, Dataset, Digits, View
from raykd.labeling.predictor import Predictor
from raykd.methods.crd import CRD
from raykd.methods.kl import KL
from raykd.methods.rkd import RKD
from raykd.models import MLP
from raykd.origin import from_stage
from raykd.probe import Probe, probe
from raykd.runtime import Display, Local
from raykd.signals import LOGITS, Signal
from raykd.sparse import Sparse
from raykd.storage import Storage
from raykd.terms import Constant, CrossEntropy, Distill
from raykd.training.learner import build


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Local:
    runner = Local(Storage(tmp_path_factory.mktemp("tokens")), Display(quiet=True))
    runner.run(tiny.teacher())
    return runner


def test_the_loss_is_the_mean_over_all_positions_asked(runner: Local, tmp_path: Path) -> None:
    rows = tiny.DATASET.split("train")
    stage = tiny.teacher(epochs=1)
    stage = replace(stage, budget=replace(stage.budget, batch_size=len(rows)))
    storage = Storage(tmp_path)
    learner = build(stage, storage)
    losses = list[float]()
    for position in range(len(rows)):  # one sequence at a time, without padding
        inputs_12L, labels_L = rows.inputs(np.array([position])), rows.labels_at(np.array([position]))[0]
        length = int((tokens.tokens(inputs_12L) >= 0).sum())
        logits_LC = learner.student.body(tokens.tokens(inputs_12L))[0]
        losses.extend(F.cross_entropy(logits_LC[: length - 1], labels_L[: length - 1], reduction="none").tolist())
    Local(storage, Display(quiet=True)).run(stage)
    (line,) = (storage.folder(stage) / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line)["loss"] == pytest.approx(np.mean(losses), rel=1e-5)


def test_accuracy_and_perplexity_are_of_the_positions_asked(runner: Local) -> None:
    (trained,) = runner.run(tiny.teacher())
    network = trained.network
    right = asked = nll = 0.0
    rows = tiny.DATASET.split("test")
    for position in range(len(rows)):
        inputs_12L, labels_L = rows.inputs(np.array([position])), rows.labels_at(np.array([position]))[0]
        count = int(tokens.counts(inputs_12L))
        logits_MC = network.body(tokens.tokens(inputs_12L))[0, :count].detach()
        right += float((logits_MC.argmax(1) == labels_L[:count]).sum())
        nll += float(F.cross_entropy(logits_MC, labels_L[:count], reduction="sum"))
        asked += count
    assert trained.metrics["test_top1"] == pytest.approx(right / asked)
    assert trained.metrics["test_top1"] > 0.6
    assert trained.metrics["test_nll"] == pytest.approx(nll / asked, rel=1e-5)
    assert trained.metrics["test_perplexity"] == pytest.approx(math.exp(nll / asked), rel=1e-5)


@pytest.mark.parametrize("cache", ["auto", "dense_f16", "dense_u8", "topk_u8", "features"])
def test_what_is_read_is_what_the_teacher_says_at_each_position_asked(runner: Local, cache: str) -> None:
    stage = tiny.student(cache=cache)
    runner.run(stage)
    teacher = runner.storage.finished(stage.teachers["teacher"])
    (kept,) = stage.kept["teacher"]
    positions_B = np.array([7, 3, 100, 3])
    said = runner.storage.reader("teacher", teacher, stage.view, kept).gather(np.zeros_like(positions_B), positions_B)
    if isinstance(said, Sparse):
        said = said.values_BK.new_full((len(said), said.classes), -math.inf).scatter(1, said.ids_BK, said.values_BK)
    sample = stage.view.batch(positions_B, np.zeros_like(positions_B))
    predictor = Predictor(teacher.architecture, teacher.weights, (LOGITS,), device=torch.device("cpu"))
    right_MC = torch.from_numpy(predictor(sample.inputs_B)[LOGITS])
    assert len(said) == len(right_MC) == len(sample.labels_B) == int(tokens.counts(sample.inputs_B).sum())
    torch.testing.assert_close(said.softmax(1), right_MC.softmax(1), atol=0.02, rtol=0)


def test_a_cached_training_is_one_whose_teacher_is_asked_at_every_step(runner: Local) -> None:
    (cached,) = runner.run(tiny.student())
    (asked,) = runner.run(tiny.student(cache="off"))
    for name, value in cached.metrics.items():
        assert asked.metrics[name] == pytest.approx(value, abs=0.02), name


@pytest.mark.parametrize(
    "objective",
    [
        1.0 * Distill(KL(), temperature=Constant(4.0)),
        0.5 * CrossEntropy() + 1.0 * Distill(RKD("pooled")),
        1.0 * CrossEntropy() + 0.1 * CRD(4, negatives=8),
    ],
    ids=str,
)
def test_what_is_written_for_images_learns_from_tokens(runner: Local, objective) -> None:
    (trained,) = runner.run(tiny.student(objective))
    assert math.isfinite(trained.metrics["test_nll"])
    lines = (runner.storage.folder(tiny.student(objective)) / "metrics.jsonl").read_text().splitlines()
    first, *_, last = [json.loads(line)["loss"] for line in lines]
    assert last < first


def test_mistakes_are_named_before_anything_runs() -> None:
    stage = tiny.student()
    with pytest.raises(ValueError, match=r"student .*reads numbers, and the dataset has 6 tokens"):
        replace(stage, student=MLP((4,), classes=6, shape=(2, tiny.LONGEST)))
    with pytest.raises(ValueError, match="reads 5 tokens, and the dataset has 6 tokens"):
        replace(stage, student=replace(tiny.network(), vocabulary=5))
    with pytest.raises(ValueError, match="tokens are no numbers"):
        replace(stage, objective=1.0 * Distill(RKD("input")))
    with pytest.raises(ValueError, match=r"Crop.* changes numbers, and the rows of Steps are others"):
        View(tiny.DATASET, (Crop(),))
    with pytest.raises(ValueError, match="reads 6 tokens, and the dataset has numbers"):
        replace(stage, view=View(Dataset(Digits())))


def test_ids_and_places_name_each_position(runner: Local) -> None:
    from raykd.answers import Cached
    from raykd.training.feed import Feed
    from raykd.training.job import TrainingJob
    from raykd.training.process import Process

    stage = tiny.student()
    runner.run(stage)
    feed = Feed(TrainingJob(stage, runner.storage, Cached()), Process(0, 1, torch.device("cpu")))
    seen = dict[int, int]()
    rows = stage.view.dataset.split("train")
    for feeding in feed.epoch(0):
        batch, most = feeding.batch, stage.view.dataset.targets
        assert len(batch.ids_B) == len(batch.positions_B) == len(batch.labels_B) == feeding.rows
        for place, row_id, label in zip(
            *(x.tolist() for x in (batch.positions_B, batch.ids_B, batch.labels_B)), strict=True
        ):
            assert place not in seen
            assert rows.ids[place // most] == row_id
            assert rows.labels_at(np.array([place // most]))[0, place % most] == label
            seen[place] = label
    assert max(seen) < len(rows) * stage.view.dataset.targets
    assert Signal("pooled").shape(tiny.network().tap_shape) == (16,)


@pytest.mark.parametrize("cache", ["features", "topk_u8"])
def test_a_teacher_that_is_asked_again_agrees_with_what_is_stored(runner: Local, cache: str) -> None:
    stage = tiny.student(cache=cache)
    runner.run(stage)
    origins = {entry.key_digest: (entry, origin) for entry, origin in from_stage(stage, runner.storage)}
    (kept,) = stage.kept["teacher"]
    name = runner.storage.entry("teacher", stage.teachers["teacher"], stage.view, kept).key_digest
    listed, origin = origins[name]
    assert probe(listed, lambda: origin, 50) == Probe(name, 50)
