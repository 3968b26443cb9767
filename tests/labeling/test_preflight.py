"""Preflight: the commonest silent mistakes about teachers are errors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file

from raykd.cache import Shard, input_checksums
from raykd.labeling.labeler import Labeling
from raykd.labeling.preflight import Preflight, tried
from raykd.models import MLP, Preprocess, weights
from raykd.runtime import Display, Local, Trained
from raykd.stage import Pretrained, Stage
from raykd.storage import Storage


def local(root: Path, **settings: bool) -> Local:
    return Local(Storage(root), Display(quiet=True), **settings)  # type: ignore[arg-type]


@pytest.fixture
def taught(tmp_path: Path) -> Trained:
    return local(tmp_path).run(tiny.teacher())[0]


def student_of(architecture: MLP, path: Path) -> Stage:
    return replace(tiny.student(), teachers={"teacher": Pretrained(architecture, str(path))})


def write(path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    weights.save(str(path), tensors, {})
    return path


def test_a_good_teacher_passes_and_is_tried_once(tmp_path: Path, taught: Trained) -> None:
    stage = student_of(MLP((32,), shape=tiny.SHAPE), Path(taught.weights))
    assert local(tmp_path).run(stage)[0].counts.preflight_rows == {"teacher": 512}
    assert not local(tmp_path).run(replace(stage, seed=1))[0].counts.preflight_rows


def test_wrong_weights_are_refused_before_any_work_unless_told_otherwise(tmp_path: Path) -> None:
    random = MLP((32,), shape=tiny.SHAPE).build().body.state_dict()
    stage = student_of(MLP((32,), shape=tiny.SHAPE), write(tmp_path / "random.safetensors", random))
    with pytest.raises(
        ValueError, match=r"the teacher teacher gets \d+\.\d% of 512 .* not clearly better than chance"
    ) as error:
        local(tmp_path).run(stage)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.rglob("*.arrow"))
    assert not (tmp_path / "stages").exists()
    assert local(tmp_path, any_teacher=True).run(stage)


def test_a_teacher_that_says_nothing_is_refused(tmp_path: Path, taught: Trained) -> None:
    zeros = {name: torch.zeros_like(tensor) for name, tensor in load_file(taught.weights).items()}
    with pytest.raises(ValueError, match=r"gets 0\.0% of 512"):
        local(tmp_path).run(student_of(MLP((32,), shape=tiny.SHAPE), write(tmp_path / "zeros.safetensors", zeros)))


def test_classes_in_another_order_are_refused(tmp_path: Path, taught: Trained) -> None:
    state = load_file(taught.weights)
    last = (
        list(state)[-2:] if len(state) == 4 else [name for name, tensor in state.items() if tensor.shape[:1] == (10,)]
    )
    turned = {
        name: tensor.roll(1, 0) if name in last or tensor.shape[:1] == (10,) else tensor
        for name, tensor in state.items()
    }
    with pytest.raises(ValueError, match="not clearly better than chance"):
        local(tmp_path).run(student_of(MLP((32,), shape=tiny.SHAPE), write(tmp_path / "turned.safetensors", turned)))


def test_wrong_preprocessing_is_refused_by_the_file_itself(tmp_path: Path, taught: Trained) -> None:
    other = MLP((32,), shape=tiny.SHAPE, preprocess=Preprocess(mean=(0.5,), std=(0.01,)))
    with pytest.raises(ValueError, match="preprocess"):
        local(tmp_path).run(student_of(other, Path(taught.weights)))


def test_wrong_preprocessing_that_halves_the_accuracy_is_refused_by_what_the_file_says_of_it(
    tmp_path: Path, taught: Trained
) -> None:
    state, noted = load_file(taught.weights), {"val_top1": weights.metadata(taught.weights)["val_top1"]}
    weights.save(str(tmp_path / "foreign.safetensors"), state, noted)
    other = MLP((32,), shape=tiny.SHAPE, preprocess=Preprocess(mean=(0.9,), std=(0.3,)))
    plain = replace(tiny.student(), view=tiny.student().view.plain())
    stage = replace(plain, teachers={"teacher": Pretrained(other, str(tmp_path / "foreign.safetensors"))})
    with pytest.raises(ValueError, match=r"its file says \d+\.\d% on validation|not clearly better than chance"):
        local(tmp_path).run(stage)


def test_a_teacher_refused_for_its_preprocessing_is_tried_again_when_that_is_corrected(
    tmp_path: Path, taught: Trained
) -> None:
    path = write(tmp_path / "foreign.safetensors", load_file(taught.weights))
    wrong = MLP((32,), shape=tiny.SHAPE, preprocess=Preprocess(mean=(30.0,), std=(0.01,)))
    with pytest.raises(ValueError, match="not clearly better than chance"):
        local(tmp_path).run(student_of(wrong, path))
    assert local(tmp_path).run(student_of(MLP((32,), shape=tiny.SHAPE), path))


def test_cached_logits_of_other_rows_are_refused_after_labeling(tmp_path: Path, taught: Trained) -> None:
    runner = local(tmp_path)
    stage = tiny.student(replicas=1)
    teacher = Pretrained(taught.stage.student, taught.weights)
    (entry,) = Labeling("teacher", teacher, stage.view, stage.kept["teacher"], runner.storage).entries()
    for slot in entry.slots(1):  # every checksum and id is right; the answers belong to the neighbouring row
        positions = np.asarray(entry.positions(slot))
        sample = stage.view.batch(positions, np.zeros_like(positions))
        logits = taught.network(sample.inputs_B)["logits"].detach().roll(1, 0).numpy()
        entry.commit(Shard(slot, sample.ids_B.numpy(), input_checksums(sample.inputs_B), logits))
    with pytest.raises(ValueError, match="out of step"):
        runner.run(stage)


def test_the_threshold_is_far_above_luck_and_below_any_teacher() -> None:
    found = Preflight(rows=512, accuracy=0.2, chance=0.1, expected=None)
    assert 0.16 < found.threshold < 0.17
    found.check("weak but real")
    with pytest.raises(ValueError, match="not clearly better"):
        Preflight(512, 0.16, 0.1, None).check("lucky")
    with pytest.raises(ValueError, match="its file says"):
        Preflight(512, 0.5, 0.1, 0.9).check("half broken")


def test_the_rows_tried_are_in_the_first_shard_and_a_fair_sample_of_the_classes() -> None:
    view = tiny.student().view
    positions = tried(view)
    assert positions.tolist() == list(range(512))
    labels = view.dataset.split("train").labels
    shares = [np.bincount(labels[rows], minlength=10) / len(rows) for rows in (positions, np.arange(len(labels)))]
    assert np.abs(shares[0] - shares[1]).max() < 0.03


def test_a_weak_teacher_that_was_trained_here_may_teach(tmp_path: Path) -> None:
    untrained = replace(tiny.teacher(), budget=replace(tiny.teacher().budget, until=0))
    (found,) = local(tmp_path).run(replace(tiny.student(epochs=1), teachers={"teacher": untrained}))
    assert found.metrics["val_top1"] >= 0
