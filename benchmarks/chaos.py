"""A complete ClassroomKD run while its workers, nodes and driver are killed: what is lost, and does it end where it should?

    python benchmarks/chaos.py [--kills 50] [--seed 0] [--target jobs/digits.py:classroom] [--folder FOLDER] [-- WORDS]

It runs on a Ray cluster of three nodes with a core each, all on this machine, behind a head that does no work. First nobody
disturbs it, for the figures to compare with; then, on a storage of its own, each kill is due when the work, shards and
epochs, has reached the next of a list of random points, and hits at random, by SIGKILL:

    worker    one process of the run on the cluster: an actor of a pool, a training worker or its controller, a task
    node      one of the three, with all that runs on it; another joins at once
    driver    the process that a person started; the same command is given again at once, as if a job were submitted again

A run that gives up, after more losses of one training than it puts up with, is started again too. Printed is what was killed,
what became of it, and what must hold: as many stages, each with the weights that it has without kills, and the cache the same,
to the bit; metrics within 1e-6. Exits with 1 where it does not.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

# settled before Ray is imported: what it starts inherits them
MARK = f"chaos-{uuid4().hex}"
os.environ |= {"RAY_AUTH_MODE": "disabled", "RAYKD_MARK": MARK, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path[1:]))

from ray.cluster_utils import Cluster  # noqa: E402

TARGET = f"{Path(__file__).parents[1]}/jobs/digits.py:classroom"
NODES = 3
KINDS = ("worker",) * 6 + ("node",) * 2 + ("driver",) * 2
DELAY_S = 1.0
TOLERANCE = 1e-6
IDLE = ("ray::IDLE", "ray::DashboardAgent", "ray::RuntimeEnvAgent")
QUICK = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 500,
    "health_check_failure_threshold": 2,
}


def main() -> None:
    """Run undisturbed, run disturbed, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", default=TARGET)
    parser.add_argument("--folder", type=Path, help="of both storages, kept; default: temporary")
    parser.add_argument("words", nargs="*", help="knobs of the recipe and options of raykd run, after --")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary, nodes() as cluster:
        folder = options.folder or Path(temporary)
        calm = Run(options.target, folder / "calm", options.words, cluster.address)
        expected, calm_s = undisturbed(calm)
        wild = Run(options.target, folder / "wild", options.words, cluster.address)
        killer = Killer(cluster, wild, random.Random(options.seed))
        started = time.perf_counter()
        found = killer.run(options.kills, calm.work)
        broken = report(killer, calm, expected, found, calm_s, time.perf_counter() - started, options.kills)
    sys.exit(broken)


@contextmanager
def nodes() -> Iterator[Cluster]:
    """The cluster."""
    head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": 100 << 20, "_system_config": QUICK}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        for _ in range(NODES):
            join(cluster)
        yield cluster
    finally:
        cluster.shutdown()


def join(cluster: Cluster) -> None:
    """One more node."""
    cluster.add_node(num_cpus=1, object_store_memory=100 << 20)


