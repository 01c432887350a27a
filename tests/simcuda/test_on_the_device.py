"""Runs the files `device_*.py` beside it on the simulated CUDA device (tests/support/simcuda), in a process of their own.

One of them alone, as a test of its own: `pytest tests/simcuda -k judges`.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.simcuda.build import ROOT, can_build, surroundings

# the ranks come last: DeepSpeed changes torch for the whole process
FILES = sorted(Path(__file__).parent.glob("device_*.py"), key=lambda file: (file.stem == "device_ranks", file))
PLUGINS = [
    "no:cacheprovider",
    "no:logging",
    "tests.support.simcuda.fixtures",
]  # DeepSpeed takes pytest's log away from it
COMMAND = [sys.executable, "-m", "pytest", "-q", "-rA", "--noconftest", *(f"-p{plugin}" for plugin in PLUGINS)]


@pytest.fixture(scope="module")
def said(request: pytest.FixtureRequest) -> str:
    """What pytest says of the files that are asked for."""
    items = [item for item in request.session.items if item.path == request.path]
    asked = [str(item.callspec.params["file"]) for item in items]  # type: ignore[attr-defined]
    environment = {**surroundings(), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*COMMAND, *asked], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED), done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.skipif(not can_build(), reason="the simulated CUDA device is built with g++, which is not here")
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem.removeprefix("device_"))
def test_all_of_it_runs_on_the_device(file: Path, said: str):
    results = [line for line in said.splitlines() if f" {file.relative_to(ROOT)}" in line]
    assert any(line.startswith("PASSED ") for line in results), said
    assert not any(line.startswith(("FAILED ", "ERROR ")) for line in results), said
