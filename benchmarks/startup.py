"""What starting costs, and what a pool of teachers reaches once it runs: against bare inference on the same cores.

    python benchmarks/startup.py [--runs 5] [--rows 24576]

bare: as many processes as cores, one thread each, the network's forward pass over its share of the rows, nothing else.
pool: the same rows through `Cluster.label`: view, checksums, forward pass, commit. Overall includes the start of the pool;
steady counts from when every actor has committed once. Bare and pool take turns; the median of the runs' ratios is
printed with their range.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from raykd import Dataset, Pretrained, View
from raykd.data import Arrays
from raykd.labeling.labeler import Labeling
from raykd.models import ResNet
from raykd.models.weights import save
from raykd.runtime import Display
from raykd.runtime.cluster import Cluster
from raykd.signals import LOGITS
from raykd.storage import Storage

CORES = os.cpu_count() or 1
BARE = """
import sys, torch
from raykd.device import keep_memory
from raykd.models import ResNet
keep_memory()
torch.set_num_threads(1)
network = ResNet(20, shape=(1, 28, 28)).build().eval()
rows = torch.randint(0, 256, ({rows}, 1, 28, 28), dtype=torch.uint8)
with torch.inference_mode():
    network(rows[:128])
    print("ready", flush=True)
    sys.stdin.readline()
    for part in rows.split(128):
        network(part)
print("done", flush=True)
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--rows", type=int, default=24_576)
    options = parser.parse_args()
    starts()
    fills(options.runs, options.rows)


def starts() -> None:
    """Seconds that a person waits before anything happens."""
    with tempfile.TemporaryDirectory() as folder:
        base = [sys.executable, "-m", "raykd"]
        job = ["jobs/digits.py:kd", "--epochs", "2", "--storage", folder]
        lines = [
            ("python -c 'import raykd'", [sys.executable, "-c", "import raykd"]),
            ("raykd plan", [*base, "plan", *job]),
            ("raykd run, everything to do", [*base, "run", *job]),
            ("raykd run again, nothing to do", [*base, "run", *job]),
        ]
        print(f"{'command':32} {'seconds':>8}")
        for name, command in lines:
            started = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            print(f"{name:32} {time.perf_counter() - started:8.1f}", flush=True)


def fills(runs: int, rows: int) -> None:
    """The pool against bare inference."""
    print(f"\n{CORES} cores, ResNet-20 at 28x28, {rows} rows")
    print(f"{'run':>3} {'bare rows/s':>12} {'overall':>8} {'steady':>8} {'start s':>8}")
    overall, steady = [], []
    with tempfile.TemporaryDirectory() as folder, Cluster(Storage(Path(folder))).session():
        for run in range(runs):
            plain = bare(rows)
            whole, running, start = pool(rows)
            overall.append(whole / plain)
            steady.append(running / plain)
            print(f"{run + 1:3} {plain:12,.0f} {overall[-1]:8.3f} {steady[-1]:8.3f} {start:8.1f}", flush=True)
    for name, ratios in (("overall", overall), ("steady", steady)):
        print(f"pool / bare, {name}: median {statistics.median(ratios):.3f}, {min(ratios):.3f} - {max(ratios):.3f}")


def bare(rows: int) -> float:
    """Rows per second of all processes together."""
    code = BARE.format(rows=rows // CORES)
    command = ["nice", "-n", "15", sys.executable, "-c", code]  # as Ray runs its workers
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(CORES)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    started = time.perf_counter()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        process.communicate()
    return rows / (time.perf_counter() - started)


def pool(rows: int) -> tuple[float, float, float]:
    """Rows per second overall and when it runs, and the seconds until the first commit."""
    with tempfile.TemporaryDirectory() as folder:
        images = np.random.default_rng(0).integers(0, 256, (2 * rows, 1, 28, 28), dtype=np.uint8)
        dataset = Dataset(Arrays(images, np.arange(2 * rows) % 10), limit=rows).stored(folder)
        teacher, weights = ResNet(20, shape=(1, 28, 28)), f"{folder}/teacher.safetensors"
        save(weights, teacher.build().body.state_dict(), {})
        runner = Cluster(Storage(Path(folder)), Display(quiet=True))
        labeling = Labeling("teacher", Pretrained(teacher, weights), View(dataset), (LOGITS,), runner.storage)
        slots = list(labeling.missing())
        started = time.time()
        assert sum(runner.label(labeling, slots)) == rows
        ended = time.time()
        commits = sorted(path.stat().st_mtime for path in Path(folder).rglob("*.arrow"))
    begun, last = commits[CORES - 1], commits[-1]  # every actor has committed its first shard
    steady = rows / len(commits) * (len(commits) - CORES) / (last - begun)
    return rows / (ended - started), steady, commits[0] - started


if __name__ == "__main__":
    main()
