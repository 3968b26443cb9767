"""Export and import: the same reads on the other side, and nothing taken in that is not whole."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from cache_examples import KEY, entry_of, everything, fill, ids_of, shard_of

from raykd.cache import Entry, SignalCache, Slot
from raykd.cache.archive import export_entry, import_entry
from raykd.cache.arrow import to_bytes
from raykd.cache.codecs import CODECS, DenseF16
from raykd.cache.pins import pin

FORMS = ["published", "published.tar"]
REPLICAS = 2


@pytest.fixture
def entry(tmp_path: Path) -> Entry:
    return fill(entry_of(tmp_path / "cache"), REPLICAS)


def taken(root: Path) -> dict[str, bytes]:
    """All files of a cache."""
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("codec", CODECS, ids=str)
def test_an_export_that_is_imported_reads_identically_in_every_codec(tmp_path, form, codec):
    def opened(root: Path) -> Entry:
        return SignalCache(root).entry(KEY, ids_N=ids_of(10), shape=(4,), codec=codec, rows_per_shard=4)

    entry = fill(opened(tmp_path / "here"), REPLICAS)
    done = export_entry(entry, tmp_path / form)
    assert (done.shards, done.rows, done.bytes) == (6, 20, entry.holdings().bytes)
    got = import_entry(SignalCache(tmp_path / "there"), tmp_path / form)
    assert (got.entry, got.shards, got.rows, got.bytes, got.new) == (entry.key_digest, 6, 20, done.bytes, 6)
    replicas, positions = np.divmod(np.arange(20), 10)
    here, there = (opened(tmp_path / root).open(REPLICAS).take(replicas, positions) for root in ("here", "there"))
    assert here.keys() == there.keys()
    assert all(np.array_equal(here[name].numpy(), there[name].numpy()) for name in here)


@pytest.mark.parametrize("form", FORMS)
def test_importing_twice_is_importing_once(tmp_path, entry, form):
    export_entry(entry, tmp_path / form)
    there = SignalCache(tmp_path / "there")
    import_entry(there, tmp_path / form)
    before = taken(tmp_path / "there")
    assert import_entry(there, tmp_path / form).new == 0
    assert taken(tmp_path / "there") == before
    assert import_entry(SignalCache(tmp_path / "cache"), tmp_path / form).new == 0


def test_shards_that_are_there_already_stay_as_they_are(tmp_path, entry):
    export_entry(entry, tmp_path / "published")
    mine = entry_of(tmp_path / "there")
    assert mine.commit(shard_of(mine, Slot(1, 1), shift=0.5))
    before = (mine.path / Slot(1, 1).name).read_bytes()
    assert import_entry(SignalCache(tmp_path / "there"), tmp_path / "published").new == 5
    assert (mine.path / Slot(1, 1).name).read_bytes() == before


def test_an_archive_holds_the_record_the_shards_and_their_sums_and_nothing_else(tmp_path, entry):
    pin(entry, "ann")
    entry.open(REPLICAS)
    with entry.lease(Slot(0, 0)):
        export_entry(entry, tmp_path / "published")
        export_entry(entry, tmp_path / "published.tar")
    wanted = {"entry.json", "SHA256SUMS", *(slot.name for slot in entry.slots(REPLICAS))}
    found = {
        p.relative_to(tmp_path / "published").as_posix() for p in (tmp_path / "published").rglob("*") if p.is_file()
    }
    assert found == wanted
    with tarfile.open(tmp_path / "published.tar") as tar:
        assert set(tar.getnames()) == {f"{entry.key_digest}/{name}" for name in wanted}
    assert not list(tmp_path.glob(".*"))


def test_equal_entries_are_equal_archives(tmp_path, entry):
    export_entry(entry, tmp_path / "a.tar")
    export_entry(fill(entry_of(tmp_path / "other"), REPLICAS), tmp_path / "b.tar")
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="needs coreutils")
def test_coreutils_check_an_archive_in_either_form(tmp_path, entry):
    export_entry(entry, tmp_path / "published")
    export_entry(entry, tmp_path / "published.tar")
    subprocess.run(["tar", "-xf", "published.tar"], cwd=tmp_path, check=True)
    for folder in (tmp_path / "published", tmp_path / entry.key_digest):
        check = ["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"]
        subprocess.run(check, cwd=folder, check=True)
        shard = folder / Slot(0, 1).name
        shard.write_bytes(shard.read_bytes()[:-1])
        assert subprocess.run(check, cwd=folder, check=False, capture_output=True).returncode == 1


def test_plain_pyarrow_reads_an_export(tmp_path, entry):
    export_entry(entry, tmp_path / "published")
    tables = [
        pa.ipc.open_file(path).read_all() for path in sorted((tmp_path / "published" / "views").glob("*/*.arrow"))
    ]
    table = pa.concat_tables([table.replace_schema_metadata() for table in tables])
    assert table.column_names == ["id", "checksum", "values"]
    assert table["id"].to_pylist() == ids_of(10).tolist() * REPLICAS
    assert np.array_equal(np.array(table["values"].to_pylist(), np.float32), everything(entry, REPLICAS))


@pytest.mark.parametrize("form", FORMS)
def test_nothing_is_written_over(tmp_path, entry, form):
    (tmp_path / form).write_text("mine")
    with pytest.raises(ValueError, match="exists"):
        export_entry(entry, tmp_path / form)
    assert (tmp_path / form).read_text() == "mine"


@pytest.mark.parametrize("form", FORMS)
def test_an_entry_that_lacks_shards_is_exported_only_if_asked_for(tmp_path, entry, form):
    (entry.path / Slot(1, 1).name).unlink()
    with pytest.raises(ValueError, match="lacks 1 shards of its 2 replicas"):
        export_entry(entry, tmp_path / form)
    assert not (tmp_path / form).exists()
    assert export_entry(entry, tmp_path / form, incomplete=True).shards == 5
    assert import_entry(SignalCache(tmp_path / "there"), tmp_path / form).new == 5
    there = entry_of(tmp_path / "there")
    assert there.missing(REPLICAS) == [Slot(1, 1)]
    with pytest.raises(ValueError, match="no shard yet"):
        export_entry(entry_of(tmp_path / "empty"), tmp_path / "empty.tar", incomplete=True)


@pytest.mark.parametrize("form", FORMS)
def test_a_corrupt_shard_is_not_published(tmp_path, entry, form):
    shard = entry.path / Slot(0, 0).name
    data = bytearray(shard.read_bytes())
    data[700] ^= 1
    shard.write_bytes(data)
    with pytest.raises(ValueError, match=r"00000000\.arrow: its bytes have the checksum.*raykd cache verify"):
        export_entry(entry, tmp_path / form)
    assert not (tmp_path / form).exists()
    assert not list(tmp_path.glob(".*"))


def test_an_entry_cut_into_other_shards_is_refused(tmp_path, entry):
    export_entry(entry, tmp_path / "published")
    entry_of(tmp_path / "there", rows_per_shard=5)
    before = taken(tmp_path / "there")
    with pytest.raises(ValueError, match=r"its shards have 4 rows, those of the same entry in .* have 5"):
        import_entry(SignalCache(tmp_path / "there"), tmp_path / "published")
    assert taken(tmp_path / "there") == before


A, B = Slot(0, 0).name, Slot(1, 0).name
Tamper = Callable[[Path], object]


def flip(folder: Path, name: str, place: int) -> None:
    data = bytearray((folder / name).read_bytes())
    data[place % len(data)] ^= 1 << (place % 8)
    (folder / name).write_bytes(data)


def resum(folder: Path) -> None:
    """A forger's sums, which fit."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "SHA256SUMS"]
    lines = [f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.relative_to(folder).as_posix()}\n" for p in files]
    (folder / "SHA256SUMS").write_text("".join(lines))


