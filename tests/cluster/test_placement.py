"""The check that workers fit the cluster."""

from __future__ import annotations

import pytest

from cluster.placement import PlacementError, preflight
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
