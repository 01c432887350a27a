"""One small Ray cluster for the tests of cluster/."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import ray

from cluster.connect import connect


@pytest.fixture(scope="package")
def ray_cluster() -> Iterator[None]:
    connect(num_cpus=8, object_store_bytes=100_000_000)
    yield
    ray.shutdown()
