"""The README is true: its examples run, its files and options exist, its figures are those of the code."""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import re
import shlex
import shutil
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
from raykd.search import space_of
from raykd.training import loop

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
EXAMPLE, SPACE, METHOD, RECIPE, OWN = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
WRITTEN = ("raykd/methods/hellinger.py", "jobs/hellinger.py")  # by whoever adds the method
RAYS_OWN = {"--address", "--working-dir", "--runtime-env-json", "--generate"}


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


@pytest.fixture(scope="module")
def added(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project, to which the method was added by what the README says and nothing else."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(ROOT / "raykd", folder / "raykd", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "tests", folder / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    (folder / "jobs").mkdir()
    for name, text in zip(WRITTEN, (METHOD, RECIPE), strict=True):
        assert not (ROOT / name).exists()
        (folder / name).write_text(text)
    laws = folder / "tests" / "laws.py"
    joined, times = re.subn(r"^(DIVERGENCES\b.*?= \[)", r"\1Hellinger(), ", laws.read_text(), flags=re.MULTILINE)
    assert times == 1
    (imported,) = re.findall(r"^from raykd\.methods.* import Hellinger$", RECIPE, re.MULTILINE)
    laws.write_text(joined.replace("from raykd.signals", f"{imported}\nfrom raykd.signals", 1))
    return folder


def added_says(command: str, *more: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """What the one command of the section that begins so prints in the copy."""
    (line,) = [line for line in section("Add a method").splitlines() if line.startswith(command)]
    words = shlex.split(re.split(r" {3,}", line)[0])
    done = python("-m", *words, *more, folder=folder, path=str(folder))
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def test_the_added_method_passes_the_laws_of_its_family_and_names_its_source(added: Path) -> None:
    done = added_says("pytest", "-p", "no:cacheprovider", "-vv", folder=added)
    passed = [line for line in done.stdout.splitlines() if "PASSED" in line]
    assert len([line for line in passed if "Divergence" in line and "Hellinger-dense" in line]) >= 7
    assert len([line for line in passed if "TestTerm" in line and "Distill(Hellinger" in line]) >= 3
    assert any("names_its_source" in line for line in passed)


def test_the_added_method_distils_and_is_cited(added: Path) -> None:
    storage = ["--storage", str(added / "storage")]
    done = added_says("raykd run", "--json", *storage, folder=added)
    found = json.loads(done.stdout.splitlines()[-1])
    assert "L = 0.1 * CrossEntropy + 0.9 * Distill(Hellinger, tau 4)" in done.stderr
    assert found["label"] == "hellinger"
    assert found["teacher_rows"]["teacher"] > 0
    assert found["metrics"]["agreement"] > 0.5  # ten classes
    (source,) = re.findall(r"Source: (.*)", METHOD)
    assert source in added_says("raykd cite", folder=added).stdout


def test_the_added_method_is_one_less_the_overlap_of_the_distributions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "added_hellinger.py").write_text(METHOD)
    monkeypatch.syspath_prepend(tmp_path)
    hellinger = importlib.import_module("added_hellinger").Hellinger
    assert len(METHOD.splitlines()) <= 40
    student, teacher = torch.tensor([[2.0, 0.0]]), torch.tensor([[-1.0, 0.0]])
    q, p = (torch.tensor([z / 3, -z / 3]).sigmoid() for z in (2.0, -1.0))
    found = hellinger()(student, teacher, torch.zeros(1, dtype=torch.long), torch.tensor([3.0]))
    torch.testing.assert_close(found, 9 * (1 - (p * q).sqrt().sum())[None])


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


def test_the_example_of_a_space_is_one(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(f"import sys\nsys.path.append({str(ROOT / 'jobs')!r})\n{SPACE}")
    recipe = recipes.load(f"{file}:either")
    space = space_of(recipe)
    assert space.defaults(recipe) == {"method": "kd", "tau": 4.0, "lr": 0.1}
    objectives = {str(recipe.stage(**configuration).objective) for configuration in space.samples(0, 8)}
    assert len(objectives) == 8


def test_every_file_that_the_text_names_exists() -> None:
    named = set(re.findall(r"`([\w/]+\.py)`", README)) - {"own.py", *WRITTEN}  # these you write
    assert {name for name in named if not any((folder / name).exists() for folder in (ROOT, ROOT / "raykd"))} == set()


def test_the_table_of_options_is_that_of_raykd_run() -> None:
    rows = [line.split(" | ")[0] for line in section("The command line").splitlines() if line.startswith("| `--")]
    assert options(" ".join(rows)) | {"--help"} == options(help_of("run"))


@pytest.mark.parametrize("text", [README, (ROOT / "cluster" / "README.md").read_text()], ids=["root", "cluster"])
def test_every_option_that_the_text_names_exists(text: str) -> None:
    shown = "".join(
        [
            help_of(),
            help_of("run", f"{ROOT}/jobs/cifar100.py:kd"),
            help_of("cache", "verify"),
            *(
                help_of(command, f"{ROOT}/jobs/digits.py:kd")
                for command in ("run", "submit", "eval", "search", "status")
            ),
        ]
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