def forged(change: Tamper) -> Tamper:
    def both(folder: Path) -> None:
        change(folder)
        resum(folder)

    return both


def swap(folder: Path) -> None:
    a, b = (folder / A).read_bytes(), (folder / B).read_bytes()
    (folder / A).write_bytes(b)
    (folder / B).write_bytes(a)


def grow(folder: Path) -> None:
    with (folder / A).open("ab") as file:
        file.write(b"\0" * (1 << 20))


def link(folder: Path) -> None:
    data = (folder / A).read_bytes()
    (folder / A).unlink()
    (folder.parent / "outside").write_bytes(data)
    (folder / A).symlink_to(folder.parent / "outside")


def other_entry(folder: Path) -> None:
    """A shard of another teacher, whose own seal is good."""
    other = fill(entry_of(folder.parent / "other", key={**KEY, "teacher": "another"}), 1)
    shutil.copy(other.path / A, folder / A)


def reseal(*slots: Slot) -> Tamper:
    """Good seals over the rows in another order."""

    def reversed_rows(folder: Path) -> None:
        shards = entry_of(folder.parent / "cache").shards
        for slot in slots:
            rows = shards.read(slot)
            (folder / slot.name).write_bytes(
                to_bytes(shards.header(slot), replace(rows, ids_R=rows.ids_R[::-1].copy()))
            )

    return reversed_rows


