"""A node dies with its worker and with what lies there: what is lost is drawn again on another node, to the same digest."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from ray._private.node import Node
from ray.cluster_utils import Cluster

from tests.faults.conftest import Reference, Start
from tests.faults.harness import digest_of, failures
from tests.support.faults_nodes import PLACES, add_easel, cluster_without_easels, kill_node_of
from tests.support.faults_world import Run, go_on, workers

LENGTH = {
    "loop__steps": 16,
    "rollout__height": 384,  # so large that Ray leaves images and latents where they were made: above 100 kB a chunk
    "rollout__width": 384,
    "rollout__chunk": 4,
    "rollout__steps": 2,
}
TRIES = 3  # the judge may be caught with the last image that there is: then none waits, and none is lost
# Ray would miss a node after some seconds more
NOTICED_SOON = {
    "health_check_initial_delay_ms": 500,
    "health_check_period_ms": 500,
    "health_check_failure_threshold": 3,
}


@pytest.fixture(scope="module")
def cluster(ray_cluster: str) -> Iterator[Cluster]:
    """A second cluster on this machine, whose head has no place for rollout workers."""
    with cluster_without_easels(**NOTICED_SOON) as cluster:
        yield cluster


@pytest.fixture
def easel(cluster: Cluster) -> Iterator[Node]:
    """A node with a place for one rollout worker."""
    yield add_easel(cluster)
    for node in list(cluster.worker_nodes):
        cluster.remove_node(node)


def lose_easel(cluster: Cluster) -> None:
    """The node of the only rollout worker dies; another one takes its place."""
    (worker,) = workers("PlainRollout")
    kill_node_of(worker)
    add_easel(cluster)


def wait_until_idle(run: Run, *classes: str) -> None:
    """Waits until workers of these classes have had nothing to do for some seconds: what they may do is done."""
    at_work = time.monotonic()

    def idle() -> bool:
        nonlocal at_work
        if any("." in worker.title for name in classes for worker in workers(name)):
            at_work = time.monotonic()
        return time.monotonic() - at_work > 3.0

    run.until(idle, f"{classes} with nothing to do")


def test_images_that_waited_for_the_judge_are_lost_and_later_latents_that_waited_for_the_policy(
    start: Start, reference: Reference, cluster: Cluster, easel: Node
) -> None:
    run = start(address=cluster.address, **PLACES, **LENGTH)
    run.reach(2)
    for _ in range(TRIES):
        scoring = run.catch("PlainReward.score")
        wait_until_idle(run, "PlainRollout")
        lose_easel(cluster)
        go_on(scoring)
        run.reach(run.steps() + 2)
        if "score" in {failure["task"] for failure in failures(run, "object_lost")}:
            break
    else:
        pytest.fail(f"{TRIES} times no image waited while the judge had the last one")

    before = lost(run)
    updating = run.catch("PlainPolicy.update")
    wait_until_idle(run, "PlainRollout", "PlainReward")
    lose_easel(cluster)
    go_on(updating)
    assert digest_of(run) == reference(**LENGTH)
    assert all(map(int.__gt__, lost(run), before))


def lost(run: Run) -> tuple[int, int]:
    """How often payloads that waited for the policy were lost, and how many objects in all, by the metrics."""
    return len(run.events("payloads_lost")), run.folder.read_metrics()[-1].retries.get("object_lost", 0)
