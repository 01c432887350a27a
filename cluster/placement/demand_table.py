"""What the pools ask for and what the nodes have, as two tables for the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cluster.placement.fit import Node, demand_of, missing
from cluster.placement.labels import listed
from cluster.tasks import PoolSpec

OF_ITSELF = "node:"  # what Ray adds to each node's resources
IN_BYTES = {"memory": "memory", "object_store_memory": "object store"}


def show_demand(specs: Sequence[PoolSpec], nodes: Sequence[Node]) -> RenderableType:
    """The pools, the kinds of nodes, and what is missing."""
    lines = missing(specs, nodes)
    return Group(pool_table(specs), node_table(nodes), *(Text(f"missing  {line}", style="yellow") for line in lines))


def pool_table(specs: Sequence[PoolSpec]) -> Table:
    """A line per pool."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for column in ("pool", "workers", "limits", "each holds", "in all", "on nodes"):
        table.add_column(column, justify="right" if column in ("workers", "limits") else "left")
    for spec in specs:
        each = demand_of(spec)
        in_all = {name: spec.size * amount for name, amount in each.items()}
        table.add_row(spec.name, str(spec.size), limits(spec), amounts(each), amounts(in_all), where(spec))
    return table


def node_table(nodes: Sequence[Node]) -> Table:
    """A line per kind of nodes."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for column in ("nodes", "each has", *IN_BYTES.values(), "labels"):
        table.add_column(column, justify="right" if column in ("nodes", *IN_BYTES.values()) else "left")
    for kind, count in Counter(_kind(node) for node in nodes).items():
        table.add_row(str(count), *kind)
    return table


def limits(spec: PoolSpec) -> str:
    """The sizes that a pool may have."""
    if spec.gang or spec.beside_driver:
        return "fixed"
    return f"{spec.smallest}+" if spec.max_size is None else f"{spec.smallest}–{spec.max_size}"


def amounts(resources: Mapping[str, float]) -> str:
    """Resources in words."""
    return ", ".join(f"{name} {amount:g}" for name, amount in resources.items()) or "nothing"


def where(spec: PoolSpec) -> str:
    """The nodes that a pool's workers may run on."""
    return "the driver's" if spec.beside_driver else listed(spec.labels) or "any"


def _kind(node: Node) -> tuple[str, ...]:
    """What makes two nodes look alike: a row without its count. Memory differs a little from node to node."""
    own = {name: there for name, there in node.resources.items() if name not in IN_BYTES and OF_ITSELF not in name}
    sizes = (f"{node.resources.get(name, 0.0) / 2**30:.3g} GiB" for name in IN_BYTES)
    return amounts(dict(sorted(own.items()))), *sizes, listed(node.labels)
