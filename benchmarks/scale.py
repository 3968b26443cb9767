"""How far labeling scales: teachers that wait on a device that is none, on 1, 2, 4, 8, 16 and 32 of them.

    python benchmarks/scale.py [--devices 1,2,4,8,16,32] [--runs 3] [--seconds 4] [--slots 20]
    python benchmarks/scale.py --memory [--shards 64,256,1024,4096]

A device takes `--seconds` for a shard of 2,048 rows and no processor, as a GPU does; all else is real, on the cores of this
machine: Ray Data, pools, leases, rows, checksums, commits. Each device has as many shards to do.

    busy         share of the seconds between the last device's start and the first one's end in which devices were at work:
                 rows/s over the ideal, which is devices x rows/s of one
    whole        the least that seats which start when these did could take for all shards, over what was taken
    overhead     seconds of a seat between two shards: to be told, lease, rows, checksums, commit
    driver       processor seconds of the driver for a shard, those of the start included: it is one process for all devices
    first        seconds from the call to the first start of work

--memory: no device waits, and there are ever more shards: of the driver what it holds at the end and at its peak, and seconds.
Once by replicas of the same rows, once by rows.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import ray
from pools import Sleeper, evenly, fill, labeling

from raykd import Dataset, View
from raykd.data import Arrays, Flip
from raykd.labeling.labeler import Labeling
from raykd.runtime import Display
from raykd.runtime.cluster import Cluster
from raykd.storage import Storage

ROWS = 2048
SHAPE = (1, 2, 2)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", default="1,2,4,8,16,32")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="of a device for a shard")
    parser.add_argument("--slots", type=int, default=20, help="shards for each device")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--shards", default="64,256,1024,4096", help="with --memory")
    options = parser.parse_args()
    if options.memory:
        memory([int(each) for each in options.shards.split(",")])
    else:
        devices([int(each) for each in options.devices.split(",")], options.runs, options.seconds, options.slots)


@dataclass(frozen=True)
class Scaled:
    """What one fill did."""

    busy: float
    whole: float
    overhead_s: float
    driver_s: float
    first_s: float


def devices(counts: Sequence[int], runs: int, seconds: float, slots: int) -> None:
    """The table of devices; medians of the runs, and of what is asked for, busy, the range."""
    print(
        f"{os.cpu_count()} cores; {seconds:g} s of a device for {ROWS} rows, {slots} shards for each device, {runs} runs"
    )
    print(
        f"{'devices':>7} {'rows/s':>9} {'busy':>6} {'range':>13} {'whole':>6} {'overhead':>9} {'driver':>7} {'first':>6}"
    )
    for count in counts:
        found = [scaled(count, seconds, slots) for _ in range(runs)]
        busy = [each.busy for each in found]
        middle = {name: statistics.median(getattr(each, name) for each in found) for name in Scaled.__annotations__}
        rate = middle["busy"] * count * ROWS / seconds
        print(
            f"{count:7} {rate:9,.0f} {middle['busy']:6.3f} {min(busy):6.3f}-{max(busy):6.3f} {middle['whole']:6.3f}"
            f" {middle['overhead_s'] * 1e3:6.0f} ms {middle['driver_s'] * 1e3:4.0f} ms {middle['first_s']:4.1f} s",
            flush=True,
        )


def scaled(count: int, seconds: float, slots: int) -> Scaled:
    """One fill on so many devices, on a Ray of its own."""
    ray.init(address="local", num_cpus=count, num_gpus=count, include_dashboard=False, log_to_driver=False)
    try:
        with tempfile.TemporaryDirectory() as folder:
            asked = to_label(folder, rows=ROWS, replicas=count * slots, seconds=seconds)
            runner = Cluster(asked.storage, Display(quiet=True))
            before = time.process_time()
            began, _, _ = fill(runner, [asked])
            driver_s = (time.process_time() - before) / (count * slots)
            lines = [line.split() for line in Path(f"{folder}/log").read_text().splitlines()]
    finally:
        ray.shutdown()
    seats: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for process, begun, ended in lines:
        seats[process].append((float(begun), float(ended)))
    assert len(seats) == count, f"{len(seats)} of {count} devices were used"
    starts = sorted(spans[0][0] for spans in seats.values())
    start, end = starts[-1], min(spans[-1][1] for spans in seats.values())
    at_work = sum(max(0.0, min(b, end) - max(a, start)) for spans in seats.values() for a, b in spans)
    last = max(spans[-1][1] for spans in seats.values())
    parts = len(lines) // (count * slots)  # micro-batches of a shard
    gaps = [
        after[0] - before[1]
        for spans in seats.values()
        for before, after in zip(spans[parts - 1 :: parts], spans[parts::parts], strict=False)
    ]
    slept = sum(ended - begun for spans in seats.values() for begun, ended in spans)
    return Scaled(
        busy=at_work / (count * (end - start)),
        whole=(evenly(starts, slept) - starts[0]) / (last - starts[0]),
        overhead_s=statistics.median(gaps),
        driver_s=driver_s,
        first_s=starts[0] - began,
    )


def to_label(folder: str, *, rows: int, replicas: int, seconds: float) -> Labeling:
    """A teacher who waits, and rows that cost nothing to read."""
    held = rows // 8
    images = np.random.default_rng(0).integers(0, 256, (rows + 2 * held, *SHAPE), dtype=np.uint8)
    dataset = Dataset(Arrays(images, np.arange(len(images)) % 10), validation=0.1, holdout=0.1, limit=rows)
    view = View(dataset.stored(folder), (Flip(),) if replicas > 1 else (), replicas)
    sleeper = Sleeper(hidden=(4,), shape=SHAPE, seconds=seconds / ROWS, log=f"{folder}/log")
    return labeling("sleeper", sleeper, view, Storage(Path(folder)))


def memory(shards: Sequence[int]) -> None:
    """What the driver holds."""
    print(f"shards of {ROWS} rows, two actors")
    columns = ("shards", 7), ("rows", 12), ("held", 9), ("peak", 9), ("seconds", 8), ("a shard", 8)
    print(f"{'':9} " + " ".join(f"{name:>{width}}" for name, width in columns))
    ray.init(address="local", num_cpus=2, num_gpus=2, include_dashboard=False, log_to_driver=False)
    try:
        for kind in ("replicas", "rows"):
            for count in shards:
                with tempfile.TemporaryDirectory() as folder:
                    many = (
                        {"rows": ROWS, "replicas": count}
                        if kind == "replicas"
                        else {"rows": ROWS * count, "replicas": 1}
                    )
                    asked = to_label(folder, **many, seconds=0.0)
                    gc.collect()
                    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
                    before = resident("VmRSS")
                    began, ended, _ = fill(Cluster(asked.storage, Display(quiet=True)), [asked])
                    gc.collect()
                    held, peak = resident("VmRSS") - before, resident("VmHWM") - before
                print(
                    f"{kind:9} {count:7,} {count * ROWS:12,} {held:6.0f} MB {peak:6.0f} MB {ended - began:8.1f}"
                    f" {(ended - began) / count * 1e3:5.1f} ms",
                    flush=True,
                )
    finally:
        ray.shutdown()


def resident(what: str) -> float:
    """Megabytes of this process: VmRSS now, VmHWM at its peak."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    main()
