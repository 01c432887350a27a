"""Fixtures that several rooms share: a tiny image model and a tiny world, made once."""

import os
from collections.abc import Iterator

import fsspec
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


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """The URL of an empty bucket of an S3 server on loopback."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    variables = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    fsspec.filesystem("s3").mkdir("runs")
    yield "s3://runs"
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value
    server.stop()
