"""A function called once on every node of the cluster that may get a worker, before any worker is there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.connect import worker_env
from cluster.placement.fit import demand_of
from cluster.placement.labels import matches
from cluster.tasks import Failure, PoolSpec
from cluster.workers.ray_errors import result_of

RETRIES = 2  # of a call whose process dies


@dataclass(frozen=True)
class Home:
    """A living node, by Ray's id and its address, and the pools of which it could hold a worker."""

    id: str
    address: str
    pools: frozenset[str]


def homes(specs: Sequence[PoolSpec]) -> list[Home]:
    """The living nodes that could hold a worker of a pool, were they empty."""
    found = [
        Home(
            node["NodeID"],
            node["NodeManagerAddress"],
            frozenset(spec.name for spec in specs if _holds(node["Resources"], node["Labels"], spec)),
        )
        for node in ray.nodes()
        if node["Alive"]
    ]
    return [home for home in found if home.pools]


def call_on(
    homes: Sequence[Home],
    function: Callable[..., Any],
    arguments: Callable[[Home], tuple],
    mistakes: tuple[type[Exception], ...] = (),
    env_vars: Mapping[str, str] | None = None,
) -> Iterator[tuple[Home, Any, Failure | None]]:
    """What the function returned on each node, or why not, as it comes in. It takes no share of a node, and has a worker's environment."""
    remote = ray.remote(function)
    waiting = {
        remote.options(
            num_cpus=0,
            max_retries=RETRIES,
            runtime_env={"env_vars": {**worker_env(), **(env_vars or {})}},
            scheduling_strategy=NodeAffinitySchedulingStrategy(home.id, soft=False),
        ).remote(*arguments(home)): home
        for home in homes
    }
    while waiting:
        (ready,), _ = ray.wait(list(waiting), num_returns=1)
        yield waiting.pop(ready), *result_of(ready, mistakes)


def _holds(resources: Mapping[str, float], labels: Mapping[str, str], spec: PoolSpec) -> bool:
    enough = all(resources.get(name, 0.0) >= amount for name, amount in demand_of(spec).items())
    return enough and matches(spec.labels, labels)
