"""What lies on a storage is data: it is read or refused, never run, and no name in it leads out of the storage.

Damage by chance is `benchmarks/hostile.py`, of which a little runs here. These are the crafted files.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import resource
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny
import torch
from rich.console import Console

from raykd import Pretrained
from raykd.cache import CorruptShard, Shard, SignalCache, Slot
from raykd.cache.archive import export_entry, import_entry
from raykd.cache.arrow import from_bytes
from raykd.cache.record import Record
from raykd.cache.seal import seal
from raykd.cli_options import OUT
from raykd.data import CIFAR10, IDX, ImageFolder, Parquet, decode
from raykd.identity import canonical
from raykd.labeling.preflight import remembered
from raykd.models import MLP, weights
from raykd.origin import _is_there
from raykd.places import Folder, check_address, held, place
from raykd.printable import printable
from raykd.rebuild import known, rebuild
from raykd.runtime import open_storage
from raykd.search.memory import SCHEMA, Memory
from raykd.storage import Storage, read_json
from raykd.training import checkpoint, metrics

ROOT = Path(__file__).parent.parent
NETWORK = MLP((4,), classes=3, shape=(5,))
DEEP = b"[" * 100_000
HUGE_INT = b'{"seconds": ' + b"9" * 1_000_000 + b"}"
GOOD = {"learner": {}, "optimiser": {}, "scaler": {}, "average": None, "history": "[]"}


def refused(read: Callable[[], object], *words: str) -> None:
    with pytest.raises((ValueError, OSError)) as error:
        read()
    message = str(error.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


def entry_in(root: Path) -> Any:
    """An entry of one shard of four rows."""
    entry = SignalCache(root).entry({"a": 1}, ids_N=np.arange(4), shape=(4,), rows_per_shard=4)
    entry.commit(Shard(Slot(0, 0), np.arange(4), np.arange(4, dtype=np.uint64), np.ones((4, 4), np.float32)))
    return entry


def test_damaged_files_are_read_or_refused_in_one_line_within_bounded_memory_and_time() -> None:
    command = [sys.executable, "-W", "ignore", str(ROOT / "benchmarks" / "hostile.py"), "--cases", "25"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=200, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert len(done.stdout.splitlines()) > 20


class Bomb:
    """Leaves a mark where it is run."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.mark}",)


def cifar(path: Path) -> object:
    (path.parent / "cifar").mkdir()
    path.rename(path.parent / "cifar" / "test_batch")
    return CIFAR10("test", str(path.parent / "cifar")).read()


PICKLES = {
    "checkpoint": checkpoint.load,
    "weights": lambda path: weights.load(str(path), NETWORK),
    "cifar": cifar,
}


@pytest.mark.parametrize("reader", PICKLES)
@pytest.mark.parametrize("form", ["zip", "old", "plain 2", "plain 5"])
def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path, reader: str, form: str) -> None:
    path, state = tmp_path / "a.pt", {**GOOD, "history": Bomb(tmp_path / "mark"), b"data": Bomb(tmp_path / "mark")}
    if form.startswith("plain"):
        path.write_bytes(pickle.dumps(state, protocol=int(form[-1])))
    else:
        torch.save(state, path, _use_new_zipfile_serialization=form == "zip")
    refused(lambda: PICKLES[reader](path))
    assert not (tmp_path / "mark").exists()


def laughs(levels: int = 40) -> bytes:
    """A dictionary whose one key is a tuple of two tuples of two tuples ..., 2^40 in all, in 160 bytes."""
    return b"\x80\x02})" + b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(levels)) + b"Ns."


def zipped(content: bytes, **how: Any) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", **how) as archive:
        archive.writestr("a/data.pkl", content)
        archive.writestr("a/version", "3\n")
        archive.writestr("a/byteorder", "little")
    return sink.getvalue()


CRAFTED = {
    "its hash never ends": laughs(),
    "its hash recurses a million times": b"\x80\x02})" + b"\x85" * 1_000_000 + b"Ns.",
    "a memo of 2^32 places": b"\x80\x02Nr\xff\xff\xff\xff.",
    "a text of 2^62 bytes": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 62) + b"a.",
}


