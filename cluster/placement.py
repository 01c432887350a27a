"""Whether the workers that are wanted fit the cluster: Ray itself would wait for room in silence, for ever."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cluster.tasks import PoolSpec


class PlacementError(ValueError):
    """More is asked of the cluster than it has."""


def demand_of(spec: PoolSpec) -> dict[str, float]:
    """What one worker holds, by Ray's names of resources."""
    demand = {"CPU": spec.num_cpus, "GPU": spec.num_gpus, **spec.resources}
    return {resource: amount for resource, amount in demand.items() if amount}


def preflight(specs: Sequence[PoolSpec], cluster_resources: Mapping[str, float]) -> None:
    """Raises PlacementError if the pools together ask for more of any resource than `ray.cluster_resources()` has.

    Left out: whether each worker fits on a single node.
    """
    asked: dict[str, float] = {}
    for spec in specs:
        for resource, amount in demand_of(spec).items():
            asked[resource] = asked.get(resource, 0.0) + amount * spec.size
    # a tenth of Ray's own unit of 0.0001, so that three times 0.3333 fit into 1
    short = [resource for resource in asked if asked[resource] > cluster_resources.get(resource, 0.0) + 1e-5]
    if short:
        lines = [_complaint(resource, specs, asked[resource], cluster_resources) for resource in short]
        raise PlacementError(
            "the workers do not fit the cluster.\n"
            + "\n".join(lines)
            + "\nLower the size of a pool or what each of its workers holds, or join a cluster that has more"
            " (set RAY_ADDRESS)."
        )


def _complaint(resource: str, specs: Sequence[PoolSpec], asked: float, cluster_resources: Mapping[str, float]) -> str:
    shares = [
        f"{spec.name} {spec.size} x {demand_of(spec)[resource]:g}" for spec in specs if resource in demand_of(spec)
    ]
    there = cluster_resources.get(resource, 0.0)
    return f"  {resource}: asked {asked:g} ({', '.join(shares)}), the cluster has {there:g}"