def longer(folder: Path) -> None:
    """A record of the same key, whose own checksum is good, that speaks of more rows."""
    record = replace(entry_of(folder.parent / "cache").record, rows=11)
    (folder / "entry.json").write_bytes(record.to_bytes())


def edited(folder: Path) -> None:
    path = folder / "entry.json"
    path.write_text(path.read_text().replace("resnet-110", "resnet-111"))


def hostile(folder: Path) -> None:
    (folder / "entry.json").write_text('{"checksum": ' + "[" * 5000 + "]" * 5000 + "}")


def line(text: str) -> Tamper:
    return lambda folder: (folder / "SHA256SUMS").write_text((folder / "SHA256SUMS").read_text() + text)


TAMPERED: dict[str, Tamper] = {
    **{f"bit {place} of a shard": lambda folder, place=place: flip(folder, A, place) for place in (0, 99, 701, -9)},
    **{
        f"bit {place} of a shard, forged": forged(lambda f, place=place: flip(f, A, place))
        for place in (0, 99, 701, -9)
    },
    "bit of the record": lambda folder: flip(folder, "entry.json", 333),
    "bit of the record, forged": forged(lambda folder: flip(folder, "entry.json", 333)),
    "bit of the sums": lambda folder: flip(folder, "SHA256SUMS", 10),
    "other key, forged": forged(edited),
    "more rows, forged": forged(longer),
    "row ids of a shard, forged": forged(reseal(Slot(1, 0))),
    "row ids of all replicas, forged": forged(reseal(Slot(0, 1), Slot(1, 1))),
    "deep record, forged": forged(hostile),
    "no record": lambda folder: (folder / "entry.json").unlink(),
    "no record, forged": forged(lambda folder: (folder / "entry.json").unlink()),
    "no sums": lambda folder: (folder / "SHA256SUMS").unlink(),
    "empty sums": lambda folder: (folder / "SHA256SUMS").write_text(""),
    "binary sums": lambda folder: (folder / "SHA256SUMS").write_bytes(b"\xff\xfe\0"),
    "sums of nothing": line(f"{'0' * 64}  views/00000/00000009.arrow\n"),
    "sums twice": lambda folder: line((folder / "SHA256SUMS").read_text())(folder),
    "no shards, forged": forged(lambda folder: shutil.rmtree(folder / "views")),
    "a shard less": lambda folder: (folder / A).unlink(),
    "a file more": lambda folder: (folder / "views/00000/00000009.arrow").write_bytes(b"x"),
    "a file more, forged": forged(lambda folder: (folder / "views/00000/00000009.arrow").write_bytes(b"x")),
    "a stranger, forged": forged(lambda folder: (folder / "setup.py").write_text("x")),
    "a hidden file, forged": forged(lambda folder: (folder / "views/.x.tmp").write_text("x")),
    "a lease, forged": forged(lambda folder: ((folder / "leases").mkdir(), (folder / "leases/00000-00000000").touch())),
    "two shards swapped": swap,
    "two shards swapped, forged": forged(swap),
    "a shard cut, forged": forged(lambda folder: os.truncate(folder / A, 900)),
    "a shard emptied, forged": forged(lambda folder: os.truncate(folder / A, 0)),
    "a shard too large, forged": forged(grow),
    "a shard of another entry, forged": forged(other_entry),
    "a link": link,
    "a link, forged": forged(link),
    "a pipe": lambda folder: os.mkfifo(folder / "views/00000/00000007.arrow"),
}


