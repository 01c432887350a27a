"""Fixtures that several rooms share: a tiny image model and a tiny world, made once."""

from collections.abc import Iterator

import pytest
import ray
import torch

from cluster.connect import connect
from tests.tiny_sd3 import make_tiny_sd3
from tests.tiny_world import make_tiny_world


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_sd3(tmp_path_factory):
    return str(make_tiny_sd3(tmp_path_factory.mktemp("sd3")))


@pytest.fixture(scope="session")
def tiny_world(tmp_path_factory):
    """The path of a recipe whose models and prompts lie beside it."""
    return make_tiny_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[str]:
    """The address of one small Ray cluster for all tests, with eight logical CPUs."""
    connect(num_cpus=8, object_store_bytes=150_000_000)
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()
