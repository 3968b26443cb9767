"""What the pools of teachers reach: against bare inference on the same cores, and against the bound of any schedule.

    python benchmarks/pools.py [--runs 5] [--rows 190000]        one teacher, two teachers, four simulated ones

bare: as many processes as cores, one thread each, the network's forward pass over its share of the rows, nothing else.
pool: the same rows through `Cluster.label`: view, checksums, forward pass, commit. Overall includes the start of the pool;
steady counts from when every actor has committed once. Bare and pool take turns; the median of the runs' ratios is
printed with their range. For two teachers, ideal is both of them one after the other by bare processes on all cores.

simulated: four teachers that sleep 1, 2, 4 and 8 units for a slot, on 8 GPUs that are none, through the same pools: makespan
from the first start of work to the last end, over the bound: all work shared evenly by the seats from when each of them begins
(eight actors take a while to start on two cores); and what an equal split, two GPUs for each teacher, would take over it.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import ray
import torch
from torch import Tensor, nn

from raykd import Dataset, Pretrained, View
from raykd.data import Arrays
from raykd.kept import keep
from raykd.labeling.calibration import calibrate
from raykd.labeling.labeler import Labeling
from raykd.models import MLP, Architecture, ResNet
from raykd.models.weights import save
from raykd.runtime import Display
from raykd.runtime.cluster import Cluster
from raykd.runtime.filling import Filling
from raykd.signals import LOGITS
from raykd.storage import Storage

CORES = os.cpu_count() or 1
SHAPE = (1, 28, 28)
TEACHERS = {"resnet20": ResNet(20, shape=SHAPE), "resnet8": ResNet(8, shape=SHAPE)}
BARE = """
import sys, torch
from raykd.device import keep_memory
from raykd.models import ResNet
keep_memory()
torch.set_num_threads(1)
network = ResNet({depth}, shape=(1, 28, 28)).build().eval()
rows = torch.randint(0, 256, (2048, 1, 28, 28), dtype=torch.uint8)
with torch.inference_mode():
    network(rows[:128])
    print("ready", flush=True)
    sys.stdin.readline()
    for _ in range({rows} // 2048):
        for part in rows.split(128):
            network(part)
print("done", flush=True)
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument(
        "--rows", type=int, default=190_464, help="rows for the first teacher: a fill of a minute or more"
    )
    parser.add_argument("--only", choices=["one", "two", "simulated"], default=None)
    options = parser.parse_args()
    if options.only in (None, "one", "two"):
        with cluster():
            if options.only in (None, "one"):
                fills(options.runs, {"resnet20": TEACHERS["resnet20"]}, options.rows)
            if options.only in (None, "two"):
                fills(options.runs, TEACHERS, options.rows // 4)
    if options.only in (None, "simulated"):
        simulated(options.runs)


@contextmanager
def cluster() -> Iterator[None]:
    """One local Ray for all runs."""
    with tempfile.TemporaryDirectory() as folder, Cluster(Storage(Path(folder))).session():
        yield


def fills(runs: int, teachers: Mapping[str, Architecture], rows: int) -> None:
    """The pool against bare inference."""
    rows = rows // (2048 * CORES) * 2048 * CORES
    print(f"\n{CORES} cores, {' and '.join(teachers)} at 28x28, {rows} rows each")
    print(f"{'run':>3} {'bare s':>8} {'pool s':>8} {'start s':>8} {'overall':>8} {'steady':>8}", flush=True)
    overall, steady = [], []
    for run in range(runs):
        ideal = sum(bare(architecture, rows) for architecture in teachers.values())
        seconds, start, running = pool(teachers, rows)
        overall.append(ideal / seconds)
        steady.append(ideal * running)
        print(f"{run + 1:3} {ideal:8.1f} {seconds:8.1f} {start:8.1f} {overall[-1]:8.3f} {steady[-1]:8.3f}", flush=True)
    for name, ratios in (("overall", overall), ("steady", steady)):
        print(f"pool / bare, {name}: median {statistics.median(ratios):.3f}, {min(ratios):.3f} - {max(ratios):.3f}")


def bare(architecture: Architecture, rows: int) -> float:
    """Seconds that one process on each core take for the rows together."""
    assert isinstance(architecture, ResNet)
    code = BARE.format(rows=rows // CORES, depth=architecture.depth)
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
    return time.perf_counter() - started


def pool(teachers: Mapping[str, Architecture], rows: int) -> tuple[float, float, float]:
    """Seconds of a fill, seconds until its first commit, and the share of the work done per second once it runs."""
    with tempfile.TemporaryDirectory() as folder:
        images = np.random.default_rng(0).integers(0, 256, (rows + 2048, *SHAPE), dtype=np.uint8)
        labels = np.arange(len(images)) % 10
        dataset = Dataset(Arrays(images, labels), validation=0.004, holdout=0.004, limit=rows).stored(folder)
        runner = Cluster(Storage(Path(folder)), Display(quiet=True))
        labelings = [labeling(name, each, View(dataset), runner.storage) for name, each in teachers.items()]
        started, ended, commits = fill(runner, labelings)
    running = [
        at for at in commits if at > commits[CORES * len(teachers) - 1]
    ]  # every actor has committed for each teacher
    weight = 1 / len(commits)  # slots of all teachers come in turn, so commits are equal shares of the work
    return (
        ended - started,
        commits[0] - started,
        weight * len(running) / (commits[-1] - commits[CORES * len(teachers) - 1]),
    )


def labeling(name: str, architecture: Architecture, view: View, storage: Storage) -> Labeling:
    """A teacher with random weights: what it says does not matter here."""
    weights = str(storage.root / f"{name}.safetensors")
    save(weights, architecture.build().body.state_dict(), {})
    return Labeling(name, Pretrained(architecture, weights), view, (keep(LOGITS, architecture, "auto"),), storage)


def fill(runner: Cluster, labelings: Sequence[Labeling]) -> tuple[float, float, list[float]]:
    """When it began and ended, and the times of its commits."""

    def label(several: Sequence[Labeling], missing: object) -> object:
        return runner.label(several, missing, beside=None)  # type: ignore[arg-type]

    started = time.time()
    Filling(labelings, label, "compute", runner.display, lambda _, __: None, runner.counts.teacher_rows).run()  # type: ignore[arg-type]
    ended = time.time()
    return started, ended, sorted(path.stat().st_mtime for path in (runner.storage.root / "cache").rglob("*.arrow"))


@dataclass(frozen=True, kw_only=True)
class Sleeper(MLP):
    """A classifier that takes so long for a row, and no processor. It notes when, and in which process."""

    seconds: float = 0.0
    log: str = ""

    def body(self) -> nn.Module:
        """The network of an `MLP`, behind a rest."""
        return nn.Sequential(_Rest(self.seconds, self.log), super().body())

    def stages(self) -> dict[str, str]:
        """None."""
        return {}


class _Rest(nn.Module):
    def __init__(self, seconds: float, log: str):
        super().__init__()
        self.seconds, self.log = seconds, log

    def forward(self, inputs_B: Tensor) -> Tensor:
        if inputs_B.device.type != "meta" and len(inputs_B) > 2:
            begun = time.time()
            time.sleep(self.seconds * len(inputs_B))
            with Path(self.log).open("a") as log:
                log.write(f"{os.getpid()} {begun} {time.time()}\n")
        return inputs_B


def simulated(runs: int, unit: float = 0.5, slots: int = 44) -> None:
    """Four teachers of cost 1, 2, 4, 8 on 8 simulated GPUs."""
    costs = (1, 2, 4, 8)
    rows = 2048 * slots
    bound = slots * unit * sum(costs) / 8
    split = slots * unit * max(costs) / 2
    print(f"\nteachers of cost {costs}, {slots} slots each, 8 simulated GPUs; all work shared evenly: {bound:.1f} s")
    ray.init(address="local", num_cpus=8, num_gpus=8, include_dashboard=False, log_to_driver=False)
    ratios = []
    for run in range(runs):
        with tempfile.TemporaryDirectory() as folder:
            inputs = torch.rand(rows + 1024, 4).numpy()
            dataset = Dataset(Arrays(inputs, np.arange(len(inputs)) % 10), validation=0.005, holdout=0.005, limit=rows)
            runner = Cluster(Storage(Path(folder)), Display(quiet=True))
            view = View(dataset.stored(folder))
            sleepers = [
                Sleeper(hidden=(4,), shape=(4,), seconds=cost * unit / 2048, log=f"{folder}/log") for cost in costs
            ]
            labelings = [
                labeling(f"cost{cost}", each, view, runner.storage) for cost, each in zip(costs, sleepers, strict=True)
            ]
            runner.call(calibrate, labelings, "gpu")
            Path(f"{folder}/log").unlink()  # what was slept before the pool
            fill(runner, labelings)
            spans = [line.split() for line in Path(f"{folder}/log").read_text().splitlines()]
        starts: dict[str, float] = {}
        for process, begun, _ in spans:
            starts[process] = min(starts.get(process, float("inf")), float(begun))
        first, last = min(starts.values()), max(float(ended) for _, _, ended in spans)
        even = evenly(sorted(starts.values()), slots * unit * sum(costs))
        ratios.append((last - first) / (even - first))
        print(
            f"{run + 1:3} {len(starts)} seats, the last {max(starts.values()) - first:.1f} s after the first;"
            f" makespan {last - first:.1f} s, / bound {ratios[-1]:.3f}",
            flush=True,
        )
    ray.shutdown()
    print(
        f"median {statistics.median(ratios):.3f}, {min(ratios):.3f} - {max(ratios):.3f}; equal split {split / bound:.3f}"
    )


def evenly(starts: list[float], work: float) -> float:
    """When seats that begin at these times have done so much work together, if none ever waits."""
    done = 0.0
    for seats, (at, following) in enumerate(zip(starts, [*starts[1:], float("inf")], strict=True), start=1):
        if done + seats * (following - at) >= work:
            return at + (work - done) / seats
        done += seats * (following - at)
    raise AssertionError("the last seat works for ever")


if __name__ == "__main__":
    main()
