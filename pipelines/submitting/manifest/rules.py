"""What KubeRay's operator, and Ray as it is started by it, would refuse in a RayJob whose keys and types are right.

Taken from the operator's validation of version 1.7 (pipelines/submitting/manifest/kuberay/README.md), as far as its fields
concern a training job.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import yaml

from pipelines.submitting.manifest.groups import Group

MODES = ("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode")
NAME_LENGTH = 47  # the operator adds six characters for the cluster, and the cluster's pods get their names from it
NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
LABEL = re.compile(r"([A-Za-z0-9]([-_.A-Za-z0-9]{0,61}[A-Za-z0-9])?)?")
LABEL_PREFIX = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
V2_BY_ENV = "RAY_enable_autoscaler_v2"


def broken_rules(manifest: dict[str, Any], groups: list[Group]) -> list[str]:
    """A line for each rule that is broken."""
    spec = manifest.get("spec", {})
    cluster = spec.get("rayClusterSpec", {})
    return [
        *_name(manifest.get("metadata", {})),
        *_ending(spec),
        *_submission(spec, groups[0]),
        *_cluster(spec),
        *_autoscaling(cluster, groups),
        *_replicas(groups[1:]),
        *(line for group in groups for line in _group(group)),
    ]


def _name(metadata: dict[str, Any]) -> Iterator[str]:
    name = metadata.get("name")
    if name is None:
        if "generateName" not in metadata:
            yield "metadata.name: missing"
    elif len(str(name)) > NAME_LENGTH:
        yield f"metadata.name has {len(str(name))} characters: at most {NAME_LENGTH} are allowed"
    elif not NAME.fullmatch(str(name)):
        yield f"metadata.name = {name}: give lower-case letters, digits and -, a letter first"


def _ending(spec: dict[str, Any]) -> Iterator[str]:
    shuts_down = spec.get("shutdownAfterJobFinishes", False)
    for key in ("ttlSecondsAfterFinished", "suspend"):
        if spec.get(key) and not shuts_down:
            yield f"spec.{key} = {_shown(spec[key])} needs spec.shutdownAfterJobFinishes: true"
    if shuts_down and spec.get("deletionStrategy", {}).get("deletionRules"):
        yield "spec.shutdownAfterJobFinishes and spec.deletionStrategy.deletionRules exclude each other: take one out"
    for key in ("ttlSecondsAfterFinished", "backoffLimit"):
        if spec.get(key, 0) < 0:
            yield f"spec.{key} = {spec[key]}: it must be 0 or more"
    for key in ("activeDeadlineSeconds", "preRunningDeadlineSeconds"):
        if spec.get(key, 1) < 1:
            yield f"spec.{key} = {spec[key]}: it must be 1 or more"


def _submission(spec: dict[str, Any], head: Group) -> Iterator[str]:
    mode = spec.get("submissionMode", MODES[0])
    if mode not in MODES:
        yield f"spec.submissionMode = {mode}: allowed are {', '.join(MODES)}"
    if mode == "InteractiveMode" and spec.get("backoffLimit", 0) > 0:
        yield "spec.submissionMode = InteractiveMode allows no spec.backoffLimit: nobody would submit the job again"
    unused = [key for key in ("submitterPodTemplate", "submitterConfig") if key in spec]
    if mode == "SidecarMode":
        for key in unused:
            yield f"spec.{key}: not with spec.submissionMode = SidecarMode"
        if head.pod.get("restartPolicy", "Never") != "Never":
            yield "head: restartPolicy must be Never or left out with spec.submissionMode = SidecarMode"
    elif mode == "HTTPMode":
        for key in unused:
            yield f"spec.{key}: no pod submits the job with spec.submissionMode = HTTPMode; take it out"


def _cluster(spec: dict[str, Any]) -> Iterator[str]:
    cluster = spec.get("rayClusterSpec", {})
    if spec.get("clusterSelector"):
        yield "spec.clusterSelector: a run starts its own cluster; give spec.rayClusterSpec instead"
    if cluster.get("authOptions", {}).get("enableK8sTokenAuth"):
        yield "spec.rayClusterSpec.authOptions.enableK8sTokenAuth: not supported for a RayJob; take it out"
    try:
        environment = yaml.safe_load(spec.get("runtimeEnvYAML", "")) or {}
    except yaml.YAMLError as error:
        yield f"spec.runtimeEnvYAML is not YAML: {error}"
    else:
        if not isinstance(environment, dict):
            yield "spec.runtimeEnvYAML: it must hold keys and values, such as env_vars"


def _autoscaling(cluster: dict[str, Any], groups: list[Group]) -> Iterator[str]:
    enabled = cluster.get("enableInTreeAutoscaling", False)
    options = cluster.get("autoscalerOptions", {})
    by_env = any(variable["name"] == V2_BY_ENV for variable in groups[0].container.get("env", []))
    v2 = enabled and options.get("version") == "v2"
    if by_env and not enabled:
        yield f"head: {V2_BY_ENV} needs spec.rayClusterSpec.enableInTreeAutoscaling: true"
    if by_env and "version" in options:
        yield f"spec.rayClusterSpec.autoscalerOptions.version and {V2_BY_ENV} of the head say the same: take the latter out"
    if options.get("idleTimeoutSeconds", 0) < 0:
        yield "spec.rayClusterSpec.autoscalerOptions.idleTimeoutSeconds: it must be 0 or more"
    for group in groups:
        if v2 and group.pod.get("restartPolicy", "Never") != "Never":
            yield f"{group.name}: restartPolicy = {group.pod['restartPolicy']}: with autoscaler v2 it must be Never or left out"
        if enabled and group.table.get("suspend"):
            yield f"{group.name}: suspend is not possible with enableInTreeAutoscaling"
        for key in ("idleTimeoutSeconds", "priority"):
            if group.table.get(key) and not (v2 or by_env):
                yield f"{group.name}: {key} needs spec.rayClusterSpec.autoscalerOptions.version: v2"


def _replicas(groups: list[Group]) -> Iterator[str]:
    for name, count in Counter(group.name for group in groups).items():
        if count > 1:
            yield f"{name}: {count} groups of workers have this groupName"
    for group in groups:
        least, most = group.table.get("minReplicas", 0), group.table.get("maxReplicas", 2**31 - 1)
        replicas = group.table.get("replicas", least)
        if least < 0 or most < 0:
            yield f"{group.name}: minReplicas = {least} and maxReplicas = {most} must be 0 or more"
        elif least > most:
            yield f"{group.name}: minReplicas = {least} is above maxReplicas = {most}"
        elif not least <= replicas <= most:
            yield f"{group.name}: replicas = {replicas} lies outside of minReplicas = {least} and maxReplicas = {most}"


def _group(group: Group) -> Iterator[str]:
    if not group.pod.get("containers"):
        yield f"{group.name}: template.spec.containers: missing"
    twice = [key for key in ("num-cpus", "num-gpus", "memory", "resources") if group.params.get(key)]
    if twice and group.table.get("resources"):
        yield f"{group.name}: resources stand in rayStartParams ({', '.join(twice)}) and in the group's resources: give one of them"
    if "labels" in group.params:
        yield f"{group.name}: rayStartParams.labels is not supported: write them as the group's labels"
    for key, value in group.table.get("labels", {}).items():
        prefix, _, last = key.rpartition("/")
        if not last or not LABEL.fullmatch(last) or (prefix and not LABEL_PREFIX.fullmatch(prefix)):
            yield f"{group.name}: labels: {key!r} is no key of a label"
        if not LABEL.fullmatch(value):
            yield f"{group.name}: labels: {key} = {value!r}: give up to 63 letters, digits, -, _ and ."


def _shown(value: Any) -> str:
    return yaml.safe_dump(value).split("\n")[0]
