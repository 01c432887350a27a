"""A RayExecutor of one pool, for tests that break things."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from cluster.executors.on_ray import PoolSpec, RayExecutor
from tests.cluster.plain_actors import Plain

OF_SPEC = ("mistakes", "size", "gang", "num_cpus", "resources", "min_size", "max_size", "beside_driver")


@pytest.fixture
def start(ray_cluster: None, request: pytest.FixtureRequest) -> Iterator[Callable[..., RayExecutor]]:
    """Start a RayExecutor with one pool of its own; it is closed after the test."""
    started: list[RayExecutor] = []

    def start_one(actor: type = Plain, kwargs: dict | None = None, **options: object) -> RayExecutor:
        of_spec = {name: options.pop(name) for name in OF_SPEC if name in options}
        spec = PoolSpec("pool", actor, kwargs or {}, **{"num_cpus": 0.0, **of_spec})
        executor = RayExecutor([spec], run=f"{request.node.name}-{len(started)}", **options)
        started.append(executor)
        executor.start()
        return executor

    yield start_one
    for executor in started:
        executor.close()