@pytest.mark.parametrize("what", CRAFTED)
@pytest.mark.parametrize("reader", PICKLES)
@pytest.mark.parametrize("form", [bytes, zipped], ids=["bare", "zip"])
def test_a_pickle_of_plain_values_that_would_end_the_process_is_refused(
    tmp_path: Path, reader: str, what: str, form: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(form(CRAFTED[what]))
    refused(lambda: PICKLES[reader](path))


@pytest.mark.parametrize("reader", ["checkpoint", "weights"])
def test_a_torch_file_that_unpacks_to_more_than_it_has_is_refused(tmp_path: Path, reader: str) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(zipped(pickle.dumps(bytes(10_000_000), 2), compression=zipfile.ZIP_DEFLATED))
    refused(lambda: PICKLES[reader](path), "a.pt", "its members")
    for tensor in (torch.zeros(1).expand(10**12), torch.zeros(3, device="meta"), torch.zeros(3).to_sparse()):
        torch.save({**GOOD, "learner": {"a": tensor}, "body.0.weight": tensor}, path)
        refused(lambda: PICKLES[reader](path), "a.pt")


def test_a_shard_that_is_compressed_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    header = entry_in(tmp_path).shards.header(Slot(0, 0))
    schema = header.schema().with_metadata(header.metadata())
    columns = [np.zeros(4, np.int64), np.zeros(4, np.uint64)]
    arrays = [
        *map(pa.array, columns),
        pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(16, np.float16)), type=schema[2].type),
    ]
    for compression in ("lz4", "zstd", None):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as file:
            file.write_batch(pa.record_batch(arrays, schema=schema))
        data = bytearray(sink.getvalue())
        seal(data)
        if compression is None:
            assert len(from_bytes(header, data).ids_R) == 4
        else:
            with pytest.raises(CorruptShard, match="compressed"):
                from_bytes(header, data)


def test_an_extension_type_in_a_shard_is_not_loaded(tmp_path: Path) -> None:
    header = entry_in(tmp_path).shards.header(Slot(0, 0))
    payload = pickle.dumps(Bomb(tmp_path / "mark"))
    extension = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": payload}
    schema = pa.schema([pa.field("id", pa.int64(), False, extension)], header.metadata())
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema) as file:
        file.write_batch(pa.record_batch([pa.array([1, 2, 3, 4])], schema=schema))
    data = bytearray(sink.getvalue())
    seal(data)
    with pytest.raises(CorruptShard):
        from_bytes(header, data)
    assert not (tmp_path / "mark").exists()


RECORDS: list[dict[str, Any]] = [
    {"shape": 4},
    {"shape": [4] * 100},
    {"shape": [10**400]},
    {"shape": [4], "codec": {"is": "TopKU8", "version": 1, "of": {"k": 10**400}}},
    {"shape": [2, 2], "codec": canonical(__import__("raykd.cache.codecs", fromlist=["TopKU8"]).TopKU8())},
    {"shape": [4], "codec": {"is": ["a"]}},
    {"shape": [4]},
]


@pytest.mark.parametrize("key", RECORDS, ids=lambda key: str(key)[:40])
def test_a_record_that_is_none_hides_no_other_entry(tmp_path: Path, key: dict[str, Any]) -> None:
    good = entry_in(tmp_path)
    forged = Record.__new__(Record)
    for name, value in {"key": key, "rows": 10**18 if "codec" in key else 4, "rows_per_shard": 4, "about": {}}.items():
        object.__setattr__(forged, name, value)
    path = tmp_path / "v1" / forged.name[:2] / forged.name / "entry.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(forged.to_bytes())
    listed = SignalCache(tmp_path).entries()
    assert good.key_digest in {entry.key_digest for entry in listed}
    for entry in listed:
        holds = entry.key_digest == good.key_digest
        assert entry.holdings().shards == ({0: 1} if holds else {})
        if entry.codec is not None:
            assert entry.verify().shards == holds


