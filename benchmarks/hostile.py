"""Every reader of what lies on a storage, given thousands of damaged files: each one is read, or refused in one line.

    python benchmarks/hostile.py [--cases 1000] [--seed 0] [--only READER]

A case is a good file with flipped bits, another end, other numbers in it, or noise in its place. Of a sealed shard the seal
is made good again, of a memory's file the name, so that what stands behind these checks is reached as well. All run in this
process, which may take 2 GB more than it has at the start, and 20 s a case: whoever starts it sees a crash, a bomb or an
endless loop by how it ends, and the last line says where.

Prints a line for each reader: cases; refused (`ValueError` or `OSError` of one line, or no memory for what it asks for); read
all the same; and escaped, which is any other exception, with its number. Exits with 1 if anything escaped.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import logging
import os
import pickle
import random
import resource
import signal
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from raykd import SGD, Budget, CrossEntropy, Dataset, Pretrained, Stage, View
from raykd.cache import Shard, SignalCache, Slot
from raykd.cache.archive import export_entry, import_entry
from raykd.cache.arrow import from_bytes
from raykd.cache.seal import BLANK, MARK, seal
from raykd.data import CIFAR10, IDX, Arrays, Parquet, decode
from raykd.data.text import Text
from raykd.identity import canonical
from raykd.labeling.preflight import remembered
from raykd.models import MLP, weights
from raykd.places import held, place
from raykd.rebuild import known, rebuild
from raykd.search.memory import Memory
from raykd.search.record import Record
from raykd.storage import Storage
from raykd.training import checkpoint, metrics
from raykd.training.evaluate import evaluated

MEMORY, SECONDS = 2 << 30, 20
Read = Callable[[Path], object]
EPOCH = {"epoch": 0, "lr": 0.1, "loss": 1.0, "terms": {"a": 1.0}, "val_top1": 0.5, "val_nll": 1.0, "seconds": 1.0,
         "rows_per_second": 9.0, "shown": {"gate": {"mean": {"a": 0.5}}}}  # fmt: skip
NETWORK = MLP((4,), classes=3, shape=(5,))
NUMBERS = [0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 40, (1 << 63) - 1, (1 << 64) - 1]


def stage() -> Stage:
    """A stage that trains on a few vectors."""
    rows = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)
    view = View(Dataset(Arrays(rows, np.arange(60) % 3)))
    return Stage(NETWORK, 1.0 * CrossEntropy(), view, budget=Budget(1, optimiser=SGD(lr=0.1)))


def readers(root: Path) -> dict[str, tuple[Path, Read]]:
    """Of each reader a good file, and how a damaged copy of it is read, which lies where it did."""
    found: dict[str, tuple[Path, Read]] = {}
    storage, written = Storage(root / "storage"), stage()
    rng = np.random.default_rng(0)

    def add(name: str, path: Path, data: bytes, read: Read) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        found[name] = path, read

    cache = SignalCache(root / "cache")
    entry = cache.entry({"a": 1}, ids_N=np.arange(40), shape=(6,), rows_per_shard=20)
    for slot in entry.slots(1):
        ids = np.asarray(entry.positions(slot))
        values = rng.normal(size=(20, 6)).astype(np.float32)
        entry.commit(Shard(slot, ids, ids.astype(np.uint64), values))
    export_entry(entry, root / "good.tar")
    shard, header = (entry.path / Slot(0, 0).name).read_bytes(), entry.shards.header(Slot(0, 0))
    add("shard", root / "shard", shard, lambda path: from_bytes(header, path.read_bytes()))
    add("shard, sealed anew", root / "forged", shard, lambda path: from_bytes(header, resealed(path.read_bytes())))
    record = entry.path / "entry.json"
    add("record", record, record.read_bytes(), lambda _: cache.entries())
    tar = (root / "good.tar").read_bytes()
    add("archive", root / "a.tar", tar, lambda path: import_entry(SignalCache(root / f"to-{time.time_ns()}"), path))
    lease = {"owner": "a", "machine": "b", "pid": 1, "start": 2, "lease": "c"}
    add("lease", root / "leases" / "one", json.dumps(lease).encode(), lambda _: held(place(root), "leases/one"))

    folder = storage.folder(written)
    result = {"weights": "0" * 40, "metrics": {"test_top1": 0.5}, "seconds": 1.5}
    add("result.json", folder / "result.json", json.dumps(result).encode(), lambda _: storage.result(written))
    add("metrics.jsonl", folder / "metrics.jsonl", json.dumps(EPOCH).encode() + b"\n", metrics.read)
    body = NETWORK.build().body.state_dict()
    state: dict[str, Any] = {
        "learner": body,
        "optimiser": {"state": {0: body}, "param_groups": [{"lr": 0.1, "betas": (0.9, 0.99)}]},
    }
    state |= {"scaler": {}, "average": None, "history": json.dumps([EPOCH])}
    add("checkpoint.pt", folder / "checkpoint.pt", saved(state), checkpoint.load)
    add("weights, zip", root / "a.pth", saved(body), lambda path: weights.load(str(path), NETWORK))
    add("weights, old", root / "b.pth", saved(body, old=True), lambda path: weights.load(str(path), NETWORK))
    noted = {"architecture": json.dumps(canonical(NETWORK)), "val_top1": "0.5", "metrics": json.dumps({"a": 1.0})}
    weights.save(str(root / "good.safetensors"), body, noted)
    safe = (root / "good.safetensors").read_bytes()
    add("weights, safetensors", root / "a.safetensors", safe, lambda path: weights.load(str(path), NETWORK))
    add("evaluation", root / "b.safetensors", safe, evaluated)
    teacher = Pretrained(NETWORK, str(root / "good.safetensors"))
    tried = {"rows": 9, "accuracy": 0.9, "chance": 0.3, "expected": None}
    path = storage.preflight(teacher, written.view)
    add("preflight", path, json.dumps(tried).encode(), lambda _: remembered(teacher, written.view, storage))
    makers, key = known(root), json.dumps(canonical(NETWORK)).encode()
    add("rebuild", root / "key.json", key, lambda path: rebuild(parsed(path), makers))
    memory = Memory(root / "memory")
    memory.append([Record("0" * 40, "kd", {"tau": 2.0, "kind": "sgd"}, {"rows": 60.0}, (0.1, 0.2), {"val_top1": 0.2})])
    (kept,) = (root / "memory" / "memory" / "v1").glob("*.parquet")
    add(
        "memory, named anew", root / "memory" / "one", kept.read_bytes(), lambda path: remember(root, path.read_bytes())
    )

    images = bytes((0, 0, 8, 3)) + struct.pack(">iii", 6, 2, 3) + bytes(range(36))
    labels = root / "labels"
    labels.write_bytes(bytes((0, 0, 8, 1)) + struct.pack(">i", 6) + bytes(6))
    add("IDX", root / "images", images, lambda path: IDX(str(path), str(labels), shape=(1, 2, 3)).read())
    batch = {b"data": np.zeros((3, 3072), np.uint8), b"labels": [0, 1, 2], b"filenames": ["a", "b", "c"]}
    cifar = CIFAR10("test", str(root / "cifar"))
    pickled = pickle.dumps(batch, protocol=2)
    add("CIFAR, pickled", root / "cifar" / "test_batch", pickled, lambda _: cifar.read())
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    pq.write_table(pa.table({"input": [[1.0, 2.0]] * 9, "label": list(range(9))}), sink)
    add("Parquet", root / "a.parquet", sink.getvalue(), lambda path: Parquet(str(path), shape=(2,), classes=9).read())
    for kind in ("PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP"):
        sink = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (9, 9, 3), np.uint8)).save(sink, kind)
        add(
            f"image, {kind}",
            root / f"a.{kind}",
            sink.getvalue(),
            lambda path: decode.decode(path, (3, 6, 6), name=str(path)),
        )
    text = Text(str(root / "a.txt"), 4, "characters")
    add("text", root / "a.txt", "eine kleine Ärger".encode(), lambda _: text.read())
    return found


def parsed(path: Path) -> Any:
    """As `entry.json` is parsed before a key of it is rebuilt."""
    try:
        return json.loads(path.read_bytes())
    except RecursionError as error:
        raise ValueError(str(error)) from error


def saved(state: object, *, old: bool = False) -> bytes:
    """A file of torch."""
    sink = io.BytesIO()
    torch.save(state, sink, _use_new_zipfile_serialization=not old)
    return sink.getvalue()


def resealed(data: bytes) -> bytes:
    """With a seal that is right, if there is room for one."""
    bad = bytearray(data)
    for place_ in (data.find(MARK), data.rfind(MARK)):
        if place_ >= 0:
            bad[place_ + len(MARK) : place_ + len(MARK) + len(BLANK)] = BLANK
    try:
        seal(bad)
    except (AssertionError, ValueError):  # the damage has hit it
        return data
    return bytes(bad)


def remember(root: Path, data: bytes) -> object:
    """A memory of one file, under the name that its bytes ask for."""
    folder = Path(tempfile.mkdtemp(dir=root))
    path = folder / "memory" / "v1" / f"{hashlib.sha256(data).hexdigest()[:40]}.parquet"
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    found = Memory(folder).look()
    if found.skipped:
        raise ValueError(*found.skipped.values())
    return found


def damaged(good: bytes, generator: random.Random) -> bytes:
    """Other bytes than the good ones, but for chance."""
    bad, where = bytearray(good), generator.randrange(len(good))
    match generator.randrange(7):
        case 0 | 1:
            for _ in range(generator.choice((1, 1, 1, 2, 8))):
                bad[generator.randrange(len(bad))] ^= 1 << generator.randrange(8)
        case 2:
            return good[:where]
        case 3:
            return generator.randbytes(generator.randrange(300))
        case 4 | 5:
            size = generator.choice((1, 2, 4, 8))
            number = generator.choice(NUMBERS) & (1 << 8 * size) - 1
            part = number.to_bytes(size, generator.choice(("little", "big")))
            bad[where : where + size] = part[: len(bad) - where]
        case 6:
            other = generator.randrange(len(good))
            bad[where : where + 16] = good[other : other + 16]
    return bytes(bad)


def one(path: Path, read: Read, bad: bytes) -> str:
    """What became of a case: read, refused, or what escaped."""
    path.write_bytes(bad)
    signal.alarm(SECONDS)  # ends the process
    try:
        read(path)
    except (ValueError, OSError) as error:
        return "refused" if "\n" not in str(error) else f"two lines: {str(error)[:200]!r}"
    except MemoryError:
        return "refused"  # it asked for more than there is, and went on
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    finally:
        signal.alarm(0)
    return "read"


def limit() -> None:
    """Leave this process so much more memory than it has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, resource.RLIM_INFINITY))


