"""The README is true: its examples run, its files and options exist, its figures are those of the code."""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from raykd import cli, methods, recipes, report, terms
from raykd.labeling import preflight
from raykd.models import TorchVision, weights
from raykd.objective import Spec
from raykd.runtime.counts import Counts
from raykd.runtime.runner import Trained
from raykd.training import loop

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
EXAMPLE, METHOD, OWN = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
RAYS_OWN = {"--address", "--working-dir", "--runtime-env-json"}


def section(title: str) -> str:
    """The text under a heading."""
    return README.split(f"\n## {title}\n")[1].split("\n## ")[0]


def python(*words: str, folder: Path, path: str = "") -> subprocess.CompletedProcess[str]:
    """Python on one core, so that two busy ones do not fight over threads."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    return subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def tree() -> Iterator[Path]:
    """The paths in the annotated tree."""
    folders: list[str] = []
    for line in section("Files").split("```")[1].splitlines()[1:]:
        depth = (len(line) - len(line.lstrip())) // 2
        name = line.split()[0]
        folders[depth:] = [name]
        yield ROOT.joinpath(*folders)


def options(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", text))


def help_of(*words: str) -> str:
    shown = CliRunner().invoke(cli.cli, [*words, "--help"])
    assert shown.exit_code == 0, shown.output
    return shown.output


def test_the_first_example_has_twelve_lines_and_runs(tmp_path: Path) -> None:
    assert sum(bool(line.strip()) for line in EXAMPLE.splitlines()) == 12
    short, changed = re.subn(r"epochs=\d+", "epochs=4", EXAMPLE)
    assert changed == 1
    (tmp_path / "example.py").write_text(short)
    done = python("example.py", folder=tmp_path, path=str(ROOT))
    assert done.returncode == 0, done.stderr
    names, accuracies = zip(*(line.rsplit(" ", 1) for line in done.stdout.splitlines()), strict=True)
    assert names == ("student alone", "student")
    assert all(0 < float(accuracy) <= 1 for accuracy in accuracies)


def test_the_added_method_passes_the_laws_of_its_family(tmp_path: Path) -> None:
    (tmp_path / "tvd.py").write_text(METHOD)
    joins = "import laws, tvd\nlaws.DIVERGENCES.append(tvd.TVD())\nlaws.TERMS.append(laws.Distill(tvd.TVD()))\n"
    (tmp_path / "joined.py").write_text(joins)
    words = ["-m", "pytest", "tests/test_laws.py", "-p", "joined", "-k", "TVD or differ", "-p", "no:cacheprovider"]
    done = python(*words, folder=ROOT, path=os.pathsep.join(map(str, (tmp_path, ROOT / "tests"))))
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed[1]) >= 14


def test_the_added_method_is_half_the_distance_of_the_distributions_and_names_its_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "added_tvd.py").write_text(METHOD)
    monkeypatch.syspath_prepend(tmp_path)
    tvd = importlib.import_module("added_tvd").TVD
    assert "Source:" in tvd.__doc__
    assert len(METHOD.splitlines()) <= 40
    student, teacher = torch.tensor([[2.0, 0.0]]), torch.tensor([[-1.0, 0.0]])
    expected = 9 * (torch.tensor(2 / 3).sigmoid() - torch.tensor(-1 / 3).sigmoid())
    found = tvd()(student, teacher, torch.zeros(1, dtype=torch.long), torch.tensor([3.0]))
    torch.testing.assert_close(found, expected[None])


def test_the_recipe_for_your_own_data_can_be_planned(tmp_path: Path) -> None:
    for name in ("cat", "dog", "newt"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(20):
            Image.new("RGB", (8, 8), (i, i, i)).save(tmp_path / "photos" / name / f"{i}.png")
    state = TorchVision("resnet18", classes=3, shape=(3, 64, 64)).build().body.state_dict()
    weights.save(str(tmp_path / "resnet18.safetensors"), state, {})
    (tmp_path / "own.py").write_text(OWN)
    knobs = ["--images", str(tmp_path / "photos"), "--teacher-weights", str(tmp_path / "resnet18.safetensors")]
    target = f"{tmp_path}/own.py:photos"
    done = CliRunner().invoke(cli.cli, ["plan", target, *knobs, "--storage", str(tmp_path / "storage"), "--json"])
    assert done.exit_code == 0, done.output
    steps = json.loads(done.output.splitlines()[-1])["steps"]
    assert [step["network"] for step in steps] == ["resnet8", "torchvision-resnet18", "resnet8"]
    assert steps[-1]["teacher_rows"] == {"teacher": 4 * 43}
    assert options(help_of("run", target)) >= {"--images", "--teacher-weights", "--tau"}


def test_every_file_in_the_tree_exists() -> None:
    assert [str(path) for path in tree() if not path.exists()] == []


@pytest.mark.parametrize("folder", ["raykd", "jobs", "benchmarks"])
def test_every_python_file_is_in_the_tree(folder: str) -> None:
    assert set((ROOT / folder).rglob("*.py")) - set(tree()) == set()


def test_every_file_that_the_text_names_exists() -> None:
    named = set(re.findall(r"`([\w/]+\.py)`", README)) - {"own.py", "raykd/methods/tvd.py"}  # these two you write
    assert {name for name in named if not any((folder / name).exists() for folder in (ROOT, ROOT / "raykd"))} == set()


def test_the_table_of_options_is_that_of_raykd_run() -> None:
    rows = [line.split(" | ")[0] for line in section("The command line").splitlines() if line.startswith("| `--")]
    assert options(" ".join(rows)) | {"--help"} == options(help_of("run"))


@pytest.mark.parametrize("text", [README, (ROOT / "cluster" / "README.md").read_text()], ids=["root", "cluster"])
def test_every_option_that_the_text_names_exists(text: str) -> None:
    shown = "".join(
        [help_of(), help_of("run", f"{ROOT}/jobs/digits.py:kd"), help_of("eval", f"{ROOT}/jobs/digits.py:kd")]
    )
    assert options(text) - RAYS_OWN - options(OWN) - options(shown) <= {"--images", "--teacher-weights"}


def test_every_command_that_the_text_names_exists() -> None:
    for words in re.findall(r"^raykd (cache \w+|\w+)", section("The command line"), re.MULTILINE):
        help_of(*words.split())


def test_the_json_fields_are_those_of_run() -> None:
    stage = recipes.load(f"{ROOT}/jobs/digits.py:kd").stage()
    table = section("The command line").split("The object of `run --json`")[1].split("\n\n")[1]
    named = {name for line in table.splitlines() for name in re.findall(r"`(\w+)`", line.split(" | ")[0])}
    assert named == report.as_json(Trained(stage, "w", {}, Counts())).keys()


def test_every_piece_of_a_method_is_in_the_table() -> None:
    named = set(re.findall(r"^\| `(\w+)`", section("Methods"), re.MULTILINE))
    published = [importlib.import_module(f"raykd.methods.{m.name}") for m in pkgutil.iter_modules(methods.__path__)]
    pieces = {
        kind.__name__
        for module in (*published, terms)
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, Spec) and kind.__module__ == module.__name__
    }
    assert named == {name for name in pieces if not name.startswith("_")}


def test_the_stated_thresholds_are_those_of_the_code() -> None:
    text = section("What is checked for you")
    assert f"{preflight.ROWS} training rows" in text
    assert f"{preflight.STANDARD_ERRORS:.0f} standard errors" in text
    assert f"within {preflight.LOST:.0%}".replace("%", " points") in text
    assert f"within {preflight.DRIFT:.0%}".replace("%", " points") in text
    assert f"every {loop.CHECK_EVERY} steps" in text