def packed(folder: Path, key: str) -> Path:
    """The same as a tar file."""
    path = folder.with_suffix(".tar")
    with tarfile.open(path, "x") as tar:
        for file in sorted(folder.rglob("*")):
            if not file.is_dir() or file.is_symlink():
                tar.add(file, f"{key}/{file.relative_to(folder).as_posix()}", recursive=False)
    return path


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", TAMPERED)
def test_whatever_is_tampered_with_is_refused_and_nothing_is_committed(tmp_path, entry, form, kind):
    folder = tmp_path / "published"
    export_entry(entry, folder)
    TAMPERED[kind](folder)
    path = packed(folder, entry.key_digest) if form.endswith(".tar") else folder
    with pytest.raises(ValueError, match=f"{path} is not taken in: ") as refused:
        import_entry(SignalCache(tmp_path / "there"), path)
    assert len(str(refused.value).splitlines()) == 1
    assert not (tmp_path / "there" / "v1").exists()


def _member(name: str, **fields: object) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(member, field, value)
    return member


EVIL = [
    lambda key: _member("/etc/passwd"),
    lambda key: _member(f"{key}/../../evil"),
    lambda key: _member(f"../{key}/{A}"),
    lambda key: _member(f"{key}//entry.json"),
    lambda key: _member(A),
    lambda key: _member(f"{'0' * 40}/{A}"),
    lambda key: _member(f"{key}/{A}"),  # twice
    lambda key: _member(f"{key}/views/00000/00000009.arrow", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
    lambda key: _member(f"{key}/views/00000/00000009.arrow", type=tarfile.LNKTYPE, linkname=f"{key}/{A}"),
    lambda key: _member(f"{key}/views/00000/00000009.arrow", type=tarfile.CHRTYPE),
    lambda key: _member(f"{key}/views", type=tarfile.DIRTYPE),
]


@pytest.mark.parametrize("evil", range(len(EVIL)))
def test_a_tar_file_with_a_member_that_has_no_business_there_is_refused(tmp_path, entry, evil):
    path = tmp_path / "published.tar"
    export_entry(entry, path)
    with tarfile.open(path, "a") as tar:
        tar.addfile(EVIL[evil](entry.key_digest), io.BytesIO())
    with pytest.raises(ValueError, match="is not taken in"):
        import_entry(SignalCache(tmp_path / "there"), path)
    assert not (tmp_path / "there" / "v1").exists()
    assert not (tmp_path.parent / "evil").exists()


def test_a_tar_file_cut_anywhere_is_refused_and_nothing_is_committed(tmp_path, entry):
    path = tmp_path / "published.tar"
    export_entry(entry, path)
    data = path.read_bytes()
    with tarfile.open(path) as tar:
        end = max(member.offset_data + member.size for member in tar)
    for size in [0, 1, 511, 512, 513, *np.linspace(514, end - 1, 40).astype(int).tolist()]:
        path.write_bytes(data[:size])
        with pytest.raises(ValueError, match="is not taken in"):
            import_entry(SignalCache(tmp_path / "there"), path)
        assert not (tmp_path / "there" / "v1").exists()


def test_a_bit_flipped_anywhere_in_a_tar_file_is_refused_or_changes_nothing(tmp_path, entry):
    path = tmp_path / "published.tar"
    export_entry(entry, path)
    data = path.read_bytes()
    drawn = np.random.default_rng(0)
    for number in range(80):
        changed = bytearray(data)
        changed[drawn.integers(len(data))] ^= 1 << drawn.integers(8)
        path.write_bytes(changed)
        root = tmp_path / f"there{number}"
        try:
            import_entry(SignalCache(root), path)
        except ValueError:
            assert not (root / "v1").exists()
        else:  # in the padding between members, which says nothing
            there = entry_of(root)
            assert there.missing(REPLICAS) == []


@pytest.mark.parametrize("what", ["nothing", "noise", "empty"])
def test_what_is_no_archive_is_refused(tmp_path, what):
    path = tmp_path / "x"
    if what == "noise":
        path.write_bytes(os.urandom(3000))
    if what == "empty":
        path.mkdir()
    with pytest.raises(ValueError, match=f"{path} is not taken in"):
        import_entry(SignalCache(tmp_path / "there"), path)


def test_an_archive_in_a_codec_that_is_not_known_is_refused(tmp_path, monkeypatch):
    class Later(DenseF16):
        version = 2

    entry = SignalCache(tmp_path).entry(KEY, ids_N=ids_of(10), shape=(4,), codec=Later(), rows_per_shard=4)
    export_entry(fill(entry, 1), tmp_path / "published")
    with pytest.raises(ValueError, match="which this version of raykd does not know"):
        import_entry(SignalCache(tmp_path / "there"), tmp_path / "published")