@dataclass
class Run:
    """A command that is given until it has succeeded."""

    target: str
    storage: Path
    words: Sequence[str]
    address: str
    starts: int = 0
    gave_up: list[str] = field(default_factory=list)
    """Last lines of those that ended by themselves, and not well."""
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Give the command."""
        self.storage.mkdir(parents=True, exist_ok=True)
        self.starts += 1
        command = [
            sys.executable,
            "-m",
            "raykd",
            "run",
            self.target,
            "--storage",
            str(self.storage),
            "--no-baseline",
            "--json",
        ]
        with self.said("out").open("wb") as out, self.said("err").open("wb") as err:
            environment = {**os.environ, "RAY_ADDRESS": self.address}
            self.process = subprocess.Popen([*command, *self.words], stdout=out, stderr=err, env=environment)

    def said(self, stream: str) -> Path:
        """What the last one printed."""
        return self.storage / f"run{self.starts}.{stream}"

    def over(self) -> bool:
        """Whether it has succeeded; if it gave up it is started again."""
        assert self.process is not None
        code = self.process.poll()
        if code in (None, 0):
            return code == 0
        if code != -signal.SIGKILL:
            lines = self.said("err").read_text().splitlines()
            self.gave_up.append(f"exit code {code}: {lines[-1] if lines else ''}")
            if code == 2 or len(self.gave_up) > 20:
                raise RuntimeError(f"the run does not get on: {self.gave_up[-1]}")
        self.start()
        return False

    @property
    def work(self) -> int:
        """How much is done."""
        epochs = sum(text.count("\n") for text in map(read, self.storage.glob("stages/*/metrics.jsonl")))
        return len(self.shards) + epochs

    @property
    def shards(self) -> list[Path]:
        """Those that are committed."""
        return list(self.storage.glob("cache/v1/*/*/views/*/*.arrow"))

    @property
    def results(self) -> dict[str, dict[str, Any]]:
        """Of each stage that is done."""
        return {path.parent.name: json.loads(path.read_text()) for path in self.storage.glob("stages/*/result.json")}


def read(path: Path) -> str:
    """A file that may be replaced meanwhile."""
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""


def undisturbed(run: Run) -> tuple[dict[str, Any], float]:
    """What it prints in the end, and its seconds."""
    started = time.perf_counter()
    run.start()
    wait_until(run.over)
    return result_of(run), time.perf_counter() - started


def result_of(run: Run) -> dict[str, Any]:
    """What it prints with --json; Ray may say something on the same stream, of what was killed last."""
    lines = run.said("out").read_text().splitlines()
    found: dict[str, Any] = json.loads(next(line for line in reversed(lines) if line.startswith('{"stage"')))
    return found


def wait_until(reached: Callable[[], bool]) -> None:
    """Looks twenty times a second."""
    while not reached():
        time.sleep(0.05)


@dataclass
class Killer:
    """Who kills, and what was killed."""

    cluster: Cluster
    run_: Run
    generator: random.Random
    killed: Counter[str] = field(default_factory=Counter)
    hit: Counter[str] = field(default_factory=Counter)
    """Of the workers, what they were."""

    def run(self, kills: int, work: int) -> dict[str, Any]:
        """Give the command, kill until it is over; what it prints in the end."""
        self.run_.start()
        for due in sorted(self.generator.uniform(0, 0.95 * work) for _ in range(kills)):
            wait_until(lambda due=due: self.run_.over() or self.run_.work >= due)  # type: ignore[misc]
            time.sleep(self.generator.uniform(0, DELAY_S))
            kind = self.generator.choice(KINDS)
            while not self.run_.over() and not getattr(self, f"_{kind}")():
                time.sleep(0.05)  # nothing to be killed: the driver is on its way
        wait_until(self.run_.over)
        found: dict[str, Any] = result_of(self.run_)
        return found

    def _worker(self) -> bool:
        victims = sorted(workers().items())
        if not victims:
            return False
        process, name = self.generator.choice(victims)
        try:
            os.kill(process, signal.SIGKILL)
        except ProcessLookupError:
            return False
        self.killed["worker"] += 1
        self.hit[name] += 1
        return True

    def _node(self) -> bool:
        if not workers():
            return False
        node = self.generator.choice(sorted(self.cluster.worker_nodes, key=lambda each: each.unique_id))
        self.cluster.remove_node(node, allow_graceful=False)
        join(self.cluster)
        self.killed["node"] += 1
        return True

    def _driver(self) -> bool:
        process = self.run_.process
        assert process is not None
        if process.poll() is not None:
            return False
        process.kill()
        process.wait()
        self.killed["driver"] += 1
        self.run_.start()
        return True


def workers() -> dict[int, str]:
    """Processes on this cluster that do something for a run, by what Ray calls them."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            name = path.read_text().replace("\0", " ").strip()
            ours = name.startswith("ray::") and MARK.encode() in path.with_name("environ").read_bytes()
        except OSError:
            continue  # it ended while we looked
        if ours and not name.startswith(IDLE):
            found[int(path.parent.name)] = name.partition("(")[0].removeprefix("ray::").partition(".")[0]
    return found


def report(
    killer: Killer, calm: Run, expected: Mapping[str, Any], found: Mapping[str, Any], calm_s: float, wild_s: float,
    kills: int,
) -> bool:  # fmt: skip
    """Prints the figures; whether something is not as it must be."""
    wild = killer.run_
    ours, theirs = wild.results, calm.results
    same = sum(name in theirs and theirs[name]["weights"] == each["weights"] for name, each in ours.items())
    names = {path.relative_to(calm.storage): path for path in calm.shards}
    shards = wild.shards
    equal = sum(
        (place := path.relative_to(wild.storage)) in names and path.read_bytes() == names[place].read_bytes()
        for path in shards
    )
    away = max(abs(found["metrics"][name] - value) for name, value in expected["metrics"].items())
    laws = [
        ("kills", killer.killed.total(), killer.killed.total() == kills),
        ("stages done", f"{len(ours)} of {len(theirs)}", ours.keys() == theirs.keys()),
        ("  with the same weights", same, same == len(theirs)),
        ("shards of the cache", f"{len(shards)} of {len(names)}", len(shards) == len(names)),
        ("  the same to the bit", equal, equal == len(names)),
        ("metrics apart by at most", f"{away:.2g}", away <= TOLERANCE),
    ]
    for kind in dict.fromkeys(KINDS):
        print(f"{kind + 's killed':28} {killer.killed[kind]:>14}")
    for name, count in killer.hit.most_common():
        print(f"{'  ' + name:28} {count:>14}")
    print(f"{'drivers started':28} {wild.starts:>14}")
    print(f"{'  that gave up by themselves':28} {len(wild.gave_up):>14}")
    for line in wild.gave_up:
        print(f"    {line}")
    for name, figure, right in laws:
        print(f"{name:28} {figure:>14} {'' if right else '  WRONG'}")
    print(f"{'seconds, undisturbed':28} {calm_s:14.0f}\n{'seconds, disturbed':28} {wild_s:14.0f}")
    for name, value in expected["metrics"].items():
        print(f"{name:28} {value:14.6f} {found['metrics'][name]:14.6f}")
    return not all(right for *_, right in laws)


if __name__ == "__main__":
    main()
