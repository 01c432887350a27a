"""What a GPU can do, and which workers fit on how many: the facts and assumptions about hardware that a plan rests on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cluster.placement.fit import Node, PlacementError, check_nodes
from cluster.tasks import PoolSpec
from pipelines.recipe.errors import UserError


@dataclass(frozen=True)
class Gpu:
    """A card: dense bfloat16 TFLOP/s at its peak, memory bandwidth in TB/s, memory in GiB by its name."""

    tflops: float
    tb_per_s: float
    memory: float


GPUS: dict[str, Gpu] = {
    "a100": Gpu(312, 2.0, 80),
    "a100-40gb": Gpu(312, 1.55, 40),
    "b200": Gpu(2250, 7.7, 180),
    "h100": Gpu(989, 3.35, 80),
    "h200": Gpu(989, 4.8, 141),
    "l40s": Gpu(362, 0.86, 48),
}
"""By the makers' data sheets (SXM where there is a choice); without sparsity."""

EFFICIENCY = {"draw": 0.40, "score": 0.50, "update": 0.45}
"""Assumed share of the peak that each stage reaches. Drawing counts for encoding and decoding too, which are not in its operations."""

JITTER = 0.05  # assumed relative standard deviation of a task
DRIVER_S = 0.001  # of the driver for a task: 3 to 4 ms a group of four were measured on Ray (docs/performance.md)
NODE_GB_PER_S, NETWORK_GB_PER_S = 200.0, 25.0  # assumed, of a rank that reduces within a node, and across nodes


def gpu_named(name: str) -> Gpu:
    """Raises UserError, with all names, for one that is not in the table."""
    if name.lower() not in GPUS:
        raise UserError(f"--gpu {name}: not in the table; allowed are {', '.join(GPUS)}")
    return GPUS[name.lower()]


def can_be_placed(workers: Mapping[str, tuple[int, float]], gpus: int, per_node: int) -> bool:
    """Whether pools of (so many workers, GPUs of each) find room on nodes of `per_node` GPUs, each worker on one node."""
    specs = [PoolSpec(name, object, size=size, num_cpus=0, num_gpus=share) for name, (size, share) in workers.items()]
    nodes = [Node({"GPU": float(min(per_node, gpus - first))}) for first in range(0, gpus, per_node)]
    try:
        check_nodes(specs, nodes)
    except PlacementError:
        return False
    return True
