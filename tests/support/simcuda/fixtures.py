"""What the tests on the device share; pytest loads it in place of the conftest files."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.support.simcuda.events import Log, watch

assert torch.ones(1, device="cuda").device.type == "cuda", "the make-believe device is not switched on"


@pytest.fixture
def log() -> Iterator[Log]:
    """All waits and copies of the test."""
    with watch() as log:
        yield log
