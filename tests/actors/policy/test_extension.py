"""The extension of DeepSpeed's CPU backend: locks that dead builders left hang nobody, and without a compiler training goes on."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import pytest

from actors.policy import extension
from tests.actors.policy.gang import settings

T = TypeVar("T")
NAME = "deepspeed_shm_comm"
LOAD = """
import os
os.environ["DS_ACCELERATOR"] = "cpu"
from actors.policy import extension
extension.load()
from deepspeed.ops import __compatible_ops__
print("loaded" if __compatible_ops__["deepspeed_shm_comm"] else "without")
"""
TRAIN = """
import sys
from actors.policy.actor import PolicyActor
actor = PolicyActor(rank=0, ranks=1, num_threads=1, settings=eval(sys.argv[1]))
actor.join(actor.address())
print("joined", file=sys.stderr)
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen]]:
    """Starts Python with a source, its build folder below tmp_path; ends it, and what it started, at the end."""
    processes: list[subprocess.Popen] = []

    def start(source: str, *args: str, **environment: str) -> subprocess.Popen:
        processes.append(
            subprocess.Popen(
                [sys.executable, "-c", source, *args],
                env={**os.environ, extension.FOLDER_VARIABLE: str(tmp_path), **environment},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        )
        return processes[-1]

    yield start
    for process in processes:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.fixture(scope="session")
def built() -> Path:
    """The build that all processes of this environment share, made if need be."""
    subprocess.run([sys.executable, "-c", LOAD], check=True, capture_output=True, timeout=300)
    return extension.folder()


def wait_for(what: Callable[[], T | None], process: subprocess.Popen, timeout_s: float = 60.0) -> T:
    """What it gives as soon as it gives something, while the process lives."""
    end = time.monotonic() + timeout_s
    while (found := what()) is None:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "it hangs"
        time.sleep(0.02)
    return found


def test_a_lock_that_a_dead_process_left_hangs_nobody_and_stdout_stays_clean(built, start, tmp_path, tiny_sd3):
    shutil.copytree(built, tmp_path / built.name)
    lock = tmp_path / built.name / extension.READY / NAME / extension.TORCH_LOCK
    lock.touch()
    process = start(TRAIN, repr(settings(tiny_sd3, zero_stage=2)))
    stdout, stderr = process.communicate(timeout=120)
    assert "joined" in stderr
    assert stdout == ""
    assert not lock.exists()


def test_a_builder_that_is_killed_is_followed_by_the_next(start, tmp_path):
    place = tmp_path / extension.folder().name

    def building() -> Path | None:
        return next(
            (lock.parents[1] for lock in place.glob(f"{extension.BUILDING}*/{NAME}/{extension.TORCH_LOCK}")), None
        )

    first = start(LOAD)
    abandoned = wait_for(building, first)
    second = start(LOAD)
    os.kill(first.pid, signal.SIGKILL)  # its compilers live on
    wait_for(lambda: building() if building() not in (None, abandoned) else None, second)
    assert not (place / extension.READY).exists()


def test_without_a_compiler_it_says_so_and_goes_on(start):
    stdout, stderr = start(LOAD, CXX="no-such-compiler").communicate(timeout=120)
    assert stdout == "without\n"
    assert f"{NAME} cannot be built" in stderr
