"""Runs the files `device_*.py` beside it on the simulated CUDA device (tests/support/simcuda), each in a process of its own.

One of them alone, as a test of its own: `pytest tests/simcuda -k judges`.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.simcuda.build import ROOT, can_build, surroundings

FILES = sorted(Path(__file__).parent.glob("device_*.py"))
PLUGINS = [
    "no:cacheprovider",
    "no:logging",
    "tests.support.simcuda.fixtures",
]  # DeepSpeed takes pytest's log away from it
COMMAND = [sys.executable, "-m", "pytest", "-q", "--noconftest", *(f"-p{plugin}" for plugin in PLUGINS)]


@pytest.mark.skipif(not can_build(), reason="the simulated CUDA device is built with g++, which is not here")
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem.removeprefix("device_"))
def test_all_of_it_runs_on_the_device(file: Path):
    environment = {**surroundings(), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*COMMAND, str(file)], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
