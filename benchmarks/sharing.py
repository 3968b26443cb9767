"""Trials that differ only in temperature and weights, all at once on one cold storage: how often is the teacher asked?

    python benchmarks/sharing.py [--trials 8] [--kill]

Each trial is a process of its own, `raykd run jobs/digits.py:kd --local --tau ... --alpha ...`. With --kill, one of them gets a
SIGKILL while it labels. Prints what each did; the rows of all together must be rows x replicas, once: a killed run's
last slot, which it never committed, is computed again by whoever takes it over.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--kill", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as storage:
        started = time.perf_counter()
        trials = [trial(storage, tau=1.0 + i, alpha=0.5 + i / 20) for i in range(options.trials)]
        if options.kill:
            kill_while_labeling(trials[0], Path(storage))
        done = [report for each in trials if (report := result(each)) is not None]
        seconds = time.perf_counter() - started
        shards = list(Path(storage).rglob("*.arrow"))
    print(f"{'tau run':>8} {'teacher rows':>13} {'cache rows':>11} {'waits':>6} {'label s':>8} {'test top-1':>10}")
    for number, report in enumerate(done):
        phases = report["phases"]
        waits = sum(counted.get("waits", 0) for counted in phases.values())
        print(
            f"{number:8} {report['teacher_rows']['teacher']:13,} {report['cache_rows']:11,} {waits:6.0f}"
            f" {report['seconds'].get('label', 0):8.1f} {report['metrics']['test_top1']:10.2%}"
        )
    rows = sum(report["teacher_rows"]["teacher"] for report in done)
    print(
        f"together: {rows:,} teacher rows, {len(shards)} shards, {seconds:.1f} s; teachers and trials trained: {len(done) + 1}"
    )


def trial(storage: str, tau: float, alpha: float) -> subprocess.Popen[str]:
    """One trial, started."""
    command = [sys.executable, "-m", "raykd", "run", "jobs/digits.py:kd", "--local", "--no-baseline", "--json"]
    command += ["--storage", storage, "--tau", str(tau), "--alpha", str(alpha)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)


def kill_while_labeling(run: subprocess.Popen[str], storage: Path) -> None:
    """SIGKILL, once shards are being committed."""
    while run.poll() is None and len(list(storage.rglob("*.arrow"))) < 4:
        time.sleep(0.01)
    run.send_signal(signal.SIGKILL)


def result(run: subprocess.Popen[str]) -> dict[str, Any] | None:
    """What a trial said at its end; None for a killed one."""
    out, _ = run.communicate()
    return None if run.returncode == -signal.SIGKILL else dict(json.loads(out.splitlines()[-1]))


if __name__ == "__main__":
    main()
