"""raykd cache: what teachers said, looked at and looked after.

ls | verify | gc | pin | unpin | export | import          --storage FOLDER, or --cache FOLDER|URL for its own place
"""

from __future__ import annotations

import getpass
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import click

from raykd import report
from raykd.cache import Entry, SignalCache
from raykd.cache.archive import Moved, export_entry, import_entry
from raykd.cache.gc import Collection, collect
from raykd.cache.pins import find, pin, unpin
from raykd.cli_options import CACHE, JSON, OUT, STORAGE, OfTarget, print_json, selection_of
from raykd.origin import Origin, from_key, from_stage
from raykd.probe import Probe, probe
from raykd.runtime import open_storage
from raykd.stage import Stage
from raykd.storage import Storage

ENTRY = click.argument("entry", metavar="ENTRY")


class Amount(click.ParamType[float]):
    """A number with a unit."""

    def __init__(self, name: str, units: dict[str, int], example: str):
        self.name = name
        self.units = units
        self.example = example

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """In bytes, or in seconds."""
        match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?([A-Za-z]*)", str(value))
        if match is None or match[2].lower() not in self.units:
            self.fail(f"{value!r} is no {self.name}: {self.example} would be right", param, ctx)
        return float(match[1]) * self.units[match[2].lower()]


PREFIXES = ("k", "m", "g", "t", "p")
SIZE = Amount(
    "size",
    {"": 1, "b": 1}
    | {f"{prefix}{b}": 1000 ** (i + 1) for i, prefix in enumerate(PREFIXES) for b in ("", "b")}
    | {f"{prefix}i{b}": 1024 ** (i + 1) for i, prefix in enumerate(PREFIXES) for b in ("", "b")},
    "500MB, 10GB, 1TiB or 0",
)
DURATION = Amount("duration", {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}, "90s, 30m, 1h, 7d or 0")
NAME = click.option(
    "--name", default=None, metavar="NAME",
    help="For whom: a person, a project, a run. By default you.",
)  # fmt: skip


@click.group()
def cache() -> None:
    """Look after what teachers said.

    ENTRY is the name of an entry, or as many of its first digits as tell it from the others.
    """


@cache.command("ls")
@STORAGE
@CACHE
@JSON
def ls(storage: str, cache: str, as_json: bool) -> None:
    """List the entries: teacher, dataset, view, signal, codec, size, when they were last used, who pinned them.

    Rows are those of one replica; replicas are the complete ones.
    """
    lines = [report.entry_json(entry) for entry in _cache(storage, cache).entries()]
    OUT.print(report.cache_table(lines))
    if as_json:
        print_json({"entries": lines})


@cache.command("verify", cls=OfTarget)
@click.argument("target", metavar="[TARGET]", required=False)
@STORAGE
@CACHE
@JSON
@click.option(
    "--probe", "rows", type=click.IntRange(min=0), default=0, metavar="N",
    help="Also ask each teacher about N random rows of its entry again: finds another teacher, another view, swapped rows.",
)  # fmt: skip
@click.pass_context
def verify(
    ctx: click.Context, /, target: str | None, storage: str, cache: str, as_json: bool, rows: int, **knobs: Any
) -> None:
    """Read every shard and check it. Bad ones are set aside: they count as missing, and the next run computes them.

    A probe makes teacher, data and view from the entry's own key. Where that is not enough (code of your own, data in a folder)
    name the recipe as TARGET: then the entries that it reads are verified. What cannot be probed is no failure.

    Exit code 1 if something was bad.
    """
    place = open_storage(storage, "float32", cache=cache)
    origins = _origins(place, [] if target is None else selection_of(ctx, knobs).candidates)
    known = [entry for entry in origins if entry.codec is not None]
    reports = [entry.verify() for entry in known]
    probes = [probe(entry, origins[entry], rows) for entry in known] if rows else []
    corrupt = [path for entry in known for path in entry.quarantined]
    unknown = [entry.key_digest for entry in origins if entry.codec is None]
    shards, size = sum(each.shards for each in reports), sum(each.bytes for each in reports)
    OUT.print(f"{len(origins)} entries, {shards} good shards, {size:,} bytes, {len(corrupt)} corrupt")
    _say(f"corrupt: {path}" for path in corrupt)
    _say(f"not read: entry {name} has a codec that this version of raykd does not know" for name in unknown)
    _say(line for each in probes for line in _probed(each))
    if as_json:
        found = {"entries": len(origins), "shards": shards, "bytes": size, "corrupt": corrupt, "unknown": unknown}
        print_json({**found, "probes": [each.as_json() for each in probes]})
    if corrupt or any(each.wrong for each in probes):
        raise click.exceptions.Exit(1)


