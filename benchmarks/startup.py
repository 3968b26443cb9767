"""What starting costs: seconds that a person waits before anything happens.

python benchmarks/startup.py
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
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


if __name__ == "__main__":
    main()