def main() -> None:
    """Damage, read, count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=1000, help="of each reader")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="readers whose names begin so")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    escaped = 0
    print(f"{'reader':24} {'cases':>7} {'refused':>7} {'read':>6} {'escaped':>7} {'s':>6}")
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        found = readers(Path(folder))
        for name, (path, read) in found.items():  # imports what it needs before memory is short
            assert one(path, read, path.read_bytes()) == "read", name
        limit()
        for name, (path, read) in found.items():
            if not name.startswith(options.only):
                continue
            good, started = path.read_bytes(), time.perf_counter()
            said: list[str] = []
            print(f"{name:24}", end=" ", flush=True)
            for case in range(options.cases):
                said.append(one(path, read, damaged(good, random.Random(f"{options.seed} {name} {case}"))))
            path.write_bytes(good)
            odd = [(case, what) for case, what in enumerate(said) if what not in ("read", "refused")]
            escaped += len(odd)
            print(
                f"{len(said):7,} {said.count('refused'):7,} {said.count('read'):6,} {len(odd):7,}"
                f" {time.perf_counter() - started:6.1f}",
                *(f"\n  case {case}: {what}" for case, what in odd[:5]),
                flush=True,
            )
    sys.exit(escaped > 0)


if __name__ == "__main__":
    main()
