"""A RayExecutor of one pool, for tests that break things."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from cluster.executors import on_ray
from cluster.executors.on_ray import PoolSpec, RayExecutor
from cluster.tasks import Command
from tests.cluster.plain_actors import Plain

OF_SPEC = ("mistakes", "size", "gang", "num_cpus", "resources", "min_size", "max_size", "beside_driver")


class NoLink:
    """In the place of `Link` where nobody reaches the run from outside: a process less to start."""

    def __init__(self, run: str, env_vars: Mapping[str, str]) -> None:
        pass

    def exchange(self, status: Mapping[str, Any]) -> list[Command]:
        """There is nobody who would ask for anything."""
        return []

    def close(self) -> list[object]:
        """There is no actor to end."""
        return []


@pytest.fixture
def unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Executors on Ray are not reached from outside."""
    monkeypatch.setattr(on_ray, "Link", NoLink)


@pytest.fixture
def start(start_reachable: Callable[..., RayExecutor], unreachable: None) -> Callable[..., RayExecutor]:
    """Start a RayExecutor with one pool of its own, which is not reached from outside; it is closed after the test."""
    return start_reachable


@pytest.fixture
def start_reachable(ray_cluster: None, request: pytest.FixtureRequest) -> Iterator[Callable[..., RayExecutor]]:
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
