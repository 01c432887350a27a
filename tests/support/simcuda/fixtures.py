"""What the tests on the device share; pytest loads it in place of the conftest files."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest
import torch

from tests.support.simcuda.events import Log, watch

assert torch.ones(1, device="cuda").device.type == "cuda", "the simulated device is not switched on"


STATUS = pytest.StashKey[int]()


@pytest.fixture
def log() -> Iterator[Log]:
    """All waits and copies of the test."""
    with watch() as log:
        yield log


def pytest_unconfigure(config: pytest.Config) -> None:
    """Ends the process at once: a thread of the autograd engine that runs Python would abort it when the interpreter ends."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(config.stash.get(STATUS, 1))


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    session.config.stash[STATUS] = int(exitstatus)