@pytest.mark.parametrize(
    "data", [DEEP, HUGE_INT, b"\xff\xfe", b"[]", b"NaN", b'{"weights": 3}', b""], ids=lambda d: str(d[:12])
)
def test_json_of_any_kind_is_refused_with_its_file_named(tmp_path: Path, data: bytes) -> None:
    storage, stage = Storage(tmp_path), tiny.student()
    path = storage.folder(stage) / "result.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    refused(lambda: storage.result(stage), str(path))
    (tmp_path / "metrics.jsonl").write_bytes(data or b"{}")
    refused(lambda: metrics.read(tmp_path / "metrics.jsonl"), "metrics.jsonl", "line 1")
    (tmp_path / "leases").mkdir()
    (tmp_path / "leases" / "a").write_bytes(data[:4000])
    assert held(place(tmp_path), "leases/a")  # by whoever wrote it a moment ago


@pytest.mark.parametrize(
    "found", [{"rows": 0}, {"accuracy": float("nan")}, {"chance": 7}, {"rows": True, "chance": "x"}]
)
def test_a_preflight_that_is_none_is_refused(tmp_path: Path, found: dict[str, Any]) -> None:
    storage, view = Storage(tmp_path), tiny.student().view
    weights.save(str(tmp_path / "a.safetensors"), NETWORK.build().body.state_dict(), {})
    teacher = Pretrained(NETWORK, str(tmp_path / "a.safetensors"))
    path = storage.preflight(teacher, view)
    path.parent.mkdir()
    path.write_text(json.dumps({"rows": 9, "accuracy": 0.5, "chance": 0.1, "expected": None} | found))
    refused(lambda: remembered(teacher, view, storage), path.name)


@pytest.mark.parametrize("metadata", [b"3", b'["a"]', b'{"a": 3}', b'{"architecture": "' + DEEP + b'"}', DEEP])
def test_metadata_of_weights_are_texts_or_refused(tmp_path: Path, metadata: bytes) -> None:
    state = safetensors_header(NETWORK.build().body.state_dict(), metadata)
    (tmp_path / "a.safetensors").write_bytes(state)
    refused(lambda: weights.load(str(tmp_path / "a.safetensors"), NETWORK), "a.safetensors")


def safetensors_header(tensors: Any, metadata: bytes) -> bytes:
    import safetensors.torch

    content = safetensors.torch.save(dict(tensors))
    size = int.from_bytes(content[:8], "little")
    header = b'{"__metadata__": ' + metadata + b"," + content[9 : 8 + size]
    return len(header).to_bytes(8, "little") + header + content[8 + size :]


def test_a_memory_that_unpacks_to_much_more_than_it_has_is_skipped(tmp_path: Path) -> None:
    import hashlib

    rows = 1_000_000
    columns = {name: pa.nulls(rows, SCHEMA.field(name).type) for name in SCHEMA.names}
    sink = io.BytesIO()
    pq.write_table(pa.table(columns, schema=SCHEMA), sink)
    name = hashlib.sha256(sink.getvalue()).hexdigest()[:40]
    Memory(tmp_path).place.create(f"{name}.parquet", sink.getvalue())
    (said,) = Memory(tmp_path).look().skipped.values()
    assert "say that they are" in said


def test_a_pipe_or_a_device_in_the_place_of_a_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    pipe, device = tmp_path / "pipe", tmp_path / "device"
    os.mkfifo(pipe)
    device.symlink_to("/dev/zero")
    (tmp_path / "cat").mkdir()
    os.mkfifo(tmp_path / "cat" / "a.png")
    for path in (pipe, device):
        for read in (read_json, metrics.read, checkpoint.load, lambda path: weights.load(str(path), NETWORK)):
            refused(lambda read=read, path=path: read(path), str(path))
        refused(lambda path=path: decode.decode(path, (3, 4, 4), name=str(path)), str(path))
    refused(lambda: ImageFolder(str(tmp_path), size=4).load(), "a.png")


def test_a_picture_in_postscript_is_not_handed_to_another_program(tmp_path: Path) -> None:
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"
    refused(lambda: decode.decode(postscript, (3, 4, 4), name="a.png"), "a.png", "no known image format")


def test_links_that_lead_in_a_circle_end(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "again").symlink_to(tmp_path / "cat")
    refused(lambda: ImageFolder(str(tmp_path), size=4).load(), "deep")


