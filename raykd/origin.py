"""Where the values of a cache entry came from: which network said them, about which view, in which precision.

    from_key(entry, storage)      all of it made again from the entry's own key, with weights found by their digest
    from_stage(stage, storage)    the entries that a recipe's stage reads: where the key alone is not enough

Not enough it is for code of one's own, and for data whose place is no part of a key, such as a folder of images.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from raykd.cache import Entry
from raykd.data import View
from raykd.device import PRECISIONS
from raykd.identity import canonical
from raykd.models import Architecture
from raykd.models.weights import digest_of
from raykd.rebuild import check_same, known, rebuild
from raykd.signals import Observable
from raykd.stage import Stage
from raykd.storage import Storage, read_json

STORES = ("s3", "gs", "gcs", "memory")


@dataclass(frozen=True)
class Origin:
    """All that is needed to ask again."""

    architecture: Architecture
    weights: str
    view: View
    signal: Observable
    precision: str


def from_key(entry: Entry, storage: Storage) -> Origin:
    """Raises `ValueError` that tells what of it cannot be made from the key, or is gone, or changed since."""
    makers = known(storage.root / "data")
    match entry.key["content"]:
        case {
            "teacher": {"architecture": dict(network), "weights": str(digest)},
            "precision": str(precision),
            "view": {"dataset": dict(dataset), "ops": list(ops), "seed": int(seed), **rest},
            "signal": dict(signal),
        } if precision in PRECISIONS:
            architecture = rebuild(network, makers)
            view = View(rebuild(dataset, makers), rebuild(ops, makers), seed=seed)
            check_same({"dataset": dataset, "ops": ops, "seed": seed, **rest}, view.content())
            weights = _weights(digest, architecture, entry.about, storage)
            return Origin(architecture, weights, view, rebuild(signal, makers), precision)
    raise ValueError("its key is not one that raykd writes for a teacher's signals")


def from_stage(stage: Stage, storage: Storage) -> Iterator[tuple[Entry, Origin]]:
    """The entries of its teachers, and of theirs, in any precision and codec."""
    entries = storage.cache.entries()
    for name, teacher in stage.networks():
        if isinstance(teacher, Stage):
            yield from from_stage(teacher, storage)
        digest = storage.digest(teacher)
        for kept in stage.kept.get(name, ()) if digest is not None else ():
            asked = {
                "teacher": {"architecture": canonical(teacher.architecture), "weights": digest},
                "view": canonical(stage.view.content()),
                "signal": canonical(kept.stored),
            }
            for entry in entries:
                content = entry.key["content"]
                if isinstance(content, Mapping) and {**content, "precision": ""} == {**asked, "precision": ""}:
                    weights, precision = storage.weights(teacher), content["precision"]
                    yield entry, Origin(teacher.architecture, weights, stage.view, kept.stored, precision)


def _weights(digest: str, architecture: Architecture, about: Mapping[str, str], storage: Storage) -> str:
    """A file with the weights of that digest: where they were when the entry was made, or what a stage left."""
    results = storage.root.glob("stages/*/result.json")
    mine = [path.parent for path in results if _weights_of(path) == digest]
    left = [folder / f"{kept}.safetensors" for folder in mine for kept in ("best", "last")]
    for path in [about.get("weights", ""), *map(str, left)]:
        if _is_there(path) and digest_of(path, architecture) == digest:
            return path
    raise ValueError(f"no file with the teacher's weights ({digest[:8]}): neither {about.get('weights')} nor a stage's")


def _weights_of(result: Path) -> object:
    """The digest in a result; None for a file that is none: it is another stage's."""
    try:
        return (read_json(result) or {}).get("weights")
    except ValueError:
        return None


def _is_there(path: str) -> bool:
    """Whether there may be a file. The path is data: of URLs only those of object stores are asked."""
    protocol, separator, rest = path.partition("://")
    if separator:
        return protocol in STORES and "::" not in rest
    return Path(path).is_file()
