"""The manifests for KubeRay, against its fields, Kubernetes' own schema, and what Ray's autoscaler makes of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from kuberay_fields import KINDS
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.scripts.scripts import start
from ray_commands import marks_asked

CLUSTER = Path(__file__).parents[2] / "cluster"
KUBERNETES = "1.37"
GIGA = {"Gi": 2**30, "Ti": 2**40}
Change = Callable[[dict[str, Any]], object]


def manifest(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((CLUSTER / "kuberay" / f"{name}.yaml").read_text())
    return found


def cluster_of(found: dict[str, Any]) -> dict[str, Any]:
    """What it says of the cluster; a job has one inside."""
    spec: dict[str, Any] = found["spec"]
    return spec["rayClusterSpec"] if found["kind"] == "RayJob" else spec


def groups(found: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield cluster_of(found)["headGroupSpec"]
    yield from cluster_of(found)["workerGroupSpecs"]


def group(found: dict[str, Any], name: str) -> dict[str, Any]:
    (one,) = (each for each in cluster_of(found)["workerGroupSpecs"] if each["groupName"] == name)
    return one


def pod(each: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = each["template"]["spec"]
    return spec


def container(each: dict[str, Any]) -> dict[str, Any]:
    (one,) = pod(each)["containers"]
    return one


def autoscaling(found: dict[str, Any]) -> dict[str, Any]:
    """What Ray's own autoscaler reads in it."""
    resource = {"metadata": {"name": "raykd", "namespace": "default"}, "spec": cluster_of(found)}
    return _derive_autoscaling_config_from_ray_cr(resource)


