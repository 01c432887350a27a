"""Whether the workers that are wanted fit the cluster: Ray itself would wait for room in silence, for ever."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cluster.errors import UserError
from cluster.placement.labels import check_selector, listed, matches
from cluster.placement.packing import UNIT, Amounts, Load, Room, can_be_packed, left_after
from cluster.tasks import PoolSpec


class PlacementError(UserError):
    """More is asked of the cluster than it has."""


@dataclass(frozen=True)
class Node:
    """What a node has in all, by Ray's names of resources, and its labels."""

    resources: Mapping[str, float]
    labels: Mapping[str, str] = field(default_factory=dict)


def demand_of(spec: PoolSpec) -> dict[str, float]:
    """What one worker holds, by Ray's names of resources."""
    demand = {"CPU": spec.num_cpus, "GPU": spec.num_gpus, **spec.resources}
    return {resource: amount for resource, amount in demand.items() if amount}


def check_demands(specs: Sequence[PoolSpec]) -> None:
    """Raises PlacementError for what no cluster can give."""
    for spec in specs:
        if spec.num_gpus > 1 and spec.num_gpus % 1:
            raise PlacementError(
                f"a worker of the pool {spec.name} asks for {spec.num_gpus:g} GPUs: give it whole ones, or less than one"
            )
        for key, value in spec.labels.items():
            try:
                check_selector(key, value)
            except ValueError as error:
                raise PlacementError(f"labels of the pool {spec.name}: {error}") from error


def check_nodes(specs: Sequence[PoolSpec], nodes: Sequence[Node]) -> None:
    """Raises PlacementError if the workers cannot be spread over the nodes, each whole on one. The driver's node comes first.

    Refuses only what is impossible on an empty cluster.
    """
    check_demands(specs)
    if lines := missing(specs, nodes):
        raise PlacementError(
            "the workers do not fit the cluster.\n"
            + "".join(f"  {line}\n" for line in lines)
            + f"The nodes have: {nodes_listed(specs, nodes)}\n"
            "Lower the size of a pool or what each of its workers holds, or join a cluster that has more (set RAY_ADDRESS)."
        )


def missing(specs: Sequence[PoolSpec], nodes: Sequence[Node]) -> list[str]:
    """What keeps the workers from the nodes, the plainest reasons alone, a line each; empty if nothing does."""
    return (
        [*_missing_labels(specs, nodes), *_missing_resources(specs, nodes)]
        or _homeless(specs, nodes)
        or _not_packed(specs, nodes)
    )


def nodes_listed(specs: Sequence[PoolSpec], nodes: Sequence[Node]) -> str:
    """The kinds of nodes: what they have of what the pools ask for."""
    names = _names(specs)
    words = [(_listed({name: node.resources.get(name, 0.0) for name in names}), listed(node.labels)) for node in nodes]
    kinds = Counter(", ".join(filter(None, kind)) for kind in words)
    return "; ".join(f"{count} x ({kind})" for kind, count in kinds.items())


def _missing_labels(specs: Sequence[PoolSpec], nodes: Sequence[Node]) -> list[str]:
    lines = []
    for spec in specs:
        if any(matches(spec.labels, node.labels) for node in nodes):
            continue
        alone = [
            {key: value}
            for key, value in spec.labels.items()
            if not any(matches({key: value}, node.labels) for node in nodes)
        ]
        what = " and ".join(listed(label) for label in alone) or f"{listed(spec.labels)} together"
        lines.append(f"label: no node has {what}, which the pool {spec.name} asks for")
    return lines


def _missing_resources(specs: Sequence[PoolSpec], nodes: Sequence[Node]) -> list[str]:
    lines = []
    for resource in dict.fromkeys(name for spec in specs for name in demand_of(spec)):
        asking = [(spec, demand_of(spec)[resource]) for spec in specs if resource in demand_of(spec)]
        asked = sum(spec.size * amount for spec, amount in asking)
        there = sum(node.resources.get(resource, 0.0) for node in nodes)
        if asked > there + 0.1 / UNIT:  # so that three times 0.3333 fit into 1
            shares = ", ".join(f"{spec.name} {spec.size} x {amount:g}" for spec, amount in asking)
            lines.append(f"{resource}: asked {asked:g} ({shares}), the cluster has {there:g}")
    return lines


def _homeless(specs: Sequence[PoolSpec], nodes: Sequence[Node]) -> list[str]:
    """Workers that fit on no node, even if it were theirs alone."""
    lines, rooms = [], _rooms(specs, nodes)
    for spec, load in zip(specs, _loads(specs), strict=True):
        if not any(left_after(load, room) for room in rooms):
            where = "the driver's node" if spec.beside_driver else f"any node{_with_labels(spec)}"
            asked = _listed(demand_of(spec))
            lines.append(f"a worker of the pool {spec.name} does not fit on {where}: it asks for {asked}")
    return lines


def _not_packed(specs: Sequence[PoolSpec], nodes: Sequence[Node]) -> list[str]:
    loads = [load for spec, load in zip(specs, _loads(specs), strict=True) for _ in range(spec.size)]
    if can_be_packed(loads, _rooms(specs, nodes)):
        return []
    shares = ", ".join(f"{spec.name} {spec.size} x ({_listed(demand_of(spec))}){_with_labels(spec)}" for spec in specs)
    fractions = any(spec.num_gpus % 1 for spec in specs)
    joined = " (what is left of one GPU is not joined with what is left of another)" if fractions else ""
    return [f"the cluster has enough for the workers, but not on the right nodes: {shares}{joined}"]


def _loads(specs: Sequence[PoolSpec]) -> list[Load]:
    names = [name for name in _names(specs) if name != "GPU"]
    return [
        Load(_amounts(demand_of(spec), names), round(spec.num_gpus * UNIT), 1 << number)
        for number, spec in enumerate(specs)
    ]


def _rooms(specs: Sequence[PoolSpec], nodes: Sequence[Node]) -> list[Room]:
    names = [name for name in _names(specs) if name != "GPU"]
    rooms = []
    for at, node in enumerate(nodes):
        takes = [matches(spec.labels, node.labels) and (at == 0 or not spec.beside_driver) for spec in specs]
        pools = sum(1 << number for number, taken in enumerate(takes) if taken)
        rooms.append(Room(_amounts(node.resources, names), (UNIT,) * int(node.resources.get("GPU", 0)), pools))
    return rooms


def _names(specs: Sequence[PoolSpec]) -> list[str]:
    return sorted({name for spec in specs for name in demand_of(spec)})


def _amounts(resources: Mapping[str, float], names: Sequence[str]) -> Amounts:
    return tuple(round(resources.get(name, 0.0) * UNIT) for name in names)


def _listed(resources: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {amount:g}" for name, amount in resources.items()) or "nothing"


def _with_labels(spec: PoolSpec) -> str:
    return f" with {listed(spec.labels)}" if spec.labels else ""
