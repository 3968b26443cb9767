"""The layers, as rules: who imports whom, where Ray is, what every method says of itself."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import raykd
from raykd.objective import Divergence, SampleWeight, Temperature, Term, Weighting
from raykd.terms import Mixture

ROOT = Path(raykd.__file__).parent
RAY = {"labeling.pool", "training.worker", "runtime.cluster", "search.tune"}
LAYERS = [  # each may import from those above it
    {"places"},
    {
        "pickles",
        "printable",
        "identity",
        "rng",
        "device",
        "signals",
        "sparse",
        "collective",
        "shown",
        "shares",
        "tokens",
    },
    {"batch", "data", "models", "cache"},
    {"objective", "kept", "rebuild", "agreement"},
    {"terms", "budget", "features"},
    {"stage"},
    {"selection"},
    {"methods", "storage", "order"},
    {"answers", "origin", "submission"},
    {"labeling", "training", "plan", "recipes", "cite", "probe"},
    {"runtime"},
    {"search"},
    {"report", "report_search", "status"},
    {"cli", "cli_cache", "cli_options", "cli_resources", "cli_search", "cli_status", "cli_submit"},
]
APART = {
    "data": {"models", "cache", "signals", "batch"},
    "models": {"data", "cache", "batch"},
    "cache": {"data", "models", "signals", "batch"},
    "kept": {"objective", "batch"},
    "labeling": {"objective", "methods", "training", "plan"},
    "training": {"methods", "labeling", "plan"},
    "plan": {"labeling", "training", "recipes", "cite"},
}


@cache
def modules() -> dict[str, ast.Module]:
    names = {path.relative_to(ROOT).with_suffix("").as_posix().replace("/", "."): path for path in ROOT.rglob("*.py")}
    return {
        name.removesuffix(".__init__"): ast.parse(path.read_text())
        for name, path in names.items()
        if name != "__init__"
    }


def imports(tree: ast.Module) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def ours(tree: ast.Module) -> set[str]:
    """The layers that a module imports from raykd."""
    return {name.split(".")[1] for name in imports(tree) if name.startswith("raykd.")}


def height(name: str) -> int:
    return next(i for i, layer in enumerate(LAYERS) if name in layer)


@pytest.mark.parametrize("name", sorted(set(modules()) - {"__main__"}))
def test_imports_point_downwards(name: str) -> None:
    layer = name.split(".")[0]
    known = set().union(*LAYERS)
    for other in (ours(modules()[name]) & known) - {layer}:
        assert height(other) <= height(layer), f"raykd.{name} imports raykd.{other}, which lies above it"
        assert other not in APART.get(layer, set()), f"raykd.{name} imports raykd.{other}"


def test_every_layer_is_placed() -> None:
    assert {name.split(".")[0] for name in modules()} - {"__main__"} == set().union(*LAYERS)


def test_ray_is_imported_where_it_belongs_and_nowhere_else() -> None:
    assert {name for name, tree in modules().items() if any(i.split(".")[0] == "ray" for i in imports(tree))} == RAY


def test_importing_raykd_imports_neither_ray_nor_torchvision() -> None:
    code = "import sys, raykd, raykd.cli; print([m for m in ('ray', 'torchvision', 'sklearn', 'pandas') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_what_labels_imports_no_compiler_and_no_library_that_only_a_driver_needs(tmp_path: Path) -> None:
    """Each of a pool's actors would pay seconds for it."""
    code = f"""
import sys
from pathlib import Path
import torch
from raykd import Dataset, Pretrained, View
from raykd.cache import Slot
from raykd.cache.codecs import DENSE_F16
from raykd.data import Digits
from raykd.kept import Kept
from raykd.labeling.balance import Work
from raykd.labeling.labeler import Labeler, Labeling
from raykd.models import CNN, weights
from raykd.signals import LOGITS
from raykd.storage import Storage
network = CNN(8, shape=(1, 8, 8))
weights.save("{tmp_path}/a.safetensors", network.build().body.state_dict(), {{}})
teacher, storage = Pretrained(network, "{tmp_path}/a.safetensors"), Storage(Path("{tmp_path}"))
labeling = Labeling("teacher", teacher, View(Dataset(Digits())), (Kept(LOGITS, LOGITS, DENSE_F16),), storage)
(labeled,) = Labeler([labeling], torch.device("cpu")).label(Work(Slot(0, 0), (0,)))
print(labeled.rows > 0, [m for m in ("torch._dynamo", "sympy", "sklearn", "scipy", "ray") if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "True []"


def test_every_piece_of_a_method_names_its_source() -> None:
    for module in pkgutil.iter_modules([str(ROOT / "methods")]):
        found = importlib.import_module(f"raykd.methods.{module.name}")
        kinds = (Divergence, Weighting, Temperature, Term, SampleWeight, Mixture)
        pieces = [
            c
            for _, c in inspect.getmembers(found, inspect.isclass)
            if issubclass(c, kinds) and c.__module__ == found.__name__
        ]
        functions = [f for _, f in inspect.getmembers(found, inspect.isfunction) if f.__module__ == found.__name__]
        assert pieces or functions
        for piece in pieces:
            assert "Source:" in (piece.__doc__ or "") + (found.__doc__ or ""), f"{piece.__name__} names no source"


def test_the_public_names_are_few_and_there() -> None:
    assert len(raykd.__all__) <= 25
    assert all(hasattr(raykd, name) for name in raykd.__all__)


def test_no_file_is_long() -> None:
    assert {
        path: len(path.read_text().splitlines())
        for path in ROOT.rglob("*.py")
        if len(path.read_text().splitlines()) > 400
    } == {}


def test_nothing_switches_on_a_method() -> None:
    for name in ("training.loop", "training.learner", "training.feed", "labeling.labeler", "runtime.runner"):
        assert not any(i.startswith("raykd.methods") for i in imports(modules()[name]))
