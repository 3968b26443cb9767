"""Canonical JSON and back: the same spec, by classes of raykd alone, or an error of one line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from torch import Tensor

from raykd.data import (
    Affine,
    Arrays,
    ColourJitter,
    Crop,
    Cutout,
    Dataset,
    Digits,
    Draws,
    FashionMNIST,
    Flip,
    ImageFolder,
    Mixup,
    Operation,
)
from raykd.identity import canonical
from raykd.models import (
    CNN,
    IMAGENET,
    MLP,
    VGG,
    Custom,
    MobileNetV2,
    Preprocess,
    ResNet,
    Reusing,
    ShuffleNetV2,
    WideResNet,
)
from raykd.rebuild import known, rebuild
from raykd.signals import LOGITS, Signal

SPECS = [
    MLP((32,), shape=tiny.SHAPE),
    MLP((), shape=(1, 4, 4), classes=3, preprocess=Preprocess(8, 6, mean=(0.5,), std=(0.25,))),
    CNN(width=4, shape=(1, 8, 8)),
    ResNet(20, classes=100),
    WideResNet(16, 2),
    VGG(),
    MobileNetV2(),
    ShuffleNetV2(),
    Reusing(CNN(width=4, shape=(1, 8, 8)), CNN(width=8, shape=(1, 8, 8)), reduction=4),
    IMAGENET,
    LOGITS,
    Signal("stage2"),
    Dataset(Digits(), validation=0.2, limit=100, seed=4),
    Dataset(Digits(), test=Digits()),
    (Crop(2, "reflect"), Flip(0.25), Affine(10.0, 0.1, (0.9, 1.1)), Cutout(4), ColourJitter(0.1), Mixup(0.2)),
]


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_what_was_written_comes_back_equal(spec, tmp_path):
    assert rebuild(canonical(spec), known(tmp_path)) == spec


def test_arrays_come_back_from_where_they_were_stored(tmp_path):
    rows = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    source = Arrays(rows, np.arange(30) % 3, ids=np.arange(30) * 2, classes=5)
    with pytest.raises(ValueError, match=r"the rows of an Arrays of shape \(4,\) are not at"):
        rebuild(canonical(source), known(tmp_path))
    source.stored(str(tmp_path))
    found = rebuild(canonical(source), known(tmp_path))
    assert torch.equal(found.load().inputs(np.arange(30)), torch.from_numpy(rows))
    assert found.classes == 5
    other = Arrays(rows + 1, np.arange(30) % 3).stored(str(tmp_path))
    Path(other.file).rename(tmp_path / f"{source.revision}.safetensors")
    with pytest.raises(ValueError, match="changed since the key was written"):
        rebuild(canonical(source), known(tmp_path))


@dataclass(frozen=True)
class Mine(Operation):
    def __call__(self, images_BCHW: Tensor, draws: Draws) -> Tensor:
        raise AssertionError("code of a test is not run")


def of(name: str, /, **fields: Any) -> dict[str, Any]:
    return {"is": name, "version": 1, "of": fields}


TOUCH = {"function": "os:system", "options": {"command": "touch raykd-was-here"}, "revision": 1}
REFUSED = [
    (of("Custom", **TOUCH, classes=10, shape=[3, 8, 8]), "'Custom' is no class of raykd"),
    (of("Mine"), "'Mine' is no class of raykd"),
    (of("os.system", command="touch raykd-was-here"), "'os.system' is no class"),
    (of("__import__", name="os"), "no class of raykd"),
    (of("Path", x="/"), "no class of raykd"),
    (of("Operation"), "'Operation' is no class of raykd"),
    (of("Architecture", classes=3), "'Architecture' is no class of raykd"),
    (of("Flip", probability=0.5, speed=3), "Flip has other fields in this version"),
    (of("Flip"), r"was \{\} and now is \{'probability': 0.5\}"),
    (of("Flip", probability=2), "a share in"),
    ({**of("Flip", probability=0.5), "version": 7}, "it.version was 7 and now is 1"),
    ({"is": "Flip", "version": 1, "of": [0.5]}, "no class of raykd"),
    (of("Digits", revision="0" * 40), "changed since the key was written"),
    (of("ImageFolder", size=8, revision="0" * 40), "ImageFolder needs folder, which is no part of a key"),
    (of("Arrays", classes=2, shape=[4], revision="../../etc/passwd"), "are not at"),
    ({"dtype": "float32", "shape": [2], "sha256": "0" * 64}, "the digest only"),
]


@pytest.mark.parametrize(("content", "words"), REFUSED)
def test_what_raykd_cannot_make_from_data_is_refused_and_no_code_is_run(content, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for nested in (content, [content], {"a": content}):
        with pytest.raises(ValueError, match=words if nested is content else None):
            rebuild(nested, known(tmp_path))
    assert not (tmp_path / "raykd-was-here").exists()


def test_only_plain_values_of_raykd_can_be_made(tmp_path):
    made = known(tmp_path)
    assert {"MLP", "Dataset", "Flip", "Mixup", "Signal", "Preprocess", "Digits"} <= made.keys()
    assert {Custom.__name__, Mine.__name__} & made.keys() == set()
    assert FashionMNIST.__name__ in made
    assert ImageFolder.__name__ in made
