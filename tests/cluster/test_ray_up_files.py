"""The files for `ray up`, against Ray's own schema and its own command line."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import click
import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.scripts import start
from ray_commands import marks_asked

CLUSTER = Path(__file__).parents[2] / "cluster"
STARTS = ("head_start_ray_commands", "worker_start_ray_commands")
STORAGE = "/shared/raykd"
Change = Callable[[dict[str, Any]], object]


def read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((CLUSTER / f"{name}.yaml").read_text())
    return found


def check(config: dict[str, Any]) -> dict[str, Any]:
    """What `ray up` makes of it before it starts anything; raises for whatever is wrong."""
    prepared: dict[str, Any] = prepare_config(deepcopy(config))
    validate_config(prepared)
    for name in STARTS:
        for words in ray_starts(prepared[name]):
            start.make_context("ray start", words)  # the options, read by the command itself; nothing runs
    for each in prepared["available_node_types"].values():
        assert each["min_workers"] <= each["max_workers"]
    return prepared


def ray_starts(lines: list[str]) -> Iterator[list[str]]:
    for line in lines:
        for part in line.split(";"):
            words = shlex.split(part)
            if words[:2] == ["ray", "start"]:
                yield words[2:]


def workers(prepared: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: each for name, each in prepared["available_node_types"].items() if name != prepared["head_node_type"]}


@pytest.fixture(params=["local", "aws"])
def config(request: pytest.FixtureRequest) -> dict[str, Any]:
    return read(request.param)


def test_ray_up_takes_the_file(config: dict[str, Any]) -> None:
    check(config)


MISTAKES: dict[str, Change] = {
    "an unknown key": lambda c: c.update(workers=3),
    "a text as number": lambda c: c.update(idle_timeout_minutes="8"),
    "an unknown option of ray start": lambda c: c["worker_start_ray_commands"].append("ray start --gpus=4"),
    "an unknown key of docker": lambda c: c["docker"].update(volumes=[]),
}
OF_AWS: dict[str, Change] = {
    "an unknown node type": lambda c: c.update(head_node_type="master"),
    "an unknown key of a node type": lambda c: c["available_node_types"]["teachers"].update(gpus=4),
    "half a resource": lambda c: c["available_node_types"]["teachers"]["resources"].update(teacher=0.5),
    "a label that is no text": lambda c: c["available_node_types"]["teachers"]["labels"].update(raykd=1),
    "more at least than at most": lambda c: c["available_node_types"]["teachers"].update(min_workers=7),
    "more at least than in all": lambda c: c.update(max_workers=1),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_either_file_is_found(config: dict[str, Any], mistake: str) -> None:
    refused(config, MISTAKES[mistake])


@pytest.mark.parametrize("mistake", OF_AWS)
def test_a_mistake_in_the_file_for_aws_is_found(mistake: str) -> None:
    refused(read("aws"), OF_AWS[mistake])


def refused(config: dict[str, Any], change: Change) -> None:
    change(config)
    with pytest.raises((jsonschema.ValidationError, ValueError, AssertionError, click.NoSuchOption)):
        check(config)


def test_both_kinds_of_machines_can_be_up_at_once() -> None:
    prepared = check(read("aws"))
    assert prepared["max_workers"] >= sum(each["max_workers"] for each in workers(prepared).values())


def test_the_head_on_aws_has_no_gpu_takes_no_work_and_stays() -> None:
    prepared = check(read("aws"))
    head = prepared["available_node_types"][prepared["head_node_type"]]
    assert head["resources"] == {"CPU": 0, "GPU": 0}
    assert head["node_config"]["InstanceType"].split(".")[0] in ("m6i", "m7i")  # families without GPUs
    assert "InstanceMarketOptions" not in head["node_config"]
    assert head["max_workers"] == 0


def test_the_machines_with_gpus_on_aws_are_spot_machines() -> None:
    prepared = check(read("aws"))
    assert prepared["provider"]["cache_stopped_nodes"] is False  # a spot machine cannot be stopped
    for each in workers(prepared).values():
        assert each["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
        assert each["resources"]["GPU"] > 0
        assert each["min_workers"] >= 1


def test_the_marks_that_the_commands_ask_for_are_on_one_kind_of_machine_each() -> None:
    kinds = workers(check(read("aws")))
    for mark in ("teacher", "student"):
        (name,) = (name for name, each in kinds.items() if mark in each["resources"])
        assert kinds[name]["labels"] == {"raykd-role": mark}
        (asked,) = (word for word in marks_asked("resource") if word.partition("=")[0] == mark)
        assert 0 < float(asked.partition("=")[2]) * kinds[name]["resources"]["GPU"] * 16 <= 1  # sixteenths of a GPU fit
    labels = {f"{key}={value}" for each in kinds.values() for key, value in each["labels"].items()}
    assert marks_asked("label") == labels


def test_the_storage_is_at_one_path_in_every_container(config: dict[str, Any]) -> None:
    assert f"--mount type=bind,source={STORAGE},target={STORAGE}" in config["docker"]["run_options"]
    assert any(f"mountpoint -q {STORAGE} ||" in line for line in config["initialization_commands"])


def test_nobody_from_outside_reaches_the_dashboard(config: dict[str, Any]) -> None:
    (words,) = ray_starts(config["head_start_ray_commands"])
    assert not [word for word in words if word.startswith("--dashboard-host")]  # 127.0.0.1 then


def test_what_must_be_filled_in_is_marked(config: dict[str, Any]) -> None:
    text = yaml.safe_dump(config)
    assert set(re.findall(r"[\w-]*REPLACE|[\w.]+\.example\.com", text)) <= {
        "ami-REPLACE", "fs-REPLACE", "registry.example.com",
        "head.example.com", "gpu1.example.com", "gpu2.example.com", "gpu3.example.com",
    }  # fmt: skip
