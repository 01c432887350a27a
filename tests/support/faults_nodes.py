"""A Ray cluster of several nodes on this machine, each a process tree: one can be lost, as when its power goes.

Rollout workers live on nodes of their own ("easel"), everything else on the head ("home").
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray._private.node import Node
from ray.cluster_utils import Cluster

from tests.support.faults_world import Process, descendants, look_at

PLACES: dict[str, object] = {
    "rollout__resources": "{easel = 1.0}",
    "reward__resources": "{home = 1.0}",
    "policy__resources": "{home = 1.0}",
}
STORE_BYTES = 150_000_000


@contextmanager
def cluster_without_easels(**system_config: Any) -> Iterator[Cluster]:
    """A cluster of a head only, with Ray's own settings but for these."""
    head = {"num_cpus": 4, "resources": {"home": 4}, "object_store_memory": STORE_BYTES, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={**head, "_system_config": system_config})
    try:
        yield cluster
    finally:
        cluster.shutdown()


def add_easel(cluster: Cluster) -> Node:
    """A node with a place for one rollout worker."""
    return cluster.add_node(num_cpus=2, resources={"easel": 1}, object_store_memory=STORE_BYTES)


def kill_node_of(worker: Process) -> None:
    """SIGKILL to a worker's raylet and to all below it."""
    raylet = look_at(worker.parent)
    if raylet is None or "raylet" not in raylet.title.split()[0]:
        raise RuntimeError(f"{worker.title} is not the child of a raylet but of {raylet}")
    for process in [raylet, *descendants(raylet.pid)]:
        process.kill()
