"""The cluster's nodes, and the wait for missing ones, which are requested from an autoscaler."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import ray
from ray.autoscaler.sdk import request_resources

from cluster.placement.fit import Node, PlacementError, check_demands, check_nodes, demand_of, missing
from cluster.tasks import PoolSpec

LOOK_EVERY_S = 1.0

Say = Callable[[str], None]  # is called again and again with what is being waited for


def nodes_here() -> list[Node]:
    """The living nodes of the cluster that this process has joined, its own first."""
    own = ray.get_runtime_context().get_node_id()
    alive = sorted((node for node in ray.nodes() if node["Alive"]), key=lambda node: node["NodeID"] != own)
    return [Node(node["Resources"], node["Labels"]) for node in alive]


@contextmanager
def room_for(specs: Sequence[PoolSpec], timeout_s: float, say: Say) -> Iterator[None]:
    """Enters as soon as the workers fit the nodes. Raises PlacementError if they still do not after timeout_s (0: at once).

    If there is something to wait for, an autoscaler is asked for nodes that hold all workers, and let off when the context
    ends, however it ends: so the workers should have their places by then. Ray keeps one such request for a whole cluster.
    """
    check_demands(specs)
    if not missing(specs, nodes_here()):
        yield
        return
    try:
        if timeout_s:
            _ask_for(specs)
            _wait(specs, timeout_s, say)
        else:
            _check(specs, "To wait for nodes that are still to come, set cluster.node_timeout_s.")
        yield
    finally:
        if timeout_s and ray.is_initialized():
            request_resources(bundles=[])


def _wait(specs: Sequence[PoolSpec], timeout_s: float, say: Say) -> None:
    give_up = time.monotonic() + timeout_s
    since, until = (time.strftime("%H:%M:%S", time.localtime(time.time() + later)) for later in (0.0, timeout_s))
    while lines := missing(specs, nodes_here()):
        say(f"waiting for nodes since {since}, until {until}: {'; '.join(lines)}")
        if time.monotonic() > give_up:
            _check(specs, f"No such nodes came within {timeout_s:g} s (cluster.node_timeout_s).")
        time.sleep(LOOK_EVERY_S)


def _check(specs: Sequence[PoolSpec], advice: str) -> None:
    try:
        check_nodes(specs, nodes_here())
    except PlacementError as error:
        raise PlacementError(f"{error}\n{advice}") from None


def _ask_for(specs: Sequence[PoolSpec]) -> None:
    workers = [spec for spec in specs if demand_of(spec) for _ in range(spec.size)]
    request_resources(
        bundles=[demand_of(spec) for spec in workers],
        bundle_label_selectors=[dict(spec.labels) for spec in workers],
    )
