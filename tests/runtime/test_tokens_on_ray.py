"""A curriculum of tokens on a real local Ray: two workers train what Local does, and a stage goes on where it was."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import counting
import pytest
import ray
from refusing import Refusing
from safetensors.torch import load_file

from raykd.budget import Plateau
from raykd.methods.extraction import extracted
from raykd.runtime import Display, Local
from raykd.runtime.cluster import Cluster
from raykd.stage import Stage
from raykd.storage import Storage
from raykd.training import metrics

pytestmark = pytest.mark.ray
EAGER = Plateau(floor=1, patience=1, tolerance=0.9)


@pytest.fixture(scope="module")
def _ray() -> Iterator[None]:
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def lineage(stage: Stage) -> list[Stage]:
    return [*([] if stage.init is None else lineage(stage.init)), stage]  # type: ignore[arg-type]


def curriculum(*, masked: bool, plateau: Plateau | None) -> Stage:
    """One block, then the output; the block may take three epochs of five."""
    return extracted(counting.student(masked=masked, epochs=5), ("block1",), epochs=(3, 2), plateau=plateau)


def local(root: Path) -> Local:
    return Local(Storage(root), Display(quiet=True), any_teacher=True)


def two(root: Path) -> Cluster:
    return Cluster(Storage(root), Display(quiet=True), any_teacher=True, workers=2)


@pytest.mark.cores
@pytest.mark.usefixtures("_ray")
@pytest.mark.slow
@pytest.mark.parametrize("masked", [False, True], ids=["causal", "masked"])
def test_two_workers_train_the_curriculum_that_local_trains(masked: bool, tmp_path: Path) -> None:
    last = curriculum(masked=masked, plateau=EAGER if masked else None)
    roots = [tmp_path / name for name in ("local", "two")]
    for root in roots:  # how the teacher came to be is not what is asked
        local(root).run(last.teachers["teacher"])  # type: ignore[arg-type]
    (one,) = local(roots[0]).run(last)
    (other,) = two(roots[1]).run(last)
    assert other.metrics == pytest.approx(one.metrics, abs=2e-3)
    for stage, trained in zip(lineage(last), [2, 3] if masked else [3, 2], strict=True):
        lines, expected = (metrics.read(Storage(root).folder(stage) / "metrics.jsonl") for root in (roots[1], roots[0]))
        assert len(lines) == len(expected) == trained
        for found, right in zip(lines, expected, strict=True):
            assert found["epoch"] == right["epoch"]
            for name in ("loss", "val_nll", "val_top1"):
                assert found[name] == pytest.approx(right[name], rel=1e-2, abs=2e-3), name
        weights = [load_file(Storage(root).weights(stage)) for root in roots]
        for name, value in weights[0].items():
            # Adam divides small gradients by their own size, so what adds up in another order moves a little
            assert (weights[1][name] - value).abs().max() < 0.02, name


@pytest.mark.cores
@pytest.mark.usefixtures("_ray")
def test_a_stage_begun_by_one_runner_is_ended_by_two_workers(tmp_path: Path) -> None:
    last = curriculum(masked=True, plateau=None)
    (whole,) = local(tmp_path / "whole").run(last)
    local(tmp_path / "begun").run(replace(last, budget=replace(last.budget, until=4)))
    (done,) = two(tmp_path / "begun").run(last)
    assert done.metrics == pytest.approx(whole.metrics, abs=2e-3)
    (again,) = Refusing(Storage(tmp_path / "begun"), Display(quiet=True)).run(last)
    assert again.metrics == done.metrics
