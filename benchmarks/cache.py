"""What the cache's files cost: reading them beside an array in RAM, checking them, fetching them from a bucket.

    python benchmarks/cache.py [--rows 120000] [--repeats 9]

gather        `Reader.take` of batches of 256 random rows / the same reader whose rows lie in one array in RAM
open+verify   a warm entry, mapped, every byte checked
staging       the same from memory://: copied to this node, checked, mapped; and once it is staged

Both sides of a ratio are measured in turns in one run. Prints medians and the range.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from raykd.cache import Entry, Reader, Shard, SignalCache
from raykd.cache.codecs import DENSE_F16, Codec, TopKU8

BATCH, BATCHES, TURNS = 256, 25, 16


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=120_000)
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    print(f"{options.rows} rows, {options.repeats} repeats; numpy {np.__version__}, {os.cpu_count()} cores")
    print(f"{'what':34} {'of the mapping':>16} {'of RAM':>16} {'ratio':>7} {'range':>13}")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["RAYKD_STAGING"] = f"{folder}/staging"
        for classes, codec in ((1000, DENSE_F16), (10, DENSE_F16), (1000, TopKU8())):
            entry = filled(SignalCache(Path(folder)), options.rows, classes, codec)
            name = f"[{BATCH}, {classes}] {codec.name}"
            gathered(f"gather {name}", entry, options.repeats)
            speed(f"open+verify {name}", entry, partial(fresh, entry), options.repeats)
        bucket = filled(SignalCache("memory://benchmark"), options.rows // 4, 1000, DENSE_F16)
        speed("staging from memory://", bucket, partial(unstaged, bucket), options.repeats)
        speed("open+verify what is staged", bucket, partial(fresh, bucket), options.repeats)


def filled(cache: SignalCache, rows: int, classes: int, codec: Codec) -> Entry:
    """An entry of random values in shards of 2,048 rows."""
    generator = np.random.default_rng(0)
    entry = cache.entry({"rows": rows}, ids_N=np.arange(rows), shape=(classes,), codec=codec)
    for slot in entry.slots(1):
        ids = np.asarray(entry.positions(slot))
        values = generator.normal(0, 3, (len(ids), classes)).astype(np.float32)
        entry.commit(Shard(slot, ids, np.zeros(len(ids), np.uint64), values))
    return entry


def fresh(entry: Entry) -> Reader:
    """A reader that has to check every byte."""
    entry.shards.forget()
    return entry.open(1)


def unstaged(entry: Entry) -> Reader:
    """A reader on a node that has nothing yet."""
    for path in Path(os.environ["RAYKD_STAGING"]).rglob("*"):
        if path.is_file():
            path.unlink()
    return fresh(entry)


def in_ram(entry: Entry) -> Reader:
    """A reader whose columns are one array each in memory of this process."""
    reader = entry.open(1)
    every = np.arange(entry.rows)
    columns = reader.take(np.zeros_like(every), every)
    for name, column in columns.items():
        reader._steps[name] = entry.rows_per_shard  # noqa: SLF001
        reader._arrays[name] = np.empty(column.shape, column.numpy().dtype)  # noqa: SLF001
        reader._arrays[name][:] = column.numpy()  # noqa: SLF001
    return reader


def gathered(name: str, entry: Entry, repeats: int) -> None:
    """One line: batches per second of both, in turns."""
    readers = (entry.open(1), in_ram(entry))
    generator = np.random.default_rng(1)
    pairs = []
    for repeat in range(repeats + 1):  # the first warms up
        seconds = [0.0, 0.0]
        for turn in range(TURNS):  # short, so that whatever else the machine does slows both
            batches = generator.integers(0, entry.rows, (BATCHES, BATCH))
            for which in (0, 1) if (repeat + turn) % 2 else (1, 0):
                seconds[which] += took(readers[which], batches)
        pairs.append((TURNS * BATCHES / seconds[0], TURNS * BATCHES / seconds[1]))
    ratios = sorted(mapped / ram for mapped, ram in pairs[1:])
    mapped, ram = (statistics.median(column) for column in zip(*pairs[1:], strict=True))
    print(
        f"{name:34} {mapped:10,.0f} take/s {ram:10,.0f} take/s {statistics.median(ratios):7.2f} "
        f"{ratios[0]:5.2f} - {ratios[-1]:4.2f}",
        flush=True,
    )


def took(reader: Reader, batches: NDArray[np.int64]) -> float:
    """Seconds for some batches."""
    zeros = np.zeros(BATCH, np.int64)
    start = time.perf_counter()
    for batch in batches:
        reader.take(zeros, batch)
    return time.perf_counter() - start


def speed(name: str, entry: Entry, call: Callable[[], object], repeats: int) -> None:
    """One line: gigabytes per second."""
    size = entry.holdings().bytes
    rates = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        call()
        rates.append(size / (time.perf_counter() - start) / 1e9)
    rates = sorted(rates[1:])
    print(f"{name:34} {statistics.median(rates):11.2f} GB/s {'':24} {rates[0]:5.2f} - {rates[-1]:4.2f}", flush=True)


if __name__ == "__main__":
    main()
