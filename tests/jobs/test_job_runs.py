"""The recipes of jobs/ run: every one on digits, some of CIFAR-100's, some on Ray. Small data, few epochs, real networks."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import ray
import torch
from job_cases import RECIPES, ROOT, SMALL, graph, module, of, small, write_cifar100, written
from refusing import Refusing
from safetensors.torch import load_file

from raykd import Dataset
from raykd.batch import Batch, Progress
from raykd.data import FashionMNIST
from raykd.models import ResNet, weights
from raykd.objective import STUDENT, Context
from raykd.runtime import Display, Local
from raykd.runtime.cluster import Cluster
from raykd.stage import Pretrained, Stage
from raykd.storage import Storage
from raykd.training.learner import context

OF_FEATURES = ("fitnet", "attention", "nst", "sp", "vid", "review", "simkd", "cc", "rkd", "pkt", "crd", "camkd")


@pytest.fixture(scope="module")
def digits() -> Iterator[ModuleType]:
    """The job, on a quarter of the rows for the teacher as well."""
    with small("digits", DIGITS=replace(module("digits").DIGITS, limit=128)) as found:
        yield found


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    """One for all recipes, so that they share their teachers."""
    return Storage(tmp_path_factory.mktemp("storage"))


@pytest.mark.usefixtures("digits")
@pytest.mark.parametrize("name", of("digits"))
def test_every_recipe_runs_from_end_to_end_and_then_is_there(name: str, storage: Storage) -> None:
    knobs = {} if name == "teacher" else {"rows": 50}
    stage = RECIPES[f"digits:{name}"].stage(epochs=2, **knobs, **SMALL.get(name, {}))
    (trained,) = Local(storage, Display(quiet=True)).run(stage)
    assert 0 <= trained.metrics["val_top1"] <= 1
    assert all(tensor.isfinite().all() for tensor in load_file(trained.weights).values())
    assert trained.network(torch.zeros(2, 1, 8, 8, dtype=torch.uint8))["logits"].shape == (2, 10)
    (again,) = Refusing(storage, Display(quiet=True)).run(stage)
    assert again.metrics == trained.metrics


@pytest.mark.usefixtures("digits")
@pytest.mark.parametrize("arm", ["anchored", "uniform", "trust", "sequential", "joint"])
def test_every_arm_of_smskd_runs_with_three_methods(arm: str, storage: Storage) -> None:
    stage = RECIPES["digits:smskd"].stage(first="attention", then="ctkd,pkt", arm=arm, epochs=2, extra=1, rows=50)
    (trained,) = Local(storage, Display(quiet=True)).run(stage)
    assert "val_top1" in trained.metrics


@pytest.mark.usefixtures("digits")
def test_a_recipe_without_a_teacher_runs_from_the_command_line(raykd: Any) -> None:
    done = raykd("run", f"{ROOT}/jobs/digits.py:dml", "--local", "--json", "--epochs", "1", "--rows", "50")
    assert done.code == 0, done.err
    assert {"val_top1", "test_top1"} <= done.json["metrics"].keys()
    assert "student alone" in done.out
    assert "peers = 2: how many students" in done.err


@pytest.fixture(scope="module")
def cifar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cifar100(tmp_path_factory.mktemp("cifar"))


def random_batch(stage: Stage, shapes: Context, rows: int = 2) -> Batch:
    """What the stage's objective looks at, with values by chance."""
    signals = {
        name: {signal: torch.randn(rows, *shape, requires_grad=name == STUDENT) for signal, shape in each.items()}
        for name, each in shapes.shapes.items()
    }
    student = signals.pop(STUDENT)
    ids_B, labels_B = torch.arange(rows), torch.arange(rows) % shapes.classes
    return Batch(ids_B, ids_B, labels_B, student, signals, Progress(stage.budget.epochs - 1, stage.budget.epochs))


