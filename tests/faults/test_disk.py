"""A disk that fills while checkpoints are written: what was saved stays whole, and the run goes on or says what is wrong."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.faults_world import Run
from tests.faults.conftest import Reference, Start
from tests.faults.harness import complete_checkpoints, digest_of, is_whole

LENGTH = {"loop__steps": 60, "loop__checkpoint_every": 2}
NO_SPACE = os.strerror(errno.ENOSPC)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no small disk can be mounted here, which takes root: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(disk: Path) -> Path:
    """Takes all that is free; returns the file that does."""
    ballast = disk / "ballast"
    try:
        with ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
    return ballast


def saved_first(run: Run, checkpoints: Path) -> None:
    run.until(lambda: complete_checkpoints(checkpoints), "a first checkpoint")


def test_a_full_disk_of_checkpoints_does_not_end_the_run(start: Start, reference: Reference, small_disk: Path) -> None:
    checkpoints = small_disk / "checkpoints"
    run = start(loop__checkpoints=checkpoints, **LENGTH)
    saved_first(run, checkpoints)
    fill(small_disk)
    assert digest_of(run) == reference(**LENGTH)
    failed = run.events("checkpoint_failed")
    assert failed
    assert all(NO_SPACE in event["message"] for event in failed)
    kept = complete_checkpoints(checkpoints)
    assert kept
    assert all(map(is_whole, kept))


def test_a_full_disk_under_the_run_folder_ends_the_run_clearly_and_it_resumes_when_there_is_room(
    start: Start, reference: Reference, small_disk: Path
) -> None:
    run = start(out=small_disk / "run", **LENGTH)
    saved_first(run, run.out / "checkpoints")
    ballast = fill(small_disk)
    assert run.end() == 1, run.output()
    assert NO_SPACE in run.output()
    assert "Traceback" not in run.output()
    kept = complete_checkpoints(run.out / "checkpoints")
    assert kept
    assert all(map(is_whole, kept))
    ballast.unlink()
    assert digest_of(run.resume()) == reference(**LENGTH)
