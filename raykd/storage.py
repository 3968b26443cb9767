"""Where things lie on the storage: every name is the fingerprint of what it holds, so existing means done.

    <root>/cache/v1/...                    the signal cache
    <root>/stages/<fingerprint>/           stage.json  checkpoint.pt  best|last.safetensors  metrics.jsonl  result.json
    <root>/evaluations/<key>.safetensors   what a network predicts on the validation and test splits
    <root>/preflight/<key>.json            how well a teacher did on the rows that it was tried on
    <root>/calibration/<key>.json          what a row costs a teacher
    <root>/leases/<what>                   who is doing what now
    <root>/runs/<start>-<random>/          events.jsonl: what a run did
    <root>/data/<digest>.safetensors       in-memory rows, laid down for workers on other machines
    <root>/.raykd                          the anchor: without it the storage is away, see `raykd.places.anchor`

`result.json` is written last: a stage without it is unfinished and continues from its checkpoint.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raykd.cache import Entry, SignalCache
from raykd.data import View
from raykd.identity import canonical, fingerprint
from raykd.kept import Head, Kept, KeptReader
from raykd.places import Folder, Lease, Unavailable, anchor, make_folder, open_regular, persistent, place, require
from raykd.places.retry import patience
from raykd.stage import Pretrained, Stage

LIMIT = 1 << 32  # bytes of a file of a stage that is read at once


@dataclass(frozen=True)
class Storage:
    """A folder that all workers see. `precision` is what teachers compute in, because their cached outputs depend on it."""

    root: Path
    precision: str = "float32"
    cache_root: str = ""
    """Where the cache lies if not in `root`: a folder, or a URL that fsspec opens."""

    def check(self) -> None:
        """Raise `ValueError` if nothing can be written here, or the cache lies where no place is. Makes what there is not.

        Raises `OSError` for a storage that fails for the moment, and for too long.
        """
        patience()
        for name, folder in self._folders.items():
            if anchor.holds(folder):  # one that went away meanwhile is not made anew
                persistent(require)(folder)
                continue
            try:
                _prepare(folder, anchored=folder in self._anchored)
            except Unavailable:
                raise
            except OSError as error:
                raise ValueError(
                    f"{name} {str(folder)!r} is not writable ({error.strerror}): name a folder that is"
                ) from error

    @contextmanager
    def held(self) -> Iterator[None]:
        """Check it, and while the block runs wait for a storage that goes away, instead of taking it for an empty one.

        A copy that travels to other processes meanwhile holds it there. Raises what `check` raises.
        """
        self.check()
        with anchor.holding(*self._anchored):
            yield

    @property
    def _folders(self) -> dict[str, Path]:
        """By what they are to a person."""
        found = {"storage": self.root}
        if isinstance(self.cache.place, Folder):
            found["cache"] = self.cache.place.root
        return found

    @property
    def _anchored(self) -> list[Path]:
        """The folders that may be away by themselves."""
        return [f for f in self._folders.values() if f == self.root or not f.is_relative_to(self.root)]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "held": [folder for folder in self._anchored if anchor.holds(folder)]}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for folder in state.pop("held"):
            anchor.hold(folder)
        self.__dict__.update(state)

    @property
    def cache(self) -> SignalCache:
        """The signal cache."""
        return SignalCache(self.cache_root or self.root / "cache")

    def folder(self, stage: Stage) -> Path:
        """Where a stage's training lies, existing or not."""
        return self.root / "stages" / fingerprint(stage)

    def result(self, stage: Stage) -> dict[str, Any] | None:
        """What a finished stage left behind, or None. Raises `ValueError` for a file that holds anything else."""
        path = self.folder(stage) / "result.json"
        found = read_json(path, weights=str, metrics=dict, seconds=float)
        for name, value in (found or {"metrics": {}})["metrics"].items():
            if not isinstance(value, int | float):
                raise ValueError(
                    f"{path} has {name}={str(value)[:60]!r}: remove it, and the stage will be finished again"
                )
        return found

    def weights(self, network: Stage | Pretrained) -> str:
        """Path of the weights that `network` stands for: of a stage, those that its budget keeps."""
        if isinstance(network, Pretrained):
            return network.weights
        return str(self.folder(network) / f"{network.budget.keep}.safetensors")

    def finished(self, network: Stage | Pretrained) -> Pretrained:
        """A network that exists, by its weights."""
        if isinstance(network, Pretrained):
            return network
        return Pretrained(network.student, self.weights(network), network.label)

    def digest(self, network: Stage | Pretrained) -> str | None:
        """Digest of those weights; None for a stage that is not finished."""
        if isinstance(network, Pretrained):
            return network.digest
        result = self.result(network)
        return None if result is None else str(result["weights"])

    def entries(self, name: str, teacher: Stage | Pretrained, view: View, kept: Iterable[Kept]) -> list[Entry]:
        """The cache entries of a finished teacher, one for each signal. `name` is for people."""
        return [self.entry(name, teacher, view, each) for each in kept]

    def entry(self, name: str, teacher: Stage | Pretrained, view: View, kept: Kept) -> Entry:
        """The cache entry of one signal of a finished teacher under one view of the training rows."""
        architecture, weights = teacher.architecture, self.digest(teacher)
        assert weights is not None, "a teacher is finished before its signals have a name"
        key = {
            "teacher": {"architecture": canonical(architecture), "weights": weights},
            "precision": self.precision,
            "view": canonical(view.content()),
            "signal": canonical(kept.stored),
        }
        about = {
            "teacher": f"{name} ({architecture})",
            "weights": self.weights(teacher),
            "dataset": str(view.dataset),
            "view": ", ".join(map(str, view.ops)) or "plain",
            "signal": str(kept.stored),
        }
        ids_N = view.dataset.split("train").ids
        return self.cache.entry(key, ids_N=ids_N, shape=kept.shape(architecture), about=about, codec=kept.codec)

    def reader(
        self, name: str, teacher: Stage | Pretrained, view: View, kept: Kept, *, follow: bool = False
    ) -> KeptReader:
        """Reads the entry of one signal; with `follow`, also while it is being filled.

        Raises `IncompleteEntry` for an entry that lacks rows, without `follow`.
        """
        entry = self.entry(name, teacher, view, kept)
        head = Head(teacher.architecture, self.weights(teacher)) if kept.by_head else None
        return KeptReader(entry.open(view.replicas, follow=follow), head)

    def lease(self, name: str) -> Lease | None:
        """The right to do what `name` says, until it is released; None while another run has it."""
        return Lease.acquire(place(self.root), f"leases/{name}", f"pid {os.getpid()} on {socket.gethostname()}")

    def evaluation(self, network: Pretrained, view: View) -> Path:
        """Where a network's predictions on a dataset lie."""
        return self.root / "evaluations" / f"{fingerprint([network, view.dataset])}.safetensors"

    def preflight(self, teacher: Pretrained, view: View) -> Path:
        """Where a teacher's preflight under a view lies."""
        return self.root / "preflight" / f"{fingerprint([teacher, view.content(), self.precision])}.json"

    def calibration(self, key: str) -> Path:
        """Where what a row costs some teacher on some device lies."""
        return self.root / "calibration" / f"{key}.json"