@pytest.mark.parametrize("pair", typing.get_args(module("cifar100").Pair))
def test_features_of_every_pair_fit_each_other(pair: str, cifar: Path, storage: Storage) -> None:
    for name in OF_FEATURES:
        stage = written(f"cifar100:{name}", cifar, pair=pair)
        width = stage.teachers["teacher"].architecture.tap_shape("pooled")[0]
        shapes = replace(context(stage, storage), heads=lambda _, width=width: torch.nn.Linear(width, 100))
        criterion, batch = stage.objective.build(shapes), random_batch(stage, shapes)
        found_KB = criterion(batch)
        assert found_KB.shape == (len(stage.objective.terms), 2), name
        assert found_KB.isfinite().all(), name
        found_KB.sum().backward()
        assert all(value.grad is not None and value.grad.isfinite().all() for value in batch.student.values()), name


@pytest.mark.parametrize("name", ["dkd", "simkd", "classroom"])
def test_a_pair_of_the_literature_distils_from_a_file(name: str, cifar: Path, tmp_path: Path) -> None:
    file = str(tmp_path / "teacher.safetensors")
    weights.save(file, module("cifar100").PAIRS["resnet56-resnet20"][0].build().body.state_dict(), {})
    with pytest.raises(ValueError, match="does not fit"):  # it has ten classes
        Local(Storage(tmp_path), Display(quiet=True)).run(written("cifar100:kd", cifar, teacher_weights=file))
    weights.save(file, ResNet(56, classes=100).build().body.state_dict(), {})
    few = {"peers": 0} if name == "classroom" else {}
    stage = written(f"cifar100:{name}", cifar, teacher_weights=file, epochs=1, **few)
    (trained,) = Local(Storage(tmp_path), Display(quiet=True), any_teacher=True).run(stage)
    assert "test_top1" in trained.metrics
    assert trained.counts.teacher_rows["teacher"] >= 64
    assert [type(each) for each in graph(stage)] == [Stage, Pretrained]


@pytest.fixture(scope="module")
def _ray() -> Iterator[None]:
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)  # each actor takes 3 s to start
    yield
    ray.shutdown()


@pytest.fixture
def fashion() -> Iterator[ModuleType]:
    """The job, on few rows."""
    with small("fashion", FASHION=Dataset(FashionMNIST("test"), validation=0.05, holdout=0.05, limit=512)) as found:
        yield found


def cluster(storage: Storage) -> Cluster:
    runner = Cluster(storage, Display(quiet=True))
    runner._own = True  # as on a Ray of the run's own: one worker trains in this process
    return runner


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("_ray", "fashion")
def test_recipes_run_on_ray(tmp_path: Path) -> None:
    stages = [
        RECIPES[f"fashion:{name}"].stage(epochs=2, rows=256, **knobs)
        for name, knobs in {
            "kd": {},
            "review": {},
            "classroom": {"peers": 2, "quality": "weak"},
            "smskd": {"first": "attention", "extra": 1},
        }.items()
    ]
    runner = cluster(Storage(tmp_path))
    for stage, trained in zip(stages, runner.run(*stages), strict=True):
        assert trained.metrics["val_top1"] > 0
        assert trained.stage == stage
    asked = runner.counts.teacher_rows
    assert asked["peer0"] == asked["peer1"] == 2 * 256
    refusing = Refusing(Storage(tmp_path), Display(quiet=True))
    assert [each.metrics for each in refusing.run(*stages)] == [each.metrics for each in runner.run(*stages)]


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("_ray", "fashion")
@pytest.mark.parametrize("name", of("fashion"))
def test_every_recipe_of_fashion_runs_on_ray_with_teachers_that_answer_from_the_cache(
    name: str, storage: Storage
) -> None:
    knobs = {} if name == "teacher" else {"rows": 256}
    stage = RECIPES[f"fashion:{name}"].stage(epochs=2, **knobs, **SMALL.get(name, {}))
    runner = cluster(storage)
    (trained,) = runner.run(stage)
    assert 0 <= trained.metrics["val_top1"] <= 1
    taught = [each for each in graph(stage) if isinstance(each, Stage) and each.kept]
    assert [each for each in taught if each.cache == "off"] == []
    assert runner.counts.cache_rows > 0 or not stage.kept
    (again,) = Refusing(storage, Display(quiet=True)).run(stage)
    assert again.metrics == trained.metrics
