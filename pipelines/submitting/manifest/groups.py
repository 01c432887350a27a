"""The groups of pods in a RayJob, and the nodes that Ray makes of them."""

from __future__ import annotations

import json
import math
import re
import shlex
from dataclasses import dataclass
from typing import Any

from cluster.placement.fit import Node

SUFFIXES = {"n": 1e-9, "u": 1e-6, "m": 1e-3, "": 1.0} | {
    letter + binary: float(base ** (power + 1))
    for power, letter in enumerate("KMGTPE")
    for binary, base in (("i", 1024), ("", 1000))
}
SUFFIXES["k"] = SUFFIXES.pop("K")
STORE_PART = 0.3  # of a node's memory: Ray's own choice
SHM_PART = 0.95  # Ray's own choice takes no more of /dev/shm


@dataclass(frozen=True)
class Group:
    """Pods of one kind: how many there are at the start and at most, as the autoscaler may have it."""

    name: str
    table: dict[str, Any]
    start: int = 1
    largest: int = 1

    @property
    def pod(self) -> dict[str, Any]:
        """The pods' spec."""
        return self.table.get("template", {}).get("spec", {})

    @property
    def container(self) -> dict[str, Any]:
        """The one in which Ray runs."""
        return next(iter(self.pod.get("containers", [])), {})

    @property
    def params(self) -> dict[str, str]:
        """What `ray start` is given."""
        return self.table.get("rayStartParams", {})

    @property
    def memory(self) -> float:
        """Bytes that the container may take; 0 if that is not limited."""
        return quantity(self.container.get("resources", {}).get("limits", {}).get("memory", 0))

    @property
    def shm_bytes(self) -> float | None:
        """What /dev/shm holds; None if the pod mounts nothing there."""
        mounted = {
            mount["name"] for mount in self.container.get("volumeMounts", []) if mount["mountPath"] == "/dev/shm"
        }
        for volume in self.pod.get("volumes", []):
            if volume["name"] in mounted and volume.get("emptyDir", {}).get("medium") == "Memory":
                return quantity(volume["emptyDir"].get("sizeLimit", 0)) or self.memory
        return None

    @property
    def store_bytes(self) -> float:
        """The object store of a pod."""
        if "object-store-memory" in self.params:
            return float(self.params["object-store-memory"])
        shm = self.memory if self.shm_bytes is None else self.shm_bytes
        return min(STORE_PART * self.memory, SHM_PART * shm)

    @property
    def node(self) -> Node:
        """What Ray knows of a pod. Raises ValueError for numbers that cannot be read."""
        return Node(_resources(self), self.table.get("labels", {}))


def groups_of(cluster: dict[str, Any]) -> list[Group]:
    """The head, then the groups of workers."""
    elastic = cluster.get("enableInTreeAutoscaling", False)
    groups = [Group("head", cluster.get("headGroupSpec", {}))]
    for table in cluster.get("workerGroupSpecs", []):
        hosts, replicas = table.get("numOfHosts", 1), table.get("replicas", 0)
        least, most = table.get("minReplicas", 0), table.get("maxReplicas", 2**31 - 1)
        start = min(max(replicas, least), most)
        groups.append(Group(table.get("groupName", ""), table, start * hosts, (most if elastic else start) * hosts))
    return groups


def quantity(value: str | float) -> float:
    """A Kubernetes quantity, such as 500m, 2, 16Gi or 1e3. Raises ValueError."""
    found = re.fullmatch(r"([+-]?[0-9.]+(?:[eE][+-]?[0-9]+)?)([A-Za-z]*)", str(value))
    if not found or found[2] not in SUFFIXES:
        raise ValueError(f"{value!r} is no quantity: give such as 500m, 4 or 16Gi")
    return float(found[1]) * SUFFIXES[found[2]]


def is_gpu(name: str) -> bool:
    """Whether KubeRay takes a container's resource for GPUs."""
    return name.lower().endswith("gpu") or bool(re.search(r"nvidia\.com/mig-\d+g\.\d+gb$", name))


def _resources(group: Group) -> dict[str, float]:
    """The logical resources of a pod: the group's own, else those of `ray start`, else the container's limits."""
    resources = group.container.get("resources", {})
    limits = resources.get("limits", {})
    cpus = limits.get("cpu") or resources.get("requests", {}).get("cpu", 0)
    found = {"CPU": float(math.ceil(quantity(cpus)))}
    found["GPU"] = sum((quantity(value) for name, value in limits.items() if is_gpu(name)), 0.0)
    for name, flag in (("CPU", "num-cpus"), ("GPU", "num-gpus")):
        if flag in group.params:
            found[name] = float(group.params[flag])
    for word in shlex.split(group.params.get("resources", "")):  # quoted for the shell
        found |= {name: float(value) for name, value in json.loads(word).items()}
    for name, value in group.table.get("resources", {}).items():
        known = {"cpu": "CPU", "memory": "memory"}.get(name.lower(), "GPU" if is_gpu(name) else name)
        found[known] = quantity(value)
    return found
