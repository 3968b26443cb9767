"""The guide is true: its commands parse, its figures are those of the code."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray_commands import commands

from raykd import recipes
from raykd.cli import run
from raykd.cli_resources import resources_of
from raykd.models import size
from raykd.runtime.resources import BATCH_ROWS

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "cluster" / "README.md").read_text()
CIFAR = recipes.load_file(ROOT / "jobs" / "cifar100.py")
ROWS, REPLICAS, EPOCHS, BATCH = 49_000, 240, 240, 64
PASSES = {
    "`kd`, ResNet-56 to ResNet-20": ("resnet56-resnet20", 0),
    "`kd --pair resnet110-resnet20`": ("resnet110-resnet20", 0),
    "`kd --pair resnet32x4-resnet8x4`": ("resnet32x4-resnet8x4", 0),
    "`classroom`, a ResNet-56 and five ResNet-20": ("resnet56-resnet20", 5),
}
"""Of each row: the pair, and how many of the students' network teach beside its teacher."""


def runs() -> list[list[str]]:
    """The words that `raykd run` is given, here and by the manifest of a job."""
    found = []
    for words in [each for each in commands(GUIDE) if each[:2] == ["raykd", "submit"]]:
        rest = [word for word in words[2:] if word != "--no-check"]  # this and the address are for raykd submit
        at = rest.index("--address")
        found.append(rest[:at] + rest[at + 2 :])
    entry = shlex.split(yaml.safe_load((ROOT / "cluster/kuberay/rayjob.yaml").read_text())["spec"]["entrypoint"])
    python, file, recipe, *rest = entry
    assert (python, Path(file).relative_to("/home/ray/raykd").as_posix()) == ("python", "jobs/cifar100.py")
    return [*found, [f"jobs/cifar100.py:{recipe}", *rest]]


def said(words: list[str], monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options of the run, and what they say of resources."""
    monkeypatch.chdir(ROOT)
    with run.make_context("run", list(words)) as ctx:
        return ctx.params, resources_of(ctx)


def test_there_are_commands_for_every_kind_of_cluster() -> None:
    assert len(runs()) >= 5


@pytest.mark.parametrize("words", runs(), ids=lambda words: " ".join(words[-3:]))
def test_a_command_of_the_guide_is_one_that_a_run_understands(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options, resources = said(words, monkeypatch)
    assert options["storage"] == "/shared/raykd"
    teacher, worker = resources["actors"].takes, resources["worker"]
    assert bool(teacher.labels or teacher.custom) == bool(worker.labels or worker.custom)
    assert not set(teacher.labels.items()) & set(worker.labels.items())
    assert not teacher.custom.keys() & worker.custom.keys()


def test_the_sizes_are_those_of_the_networks() -> None:
    section = GUIDE.split("## How many GPUs")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in section.splitlines()]
    table = {row[0]: row[1:] for row in rows if row[0] in PASSES}
    assert table.keys() == PASSES.keys()
    for name, (pair, peers) in PASSES.items():
        big, *_, small = CIFAR._networks(pair)
        labeling = ROWS * REPLICAS * (size(big).flops + peers * size(small).flops)
        training = EPOCHS * ROWS * 3 * size(small).flops
        workers = BATCH // BATCH_ROWS
        figures = [f"{each:.2e}".replace("e+", "e") for each in (labeling, training)]
        share = labeling / training
        assert table[name] == [*figures, f"{share:.2f}", str(workers), str(round(workers * share))]
