"""Runs the files `device_*.py` beside it on the simulated CUDA device (tests/support/simcuda), in two processes.

One of them alone, as a test of its own: `pytest tests/simcuda -k judges`.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

import pytest

from tests.support.simcuda.build import ROOT, can_build, surroundings

FILES = {file.stem.removeprefix("device_"): file for file in sorted(Path(__file__).parent.glob("device_*.py"))}
APART = {"ranks"}  # DeepSpeed changes torch for the whole process
PLUGINS = [
    "no:cacheprovider",
    "no:logging",
    "tests.support.simcuda.fixtures",
]  # DeepSpeed takes pytest's log away from it
COMMAND = [sys.executable, "-m", "pytest", "-q", "--noconftest", "-rA", *(f"-p{plugin}" for plugin in PLUGINS)]


def run(names: Collection[str]) -> tuple[int, str]:
    """(exit status, what was said) of these files, one after the other in one process."""
    environment = {**surroundings(), "OMP_NUM_THREADS": "1"}
    files = [str(FILES[name]) for name in names]
    done = subprocess.run([*COMMAND, *files], cwd=ROOT, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def together(request: pytest.FixtureRequest) -> str:
    """What the files that were asked for say, without those apart."""
    asked = {item.callspec.params.get("name") for item in request.session.items if hasattr(item, "callspec")}
    return run([name for name in FILES if name in asked - APART])[1]


@pytest.mark.skipif(not can_build(), reason="the simulated CUDA device is built with g++, which is not here")
@pytest.mark.parametrize("name", FILES)
def test_all_of_it_runs_on_the_device(name: str, request: pytest.FixtureRequest):
    if name in APART:
        status, said = run([name])
        assert status == 0, said
        return
    said = request.getfixturevalue("together")
    results = [line for line in said.splitlines() if f"tests/simcuda/device_{name}.py::" in line]
    assert any(line.startswith("PASSED") for line in results), said
    assert not any(line.startswith(("FAILED", "ERROR")) for line in results), said
