"""The notes on monitoring: the metrics that they name are those that runs export."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from raykd.answers import Tally
from raykd.runtime.progress import gauges

ROOT = Path(__file__).parents[2]
NOTES = (ROOT / "cluster" / "monitoring.md").read_text()
EPOCH = {"epoch": 1, "epochs": 2, "loss": 0.5, "val_top1": 0.5}


def exported() -> set[str]:
    """As Prometheus sees them: Ray puts `ray_` before a name, and `_total` behind that of a counter."""
    sources = "".join(path.read_text() for path in (ROOT / "raykd" / "runtime").glob("*.py"))
    counters = set(re.findall(r'\.count\((?:phase, |"\w+", )?"(\w+)", (?!what)', sources)) | Tally().as_counts().keys()
    return {f"ray_raykd_{name}_total" for name in counters} | {f"ray_raykd_{name}" for name in gauges("epoch", EPOCH)}


def test_the_table_has_the_metrics_that_runs_export() -> None:
    rows = "".join(line.split(" | ")[0] for line in NOTES.splitlines() if line.startswith("| `ray_raykd_"))
    assert set(re.findall(r"ray_raykd_\w+", rows)) == exported()


def test_queries_and_alerts_ask_for_no_other_ones() -> None:
    assert set(re.findall(r"ray_raykd_\w+", NOTES)) == exported()


def test_the_blocks_are_yaml_and_every_alert_says_when() -> None:
    scraped, alerts = (yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", NOTES, re.DOTALL))
    (own,) = (job["static_configs"][0]["targets"] for job in scraped["scrape_configs"] if "static_configs" in job)
    provider = yaml.safe_load((ROOT / "cluster" / "local.yaml").read_text())["provider"]
    assert own == [f"{host}:8080" for host in (provider["head_ip"], *provider["worker_ips"])]
    assert all(rule["alert"] and rule["expr"] for group in alerts["groups"] for rule in group["rules"])
