"""What KubeRay 1.6.2 takes in `ray.io/v1`, as far as a cluster and a job need it: no package has the CRDs themselves.

Read from its field reference (docs.ray.io, "KubeRay CRD API reference"). A field that is not here is refused. Pod templates are
Kubernetes' own, and are checked with its schema.
"""

from __future__ import annotations

from typing import Any

TEXT = {"type": "string", "minLength": 1}
TEXTS = {"type": "object", "additionalProperties": TEXT}
FLAG = {"type": "boolean"}
COUNT = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}
OBJECT = {"type": "object"}


def fields(*required: str, **known: Any) -> dict[str, Any]:
    """An object with these fields and no others."""
    assert set(required) <= known.keys()
    return {"type": "object", "properties": known, "required": list(required), "additionalProperties": False}


def one_of(*values: str) -> dict[str, Any]:
    return {"enum": list(values)}


GROUP: dict[str, Any] = {
    "template": OBJECT,
    "rayStartParams": TEXTS,
    "resources": TEXTS,
    "labels": TEXTS,
}
CLUSTER = fields(
    "headGroupSpec",
    rayVersion=TEXT,
    enableInTreeAutoscaling=FLAG,
    autoscalerOptions=fields(
        version=one_of("v1", "v2"),
        upscalingMode=one_of("Default", "Aggressive", "Conservative"),
        idleTimeoutSeconds=COUNT,
        resources=fields(requests=TEXTS, limits=TEXTS),
        image=TEXT,
        imagePullPolicy=one_of("Always", "IfNotPresent", "Never"),
        env={"type": "array"},
        envFrom={"type": "array"},
        volumeMounts={"type": "array"},
        securityContext=OBJECT,
    ),
    headGroupSpec=fields(
        "template", "rayStartParams",  # before 1.5 the second is required too
        **GROUP,
        serviceType=one_of("ClusterIP", "NodePort", "LoadBalancer", "ExternalName"),
        headService=OBJECT,
        enableIngress=FLAG,
    ),
    workerGroupSpecs={
        "type": "array",
        "items": fields(
            "groupName", "template", "rayStartParams", "minReplicas", "maxReplicas",
            **GROUP,
            groupName=TEXT,
            replicas=COUNT,
            minReplicas=COUNT,
            maxReplicas=COUNT,
            numOfHosts=COUNT,
            idleTimeoutSeconds=COUNT,
            suspend=FLAG,
            scaleStrategy=fields(workersToDelete={"type": "array", "items": TEXT}),
        ),
    },
    suspend=FLAG,
    managedBy=one_of("ray.io/kuberay-operator", "kueue.x-k8s.io/multikueue"),
    headServiceAnnotations=TEXTS,
    gcsFaultToleranceOptions=OBJECT,
    authOptions=fields(mode=one_of("disabled", "token"), secretName=TEXT, enableK8sTokenAuth=FLAG),
    upgradeStrategy=fields(type=one_of("Recreate", "None")),
)  # fmt: skip
JOB = fields(
    entrypoint=TEXT,
    rayClusterSpec=CLUSTER,
    clusterSelector=TEXTS,
    runtimeEnvYAML=TEXT,
    metadata=TEXTS,
    submissionMode=one_of("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"),
    submitterPodTemplate=OBJECT,
    submitterConfig=fields(backoffLimit=COUNT),
    backoffLimit=COUNT,
    activeDeadlineSeconds={**COUNT, "minimum": 1},
    preRunningDeadlineSeconds={**COUNT, "minimum": 1},
    shutdownAfterJobFinishes=FLAG,
    ttlSecondsAfterFinished=COUNT,
    entrypointNumCpus={"type": "number"},
    entrypointNumGpus={"type": "number"},
    entrypointResources=TEXT,
    jobId=TEXT,
    suspend=FLAG,
    managedBy=one_of("ray.io/kuberay-operator", "kueue.x-k8s.io/multikueue"),
    deletionStrategy=OBJECT,
)
KINDS = {
    kind: fields(
        "apiVersion", "kind", "metadata", "spec",
        apiVersion=one_of("ray.io/v1"),
        kind=one_of(kind),
        metadata=fields("name", name=TEXT, namespace=TEXT, labels=TEXTS, annotations=TEXTS),
        spec=spec,
    )
    for kind, spec in (("RayCluster", CLUSTER), ("RayJob", JOB))
}  # fmt: skip