@cache.command("gc")
@click.option("--max-bytes", type=SIZE, required=True, metavar="SIZE", help="What may stay: 500MB, 10GB, 1TiB, 0.")
@click.option(
    "--grace", type=DURATION, default="1h", show_default=True, metavar="TIME",
    help="Entries used within it stay; what was moved aside is deleted after it. 90s, 30m, 1h, 7d, 0.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@STORAGE
@CACHE
@JSON
def gc(max_bytes: float, grace: float, dry_run: bool, storage: str, cache: str, as_json: bool) -> None:
    """Make room: the entries that were not used for longest go, until the rest fits.

    Those that are pinned, being filled, or used within the grace period stay. An entry is first moved aside, where new runs do
    not find it and running ones keep it; it is deleted by the next gc after the grace period.
    """
    found = collect(_cache(storage, cache), int(max_bytes), grace_s=grace, dry_run=dry_run)
    _say(_collected(found, "would be " if dry_run else ""))
    if as_json:
        print_json({**asdict(found), "met": found.met, "dry_run": dry_run})


@cache.command("pin")
@ENTRY
@NAME
@STORAGE
@CACHE
@JSON
def pin_entry(entry: str, name: str | None, storage: str, cache: str, as_json: bool) -> None:
    """Keep an entry, whatever gc thinks of it."""
    found, name = find(_cache(storage, cache), entry), name or _user()
    new = pin(found, name)
    OUT.print(f"{found.key_digest} is pinned as {name}{'' if new else ', as it was before'}", markup=False)
    if as_json:
        print_json({"entry": found.key_digest, "name": name, "new": new})


@cache.command("unpin")
@ENTRY
@NAME
@STORAGE
@CACHE
@JSON
def unpin_entry(entry: str, name: str | None, storage: str, cache: str, as_json: bool) -> None:
    """Keep an entry no longer."""
    found, name = find(_cache(storage, cache), entry), name or _user()
    unpin(found, name)
    OUT.print(f"{found.key_digest} is not pinned as {name} any more", markup=False)
    if as_json:
        print_json({"entry": found.key_digest, "name": name})


@cache.command("export")
@ENTRY
@click.argument("path", metavar="PATH", type=click.Path(path_type=Path))
@click.option("--partial", is_flag=True, help="Also an entry that lacks shards.")
@STORAGE
@CACHE
@JSON
def export(entry: str, path: Path, partial: bool, storage: str, cache: str, as_json: bool) -> None:
    """Write an entry to PATH, to publish it: a folder, or one tar file if PATH ends in .tar.

    It holds entry.json, the shards as Arrow files that any reader opens, and SHA256SUMS for `sha256sum -c`.
    """
    _moved(export_entry(find(_cache(storage, cache), entry), path, incomplete=partial), f"written to {path}", as_json)


@cache.command("import")
@click.argument("path", metavar="PATH", type=click.Path(path_type=Path))
@STORAGE
@CACHE
@JSON
def import_(path: Path, storage: str, cache: str, as_json: bool) -> None:
    """Take in what `raykd cache export` wrote. Everything is checked before anything is stored.

    Shards that are there already stay as they are, so twice is once.
    """
    found = import_entry(_cache(storage, cache), path)
    _moved(found, f"taken in, {found.new} of them new", as_json)


def _cache(storage: str, cache: str) -> SignalCache:
    return open_storage(storage, "float32", cache=cache).cache


def _origins(place: Storage, stages: Sequence[Stage]) -> dict[Entry, Callable[[], Origin]]:
    """The entries to verify, those of all the cache if no stages are named, and how to find out whom to ask about each."""
    if not stages:
        return {entry: partial(from_key, entry, place) for entry in place.cache.entries()}
    found: dict[Entry, Callable[[], Origin]] = {
        entry: partial(replace, origin) for stage in stages for entry, origin in from_stage(stage, place)
    }
    if not found:
        raise ValueError(f"the cache {place.cache.place} has no entry that {stages[0]} reads: run it first")
    return found


def _user() -> str:
    """Who asks, as the name of a pin."""
    try:
        return re.sub(r"[^A-Za-z0-9._-]", "_", getpass.getuser())
    except (OSError, KeyError):  # in a container a user need not have a name
        raise ValueError("you have no user name here: say for whom with --name") from None


def _say(lines: Iterator[str]) -> None:
    for line in lines:
        OUT.print(line, markup=False, soft_wrap=True)


def _probed(found: Probe) -> Sequence[str]:
    if found.skipped:
        return [f"not probed: entry {found.entry}: {found.skipped}"]
    return [
        f"probed: entry {found.entry}, {found.rows - len(found.wrong)} of {found.rows} rows as the teacher says them",
        *(f"wrong: {line}" for line in found.wrong),
    ]


def _collected(found: Collection, would_be: str) -> Iterator[str]:
    """What gc did."""
    for held in found.aside:
        yield f"{would_be}moved aside: {held.entry}, {held.bytes:,} bytes"
    for held in found.deleted:
        yield f"{would_be}deleted: {held.entry}, {held.bytes:,} bytes"
    for entry, reason in found.spared.items():
        yield f"kept: {entry}, {reason}"
    for held in found.waiting:
        yield f"{held.entry}: {held.bytes:,} bytes {would_be or 'are '}to be deleted by a gc after {_time(held.time)}"
    freed = sum(held.bytes for held in found.deleted)
    yield f"{freed:,} bytes {would_be}freed now, {found.bytes:,} of at most {found.max_bytes:,} bytes stay"
    if not found.met:
        yield f"the budget cannot be met: {found.bytes - found.max_bytes:,} bytes too many are pinned or in use"


def _time(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def _moved(found: Moved, what: str, as_json: bool) -> None:
    OUT.print(f"{found.entry}: {found.shards} shards, {found.rows:,} rows, {found.bytes:,} bytes {what}", markup=False)
    if as_json:
        print_json(asdict(found))
