"""Nodes with labels: workers go where their pool's labels say, and a run waits for a node that is still to come."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray._raylet import GcsClient
from ray.autoscaler._private.constants import AUTOSCALER_RESOURCE_REQUEST_CHANNEL
from ray.cluster_utils import Cluster

from tests.faults.conftest import Start
from tests.support.faults_world import Run, look_at, overrides, workers
from tests.support.plain_run import in_no_time

STORE_BYTES = 100_000_000
LABELS: dict[str, object] = {
    "rollout__labels": '{room = "easel"}',
    "reward__labels": '{room = "!easel"}',
    "policy__labels": '{room = "in(loft, cellar)"}',
    "loop__steps": 2,
}


@pytest.fixture(scope="module")
def cluster(ray_cluster: str) -> Iterator[Cluster]:
    """A second cluster on this machine: a head without a label, and a node for the policy."""
    head = {"num_cpus": 2, "object_store_memory": STORE_BYTES, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    cluster.add_node(num_cpus=1, labels={"room": "loft"}, object_store_memory=STORE_BYTES)
    yield cluster
    cluster.shutdown()


def asked_of_an_autoscaler(cluster: Cluster) -> list[dict[str, float]]:
    """The bundles that nodes are asked for."""
    value = GcsClient(cluster.address).internal_kv_get(AUTOSCALER_RESOURCE_REQUEST_CHANNEL, None)
    return json.loads(value) if value else []


def rooms_of(actor: str) -> list[str]:
    """The rooms of the nodes on which workers of this class live, by the command lines of their raylets."""
    raylets = [look_at(worker.parent) for worker in workers(actor)]
    titles = [raylet.title if raylet else "" for raylet in raylets]
    return [found[1] if (found := re.search(r'"room": ?"(\w+)"', title)) else "" for title in titles]


def waits(run: Run) -> None:
    """Waits until the run says that it waits."""
    run.until(lambda: "waiting for nodes" in run.output(), "a line that says so")


def test_a_run_that_waits_and_gives_up_says_what_was_missing(start: Start, cluster: Cluster) -> None:
    run = start(address=cluster.address, cluster__node_timeout_s=6.0, **LABELS)
    waits(run)
    assert len(asked_of_an_autoscaler(cluster)) == 3
    assert run.end() == 2
    said = " ".join(run.output().split())
    assert re.search(r"waiting for nodes since [\d:]+, until [\d:]+: label: no node has room=easel", said)
    assert "which the pool rollout asks for The nodes have: 1 x (CPU 2); 1 x (CPU 1, room=loft)" in said
    assert "No such nodes came within 6 s (cluster.node_timeout_s)" in said
    assert asked_of_an_autoscaler(cluster) == []


def test_a_run_that_is_ended_while_it_waits_asks_for_nothing_any_more(start: Start, cluster: Cluster) -> None:
    run = start(address=cluster.address, cluster__node_timeout_s=60.0, **LABELS)
    waits(run)
    assert asked_of_an_autoscaler(cluster)
    run.process.send_signal(signal.SIGTERM)
    assert run.end() != 0
    assert asked_of_an_autoscaler(cluster) == []


def test_a_run_without_patience_fails_at_once_and_names_the_key(
    ray_cluster: str, plain_world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No node of the cluster that this process has joined has a label."""
    assert in_no_time([str(plain_world), "--out", str(tmp_path / "run"), *overrides(**LABELS)]) == 2
    said = " ".join(capsys.readouterr())
    assert "To wait for nodes that are still to come, set cluster.node_timeout_s" in " ".join(said.split())
    assert "waiting for nodes" not in said


def test_a_run_begins_when_the_node_comes_and_every_worker_is_where_its_labels_say(
    start: Start, cluster: Cluster
) -> None:
    run = start(address=cluster.address, cluster__node_timeout_s=120.0, **LABELS)
    waits(run)
    cluster.add_node(num_cpus=1, labels={"room": "easel"}, object_store_memory=STORE_BYTES)
    run.reach(1)
    assert rooms_of("PlainRollout") == ["easel"]
    assert rooms_of("PlainReward") in ([""], ["loft"])
    assert rooms_of("PlainPolicy") == ["loft"]
    assert asked_of_an_autoscaler(cluster) == []
    assert run.end() == 0
