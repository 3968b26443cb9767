"""Pins: who wants an entry kept, whatever `gc` thinks of it.

    pin = refs/<name>.json exists in the entry          unpin = it does not

A name is a person's, a project's or a run's. An entry is kept as long as anybody pins it.
"""

from __future__ import annotations

import json
import re

from raykd.cache.entry import Entry
from raykd.cache.store import SignalCache

REFS = "refs"
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
ENDING = ".json"


def pin(entry: Entry, name: str) -> bool:
    """Keep the entry for `name`; False if it was pinned under that name before. Raises `ValueError` for a name that is none."""
    if not NAME.fullmatch(name):
        raise ValueError(f"a pin cannot be named {name!r}: up to 100 letters, digits, '.', '_' and '-' would be right")
    return entry.place.create(_file(name), json.dumps({"name": name}).encode())


def unpin(entry: Entry, name: str) -> None:
    """Keep it for `name` no longer. Raises `ValueError`, with the names there are, if it was not pinned under that one."""
    names = pins(entry)
    if name not in names:
        known = f"it is pinned as {', '.join(names)}" if names else "nobody pins it"
        raise ValueError(f"the entry {entry.key_digest} is not pinned as {name!r}: {known}")
    entry.place.remove(_file(name))


def pins(entry: Entry) -> list[str]:
    """The names under which an entry is pinned, in order."""
    files = (name.removesuffix(ENDING) for name in entry.place.names(REFS) if name.endswith(ENDING))
    return sorted(filter(NAME.fullmatch, files))


def find(cache: SignalCache, prefix: str) -> Entry:
    """The one entry whose name begins with `prefix`; raises `ValueError` that lists the candidates if it is not one."""
    entries = {entry.key_digest: entry for entry in cache.entries()}
    found = [name for name in entries if prefix and name.startswith(prefix)]
    if len(found) == 1:
        return entries[found[0]]
    if found:
        raise ValueError(f"{len(found)} entries begin with {prefix!r}: {_named(found)}; give more digits")
    raise ValueError(f"no entry of {cache.place} begins with {prefix!r}: there are {_named(list(entries)) or 'none'}")


def _named(names: list[str]) -> str:
    return ", ".join(name[:12] for name in names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _file(name: str) -> str:
    return f"{REFS}/{name}{ENDING}"