@persistent
def _prepare(folder: Path, *, anchored: bool) -> None:
    """Make the folder, and its anchor if it has one, and try to write there."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"raykd")
    if anchored and not (folder / anchor.NAME).exists():
        Folder(folder).create(anchor.NAME, anchor.TEXT)


def read_json(path: Path, **kinds: type) -> dict[str, Any] | None:
    """The object in a JSON file; None if there is no such file. `kinds`: what must stand in it, as `weights=str`; a float is
    any finite number.

    Raises `ValueError` that names the file if it holds anything else.
    """
    data = read(path)
    if data is None:
        return None
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}): remove it, and it will be made again") from None
    if not isinstance(content, dict):
        raise ValueError(
            f"{path} holds a {type(content).__name__}, not an object: remove it, and it will be made again"
        )
    for name, kind in kinds.items():
        if not (is_number(content.get(name)) if kind is float else isinstance(content.get(name), kind)):
            found = f"{path} has {name}={str(content.get(name))[:60]!r}, which is no {kind.__name__}"
            raise ValueError(f"{found}: remove it, and it will be made again")
    return content


def is_number(value: object) -> bool:
    """Whether something in JSON is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


@persistent
def read(path: Path) -> bytes | None:
    """The bytes of a file; None if there is none. Raises `ValueError` for a pipe, a device, and for more than 4 GiB."""
    try:
        with open_regular(path, limit=LIMIT) as file:
            return file.read()
    except FileNotFoundError:
        require(path)
        return None


@persistent
def exists(path: Path) -> bool:
    """Whether there is such a file."""
    found = path.exists()
    if not found:
        require(path)
    return found


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file whole or not at all."""
    write_text(path, json.dumps(content, indent=1, sort_keys=True))


@persistent
def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    with temporary.open("x") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