def test_sizes_below_zero_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes((0, 0, 8, 3)) + struct.pack(">iii", 4, -2, -3) + bytes(24))
    (tmp_path / "b").write_bytes(bytes((0, 0, 8, 1)) + struct.pack(">i", 4) + bytes(4))
    refused(lambda: IDX(str(tmp_path / "a"), str(tmp_path / "b"), shape=(1, 2, 3)).read(), "header")


PLACES = [
    {"is": "ImageFolder", "version": 1, "of": {"folder": "/etc", "size": 8}},
    {"is": "Parquet", "version": 1, "of": {"path": "http://example.invalid/a", "shape": [3], "classes": 2}},
    {"is": "Text", "version": 1, "of": {"files": ["/etc/passwd"], "length": 4}},
    {"is": "FashionMNIST", "version": 1, "of": {"split": "train", "folder": "/etc"}},
    {"is": "IDX", "version": 1, "of": {"images": "/dev/zero", "labels": "/dev/zero"}},
    {"is": "Arrays", "version": 1, "of": {"classes": 2, "shape": [3], "revision": "../../../../etc/passwd"}},
    {"is": "Custom", "version": 1, "of": {"function": "os:system"}},
]


@pytest.mark.parametrize("content", PLACES, ids=lambda content: content["is"])
def test_a_key_names_no_place_and_no_code(
    tmp_path: Path, content: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(Path, "open", lambda self, *_: opened.append(str(self)))
    refused(lambda: rebuild(content, known(tmp_path)))
    assert not [path for path in opened if path.startswith("/etc")]


def test_a_key_of_any_depth_or_type_is_refused(tmp_path: Path) -> None:
    deep: Any = 1
    for _ in range(5000):
        deep = [deep]
    network = {"is": "MLP", "version": 1, "of": {"hidden": deep}}
    dataset = {"is": "Dataset", "version": 1, "of": {"source": 3}}
    for content in (network, dataset, {"is": [], "version": 1, "of": {}}, {"is": "MLP", "version": 1, "of": {"a": 1}}):
        refused(lambda content=content: rebuild(content, known(tmp_path)))


@pytest.mark.parametrize(
    "path", ["http://169.254.169.254/latest", "ssh://host/a", "filecache::s3://a/b", "s3::http://a", "/dev/zero", "\0"]
)
def test_where_a_record_says_that_weights_are_is_not_followed_anywhere(path: str) -> None:
    assert not _is_there(path)


@pytest.mark.parametrize("name", ["../escaped", "/tmp/escaped", "views/../../a", "entry.json/../../b", "a\0b"])
def test_an_archive_of_other_names_is_refused_whole(tmp_path: Path, name: str) -> None:
    import tarfile

    entry = entry_in(tmp_path / "from")
    export_entry(entry, tmp_path / "a.tar")
    with tarfile.open(tmp_path / "a.tar", "a") as tar:
        member = tarfile.TarInfo(f"{entry.key_digest}/{name}")
        tar.addfile(member, io.BytesIO(b""))
    refused(lambda: import_entry(SignalCache(tmp_path / "to"), tmp_path / "a.tar"), "not taken in")
    assert not (tmp_path / "to").exists()


def test_an_archive_of_headers_that_lead_to_headers_is_refused(tmp_path: Path) -> None:
    import tarfile

    long_name = tarfile.TarInfo("a")
    long_name.type, long_name.size = tarfile.GNUTYPE_LONGNAME, 0
    (tmp_path / "a.tar").write_bytes(long_name.tobuf(tarfile.GNU_FORMAT) * 5000)
    refused(lambda: import_entry(SignalCache(tmp_path / "to"), tmp_path / "a.tar"), "not taken in")


def test_what_lies_behind_a_link_is_not_swept(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    mine = tmp_path / "elsewhere" / ".mine.tmp"
    mine.touch()
    os.utime(mine, (0, 0))
    (tmp_path / "storage").mkdir()
    (tmp_path / "storage" / "views").symlink_to(tmp_path / "elsewhere")
    Folder(tmp_path / "storage").sweep("views")
    assert mine.exists()
    Folder(tmp_path / "elsewhere").sweep("")
    assert not mine.exists()


def test_a_terminal_sees_no_escape_sequence_from_data(capsys: pytest.CaptureFixture[str]) -> None:
    sink = io.StringIO()
    console = type(OUT)(file=sink, width=80, force_terminal=False)
    console.print("a\x1b]0;title\x07 \x1b[2J\u202e b", markup=False)
    assert "\x1b" not in sink.getvalue()
    assert "\u202e" not in sink.getvalue()
    assert printable("Zürich, 東京") == "Zürich, 東京"
    assert isinstance(console, Console)


SECRET = "hunter2hunter2"
URLS = [
    f"s3://key:{SECRET}@bucket/a",
    f"memory://{SECRET}@bucket/a",
    f"https://host/a?X-Amz-Signature={SECRET}",
    f"https://host/a?x=1&access_token={SECRET}",
    f"abfs://c@account/a?sig={SECRET}",
]


@pytest.mark.parametrize("url", URLS)
def test_a_url_with_a_secret_is_refused_without_repeating_it(tmp_path: Path, url: str) -> None:
    routes: list[Callable[[], object]] = [
        lambda: check_address(url),
        lambda: place(url) if not url.startswith("https") else check_address(url),
        lambda: open_storage(url),
        lambda: Parquet(url, shape=(3,), classes=2),
        lambda: Pretrained(NETWORK, url).digest,
        lambda: weights.metadata(url),
    ]
    for route in routes:
        with pytest.raises(ValueError, match=r".") as error:
            route()
        assert SECRET not in str(error.value)


@pytest.mark.parametrize("url", ["s3://bucket/a", "https://host/a?download=true", "/a@b?key", "memory://x/y@z"])
def test_other_addresses_pass(url: str) -> None:
    check_address(url)


def test_no_secret_of_the_environment_is_found_on_the_storage_or_in_what_is_said(
    raykd: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "HF_TOKEN",
        "GOOGLE_APPLICATION_CREDENTIALS",
        "WANDB_API_KEY",
    ):
        monkeypatch.setenv(name, SECRET)
    monkeypatch.setenv("FSSPEC_MEMORY", json.dumps({"secret": SECRET}))
    target = f"{ROOT / 'tests' / 'tiny_jobs.py'}:kd"
    cache = ["--cache", f"memory://{tmp_path.name}/cache"]
    said = [
        raykd("plan", target, "--epochs", "1", "--json", *cache),
        raykd("run", target, "--epochs", "1", "--local", "--json", "--any-teacher", "--no-baseline", *cache),
        raykd("cache", "ls", "--json", *cache),
        raykd("cite", target),
    ]
    assert [each.code for each in said] == [0, 0, 0, 0], said[1].err
    bad = raykd("run", target, "--local", "--cache", f"memory://user:{SECRET}@bucket/cache")
    assert bad.code == 2
    for each in (*said, bad):
        assert SECRET not in each.out + each.err
    import fsspec

    files = [path for path in (tmp_path / "storage").rglob("*") if path.is_file()]
    assert len(files) > 8
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]
    remote = fsspec.filesystem("memory")
    names = remote.find(f"/{tmp_path.name}")
    assert names
    assert not [name for name in names if SECRET.encode() in remote.cat_file(name)]


def test_a_bounded_process_reads_a_header_of_a_billion_rows(tmp_path: Path) -> None:
    """A file that says it is huge costs no more than it has."""
    (tmp_path / "a").write_bytes((10**8 - 1).to_bytes(8, "little") + b'{"a":' + b" " * 1000)
    (tmp_path / "b").write_bytes(bytes((0, 0, 8, 3)) + struct.pack(">iii", 2**31 - 1, 28, 28) + bytes(100))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(lambda: weights.load(str(tmp_path / "a"), NETWORK), "truncated")
    refused(lambda: IDX(str(tmp_path / "b"), str(tmp_path / "b")).read(), "header")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


def test_a_stage_of_weights_that_claim_to_be_huge_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "sparse.safetensors").open("wb") as file:
        file.truncate(1 << 40)
    refused(lambda: weights.load(str(tmp_path / "sparse.safetensors"), NETWORK), "more than")
