"""Whether the workers that are wanted fit the cluster: Ray itself would wait for room in silence, for ever."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from cluster.tasks import PoolSpec

UNIT = 10_000  # Ray counts resources in ten-thousandths
TRIES = 10_000
Amounts = tuple[int, ...]  # of each resource that anyone asks for, in Ray's unit


class PlacementError(ValueError):
    """More is asked of the cluster than it has."""


def demand_of(spec: PoolSpec) -> dict[str, float]:
    """What one worker holds, by Ray's names of resources."""
    demand = {"CPU": spec.num_cpus, "GPU": spec.num_gpus, **spec.resources}
    return {resource: amount for resource, amount in demand.items() if amount}


def preflight(specs: Sequence[PoolSpec], cluster_resources: Mapping[str, float]) -> None:
    """Raises PlacementError if the pools together ask for more of any resource than `ray.cluster_resources()` has."""
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


def check_nodes(specs: Sequence[PoolSpec], nodes: Sequence[Mapping[str, float]]) -> None:
    """Raises PlacementError if the workers cannot be spread over the nodes, each whole on one. The driver's node comes first.

    Refuses only what is impossible on an empty cluster. It does not look at single GPUs, whose fractions Ray does not join.
    """
    names = sorted({name for spec in specs for name in demand_of(spec)})
    asked = {spec.name: _amounts(demand_of(spec), names) for spec in specs}
    room = [_amounts(node, names) for node in nodes]
    for spec in specs:
        places = room[:1] if spec.beside_driver else room
        if not any(_fits(asked[spec.name], place) for place in places):
            where = "the driver's node" if spec.beside_driver else "any node"
            raise PlacementError(
                f"a worker of the pool {spec.name} does not fit on {where}: it asks for {_listed(demand_of(spec))}.\n"
                f"{_nodes_listed(nodes[:1] if spec.beside_driver else nodes, names)}"
            )
    beside = [asked[spec.name] for spec in specs if spec.beside_driver for _ in range(spec.size)]
    anywhere = [asked[spec.name] for spec in specs if not spec.beside_driver for _ in range(spec.size)]
    driver = room[0]
    for worker in beside:
        driver = _less(driver, worker)
    if min(driver, default=0) < 0 or not can_be_packed(anywhere, [driver, *room[1:]]):
        shares = ", ".join(f"{spec.name} {spec.size} x ({_listed(demand_of(spec))})" for spec in specs)
        raise PlacementError(
            f"the cluster has enough for the workers, but not on the right nodes: {shares}.\n{_nodes_listed(nodes, names)}\n"
            "Lower the size of a pool or what each of its workers holds, or add a node."
        )


def can_be_packed(workers: Sequence[Amounts], nodes: Sequence[Amounts]) -> bool:
    """Whether each worker finds room on a node. True also where TRIES steps of the search do not tell."""
    total = [max(1, sum(amounts)) for amounts in zip(*nodes, strict=True)]
    # the largest first, and each on the fullest node that has room
    workers = sorted(
        workers, key=lambda it: max(a / t for a, t in zip(it, total, strict=True)) if it else 0, reverse=True
    )
    stack = [(0, tuple(sorted(nodes)))]
    seen = set()
    for _ in range(TRIES):
        if not stack:
            return False
        num_placed, room = state = stack.pop()
        if num_placed == len(workers):
            return True
        if state in seen:
            continue
        seen.add(state)
        worker = workers[num_placed]
        for node in sorted(set(room), reverse=True):
            if _fits(worker, node):
                at = room.index(node)
                stack.append((num_placed + 1, tuple(sorted((*room[:at], _less(node, worker), *room[at + 1 :])))))
    return True


def _amounts(resources: Mapping[str, float], names: Sequence[str]) -> Amounts:
    return tuple(round(resources.get(name, 0.0) * UNIT) for name in names)


def _fits(worker: Amounts, node: Amounts) -> bool:
    return all(asked <= there for asked, there in zip(worker, node, strict=True))


def _less(node: Amounts, worker: Amounts) -> Amounts:
    return tuple(there - asked for there, asked in zip(node, worker, strict=True))


def _listed(resources: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {amount:g}" for name, amount in resources.items()) or "nothing"


def _nodes_listed(nodes: Sequence[Mapping[str, float]], names: Sequence[str]) -> str:
    kinds = Counter(_listed({name: node.get(name, 0.0) for name in names}) for node in nodes)
    return "The nodes have: " + "; ".join(f"{count} x ({kind})" for kind, count in kinds.items())


def _complaint(resource: str, specs: Sequence[PoolSpec], asked: float, cluster_resources: Mapping[str, float]) -> str:
    shares = [
        f"{spec.name} {spec.size} x {demand_of(spec)[resource]:g}" for spec in specs if resource in demand_of(spec)
    ]
    there = cluster_resources.get(resource, 0.0)
    return f"  {resource}: asked {asked:g} ({', '.join(shares)}), the cluster has {there:g}"
