"""Fixtures that several rooms share: a tiny image model, a tiny world and a plain one, made once."""

import gc
import signal
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
import ray
import torch
from botocore.retries.standard import ExponentialBackoff
from ray._private import ray_constants

from cluster.connect import connect
from cluster.storage import files
from tests.support import light_setup
from tests.support.flaky_s3 import FlakyS3
from tests.support.plain_world import make_plain_world

# Two processes take whole files in turn (make test, make faults). What takes longest comes first, so that neither waits at the end.
FIRST = (
    "simcuda",
    "toy",
    "pipelines/test_models_on_ray.py",
    "pipelines/test_train.py",
    "cluster/control/test_control.py",
    "cluster/workers",
    "faults/test_submit.py",
    "faults/test_ranks.py",
    "faults/test_random_kills.py",
    "faults/test_nodes.py",
    "faults/test_job.py",
    "faults/test_elastic.py",
    "faults/test_stops.py",
    "faults/test_leftovers.py",
    "faults/test_driver.py",
    "faults/test_labels.py",
)

# a shell's background job ignores Ctrl-C, and so would the processes that the tests start
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sorts the files; pytest would drop those that the command line names before a folder that holds them."""
    items.sort(key=lambda item: _turn(item.path.relative_to(Path(__file__).parent).as_posix()))


def _turn(path: str) -> int:
    return next((turn for turn, first in enumerate(FIRST) if path.startswith(first)), len(FIRST))


def pytest_collection_finish() -> None:
    """What is imported by now stays: the collector of garbage need not go through it again and again, a tenth of all the time."""
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_sd3(tmp_path_factory):
    from toy.random_models.sd3 import make_tiny_sd3  # loads diffusers, which not every process of pytest needs

    return str(make_tiny_sd3(tmp_path_factory.mktemp("sd3")))


@pytest.fixture(scope="session")
def tiny_world(tmp_path_factory):
    """The path of a recipe whose models and prompts lie beside it."""
    from tests.support.tiny_world import make_tiny_world  # loads diffusers and transformers

    return make_tiny_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def plain_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The path of a recipe of the world without models (tests/support/plain_run.py); its prompts lie beside it."""
    return make_plain_world(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[str]:
    """The address of one small Ray cluster for all tests, with eight logical CPUs and four GPUs that do not exist."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_OVERRIDE_RESOURCES", '{"GPU": 4}')
        patch.delenv("CUDA_VISIBLE_DEVICES", raising=False)  # else Ray does not believe in them
        patch.setattr(ray_constants, "SETUP_WORKER_FILENAME", light_setup.__file__)
        connect(num_cpus=8, object_store_bytes=150_000_000)
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[FlakyS3]:
    """An S3 server on loopback, to which this process and those that it starts are pointed."""
    server = FlakyS3()
    variables = {
        "AWS_ENDPOINT_URL": server.endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        yield server
    server.close()


@pytest.fixture(scope="session")
def s3(s3_server: FlakyS3) -> str:
    """The URL of an empty bucket of an S3 server on loopback."""
    fsspec.filesystem("s3").mkdir("runs")
    return "s3://runs"


@pytest.fixture
def flaky_s3(s3_server: FlakyS3, s3: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FlakyS3]:
    """The server behind `s3`, which can be told to misbehave; it is calm before and after. Calls are tried again at once."""
    monkeypatch.setattr(ExponentialBackoff, "delay_amount", lambda *_: 0.01)
    monkeypatch.setattr(files, "PAUSES_S", [0.01 for _ in files.PAUSES_S])
    s3_server.calm()
    yield s3_server
    s3_server.calm()