def check(found: dict[str, Any]) -> None:
    """Raises for whatever is wrong in it."""
    jsonschema.validate(found, KINDS[found["kind"]])
    for each in groups(found):
        as_pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, **each["template"]}
        kubernetes_validate.validate(as_pod, KUBERNETES, strict=True)
        options = {option for parameter in start.params for option in parameter.opts}
        assert {f"--{name}" for name in each["rayStartParams"]} <= options
        mounted = {mount["name"] for mount in container(each)["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod(each)["volumes"]}
    autoscaling(found)


def amount(quantity: str) -> int:
    number, unit = re.fullmatch(r"(\d+)(\w+)", quantity).groups()  # type: ignore[union-attr]
    return int(number) * GIGA[unit]


@pytest.fixture(params=["raycluster", "rayjob"])
def found(request: pytest.FixtureRequest) -> dict[str, Any]:
    return manifest(request.param)


def test_every_field_is_one_that_kuberay_and_kubernetes_know(found: dict[str, Any]) -> None:
    check(found)


MISTAKES: dict[str, Change] = {
    "an unknown field": lambda m: cluster_of(m).update(workers=3),
    "an unknown field of a group": lambda m: group(m, "teachers").update(replica=1),
    "no head": lambda m: cluster_of(m).pop("headGroupSpec"),
    "no bound": lambda m: group(m, "students").pop("maxReplicas"),
    "a number as text": lambda m: group(m, "students").update(minReplicas="1"),
    "a text as number": lambda m: group(m, "students").update(rayStartParams={"object-store-memory": 4000000000}),
    "another version": lambda m: m.update(apiVersion="ray.io/v1alpha1"),
    "a mode that there is not": lambda m: cluster_of(m)["autoscalerOptions"].update(upscalingMode="Fast"),
    "an unknown field of a pod": lambda m: pod(group(m, "teachers")).update(toleration=[]),
    "an unknown field of a container": lambda m: container(group(m, "teachers")).update(volumes=[]),
    "a pod without containers": lambda m: pod(group(m, "teachers")).pop("containers"),
    "an option that ray start lacks": lambda m: group(m, "teachers")["rayStartParams"].update({"gpus": "4"}),
    "a volume that there is not": lambda m: pod(group(m, "teachers"))["volumes"].pop(),
    "a label that Ray refuses": lambda m: group(m, "teachers")["labels"].update({"raykd-role": "a b"}),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_a_manifest_is_found(found: dict[str, Any], mistake: str) -> None:
    wrong = deepcopy(found)
    MISTAKES[mistake](wrong)
    refusals = (
        jsonschema.ValidationError,
        kubernetes_validate.ValidationError,
        AssertionError,
        ValueError,
        KeyError,
    )
    with pytest.raises(refusals):
        check(wrong)


def test_the_head_takes_no_work_and_no_gpu_and_stays_off_spot_nodes(found: dict[str, Any]) -> None:
    head = cluster_of(found)["headGroupSpec"]
    resources = autoscaling(found)["available_node_types"]["headgroup"]["resources"]
    assert resources["CPU"] == 0
    assert resources.get("GPU", 0) == 0
    assert "tolerations" not in pod(head)


def test_the_autoscaler_sees_two_groups_with_gpus_that_it_can_tell_apart(found: dict[str, Any]) -> None:
    types = autoscaling(found)["available_node_types"]
    teachers, students = types["teachers"], types["students"]
    assert teachers["resources"]["GPU"] > students["resources"]["GPU"] > 0
    assert teachers["labels"] == {"raykd-role": "teacher"}
    assert students["labels"] == {"raykd-role": "student"}
    for each in (teachers, students):
        assert 1 <= each["min_workers"] <= each["max_workers"]
    assert cluster_of(found)["enableInTreeAutoscaling"] is True
    assert cluster_of(found)["autoscalerOptions"]["version"] == "v2"  # v1 starts nothing for a label


def test_the_labels_that_the_commands_ask_for_are_those_of_a_group(found: dict[str, Any]) -> None:
    labels = {f"{key}={value}" for each in groups(found) for key, value in each.get("labels", {}).items()}
    assert marks_asked("label") == labels
    for option, name in (("--teacher-label", "teachers"), ("--worker-label", "students")):
        ((key, value),) = group(found, name)["labels"].items()
        assert f"{option} {key}={value}" in manifest("rayjob")["spec"]["entrypoint"]


def test_every_pod_mounts_the_claim_at_the_path_that_the_commands_name(found: dict[str, Any]) -> None:
    claim = manifest("storage")
    kubernetes_validate.validate(claim, KUBERNETES, strict=True)
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    paths = set()
    for each in groups(found):
        (volume,) = (v for v in pod(each)["volumes"] if "persistentVolumeClaim" in v)
        assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        paths |= {m["mountPath"] for m in container(each)["volumeMounts"] if m["name"] == volume["name"]}
    (path,) = paths
    assert f"--storage {path}" in manifest("rayjob")["spec"]["entrypoint"]


def test_every_pod_keeps_the_object_store_in_memory_and_has_room_for_it(found: dict[str, Any]) -> None:
    for each in groups(found):
        (shm,) = (v for v in pod(each)["volumes"] if v.get("emptyDir", {}).get("medium") == "Memory")
        room = amount(shm["emptyDir"]["sizeLimit"])
        assert {"name": shm["name"], "mountPath": "/dev/shm"} in container(each)["volumeMounts"]
        memory = amount(container(each)["resources"]["limits"]["memory"])
        # Ray's default is 30 % of the memory
        assert int(each["rayStartParams"].get("object-store-memory", 0.3 * memory)) < room < memory / 2


def test_every_container_has_what_it_asks_for_and_no_rights(found: dict[str, Any]) -> None:
    for each in groups(found):
        resources = container(each)["resources"]
        assert resources["requests"] == resources["limits"]
        assert {"cpu", "memory"} <= resources["limits"].keys()
        assert pod(each)["securityContext"]["runAsNonRoot"] is True
        assert container(each)["securityContext"]["allowPrivilegeEscalation"] is False
    for each in cluster_of(found)["workerGroupSpecs"]:
        assert pod(each)["automountServiceAccountToken"] is False
        assert {t["key"] for t in pod(each)["tolerations"]} >= {"nvidia.com/gpu", "spot"}


def test_the_cluster_of_the_job_is_the_one_that_stays() -> None:
    assert cluster_of(manifest("rayjob")) == cluster_of(manifest("raycluster"))


def test_the_job_goes_on_after_a_failure_and_ends_its_cluster() -> None:
    spec = manifest("rayjob")["spec"]
    assert spec["backoffLimit"] >= 1
    assert spec["shutdownAfterJobFinishes"] is True  # without it the time to live means nothing
    assert spec["ttlSecondsAfterFinished"] > 0


def test_the_environment_of_the_job_is_that_of_submitted_jobs() -> None:
    inside = yaml.safe_load(manifest("rayjob")["spec"]["runtimeEnvYAML"])
    assert inside == yaml.safe_load((CLUSTER / "runtime-env.yaml").read_text())
