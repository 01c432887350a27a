"""The checks that workers fit the cluster as a whole, and its nodes."""

from __future__ import annotations

import random
from itertools import product

import pytest

from cluster.placement import PlacementError, can_be_packed, check_nodes, preflight
from cluster.tasks import PoolSpec


def pool(name: str, size: int, **resources: object) -> PoolSpec:
    return PoolSpec(name, object, size=size, **resources)


def test_workers_that_fit_exactly_pass() -> None:
    specs = [pool("rollout", 3, num_cpus=0.3333, num_gpus=0.5), pool("reward", 1, num_cpus=0, resources={"big": 2})]
    preflight(specs, {"CPU": 1.0, "GPU": 1.5, "big": 2})


def test_the_error_names_what_each_pool_asks_what_there_is_and_what_to_do() -> None:
    specs = [pool("rollout", 2, num_cpus=1, num_gpus=1), pool("reward", 4, num_cpus=0.5), pool("policy", 1, num_gpus=2)]
    with pytest.raises(PlacementError) as caught:
        preflight(specs, {"CPU": 2.0, "memory": 1e9})
    message = str(caught.value)
    assert "CPU: asked 5 (rollout 2 x 1, reward 4 x 0.5, policy 1 x 1), the cluster has 2" in message
    assert "GPU: asked 4 (rollout 2 x 1, policy 1 x 2), the cluster has 0" in message
    assert "Lower the size of a pool" in message
    assert "RAY_ADDRESS" in message
    assert isinstance(caught.value, ValueError)


def test_a_resource_that_is_enough_is_not_mentioned() -> None:
    with pytest.raises(PlacementError) as caught:
        preflight([pool("reward", 2, num_cpus=1, resources={"a100": 1})], {"CPU": 8, "a100": 1})
    assert "a100: asked 2 (reward 2 x 1), the cluster has 1" in str(caught.value)
    assert "CPU" not in str(caught.value)


# ---- nodes ----------------------------------------------------------------------------------------------------------

BIG, SMALL = {"CPU": 16, "GPU": 4, "memory": 1e9}, {"CPU": 4}


def test_workers_that_fit_their_nodes_exactly_pass() -> None:
    specs = [
        pool("rollout", 3, num_cpus=2, num_gpus=1),
        pool("policy", 2, gang=True, num_cpus=1, num_gpus=2),
        pool("reward", 6, num_cpus=0.3333, num_gpus=0.1666),
        pool("storage", 2, num_cpus=2, beside_driver=True),
        pool("nothing", 5, num_cpus=0),
    ]
    check_nodes(specs, [SMALL, BIG, BIG])


def test_a_worker_that_no_single_node_can_hold_is_named_with_what_there_is() -> None:
    with pytest.raises(PlacementError) as caught:
        check_nodes([pool("policy", 1, num_cpus=2, num_gpus=8)], [SMALL, BIG, BIG])
    message = str(caught.value)
    assert "a worker of the pool policy does not fit on any node: it asks for CPU 2, GPU 8" in message
    assert "1 x (CPU 4, GPU 0); 2 x (CPU 16, GPU 4)" in message


def test_a_worker_beside_the_driver_must_fit_there() -> None:
    storage = pool("storage", 1, num_gpus=1, beside_driver=True)
    with pytest.raises(PlacementError, match=r"storage does not fit on the driver's node.*\n.*1 x \(CPU 4, GPU 0\)"):
        check_nodes([storage], [SMALL, BIG])
    check_nodes([storage], [BIG, SMALL])


def test_enough_in_all_but_on_the_wrong_nodes_is_refused() -> None:
    specs = [pool("reward", 3, num_gpus=3), pool("rollout", 3, num_gpus=1)]
    preflight(specs, {"CPU": 48, "GPU": 12})
    with pytest.raises(PlacementError) as caught:
        check_nodes([pool("reward", 4, num_gpus=3)], [BIG, BIG, BIG])
    assert "reward 4 x (CPU 1, GPU 3)" in str(caught.value)
    check_nodes(specs, [BIG, BIG, BIG])


def test_packing_agrees_with_trying_everything() -> None:
    rng = random.Random(0)
    verdicts = []
    for _ in range(300):
        nodes = [(rng.randint(1, 6), rng.randint(0, 4)) for _ in range(rng.randint(1, 3))]
        workers = [(rng.randint(0, 3), rng.randint(0, 2)) for _ in range(rng.randint(1, 6))]
        possible = any(
            all(
                sum(worker[kind] for worker, place in zip(workers, places, strict=True) if place == at) <= node[kind]
                for at, node in enumerate(nodes)
                for kind in range(2)
            )
            for places in product(range(len(nodes)), repeat=len(workers))
        )
        assert can_be_packed(workers, nodes) == possible, (workers, nodes)
        verdicts.append(possible)
    assert 50 < sum(verdicts) < 250


def test_a_large_cluster_is_checked() -> None:
    gpu_nodes = [{"CPU": 64, "GPU": 8}] * 300
    check_nodes([pool("rollout", 2000, num_gpus=1), pool("reward", 100, num_gpus=4)], [SMALL, *gpu_nodes])


@pytest.mark.parametrize("seed", range(10))
def test_what_fits_without_a_gap_is_never_refused_however_hard_to_find(seed: int) -> None:
    rng = random.Random(seed)
    nodes, workers = [], []
    for _ in range(12):
        pieces = [(rng.randint(10, 40), rng.randint(10, 40)) for _ in range(rng.randint(2, 5))]
        workers += pieces
        nodes.append((sum(cpu for cpu, _ in pieces), sum(gpu for _, gpu in pieces)))
    rng.shuffle(workers)
    assert can_be_packed(workers, nodes)
