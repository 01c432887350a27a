"""What a worker is called: in its log and its errors by its short name, among processes by its class."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import ray

from cluster.executors.on_ray import RayExecutor
from tests.cluster.helpers import PATIENCE_S
from tests.cluster.plain_actors import Rank


def test_a_worker_is_known_by_its_name_and_class(
    start: Callable[..., RayExecutor], request: pytest.FixtureRequest
) -> None:
    start()
    worker = ray.get_actor(f"echoray-{request.node.name}-0-pool-0")
    assert ray.get(worker.__ray_call__.remote(repr), timeout=PATIENCE_S) == "pool-0"
    pid = ray.get(worker.__ray_call__.remote(lambda _: os.getpid()), timeout=PATIENCE_S)
    assert Path(f"/proc/{pid}/cmdline").read_text().startswith("ray::Plain")


def test_ranks_are_told_apart(start: Callable[..., RayExecutor], request: pytest.FixtureRequest) -> None:
    start(Rank, size=2, gang=True)
    ranks = [ray.get_actor(f"echoray-{request.node.name}-0-pool-{rank}") for rank in range(2)]
    names = ray.get([rank.__ray_call__.remote(repr) for rank in ranks], timeout=PATIENCE_S)
    assert names == ["pool-0", "pool-1"]
