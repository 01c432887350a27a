"""A disk that fills while checkpoints are written: what was saved stays whole, and the run goes on or says what is wrong."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.faults.conftest import Reference, Start
from tests.faults.harness import LOCAL, complete_checkpoints, digest_of, is_whole

LENGTH = {"loop__steps": 60, "loop__checkpoint_every": 2}
NO_SPACE = os.strerror(errno.ENOSPC)


@contextmanager
def small_disk(place: Path) -> Iterator[Path]:
    """A file system of 8 MB."""
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no small disk can be mounted here, which takes root: {mounted.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.fixture
def disks(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """One for a run's folder, one for its checkpoints."""
    with small_disk(tmp_path / "runs") as runs, small_disk(tmp_path / "checkpoints") as checkpoints:
        yield runs, checkpoints


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


def check_saved(checkpoints: Path) -> None:
    """There are checkpoints, and all are whole."""
    kept = complete_checkpoints(checkpoints)
    assert kept
    assert all(map(is_whole, kept))


def test_a_full_disk_of_checkpoints_does_not_end_a_run_one_of_its_folder_does_and_it_resumes_when_there_is_room(
    start: Start, reference: Reference, disks: tuple[Path, Path]
) -> None:
    runs, checkpoints = disks
    run = start(out=runs / "run", loop__checkpoints=checkpoints, **LENGTH)
    run.until(lambda: complete_checkpoints(checkpoints), "a first checkpoint")
    ballast = [fill(checkpoints)]
    run.until(lambda: run.events("checkpoint_failed"), "a checkpoint that cannot be written")
    run.reach(run.steps() + 1)
    check_saved(checkpoints)

    ballast.append(fill(runs))
    assert run.end() == 1, run.output()
    assert NO_SPACE in run.output()
    assert "Traceback" not in run.output()
    check_saved(checkpoints)

    for file in ballast:
        file.unlink()
    run = run.resume(*LOCAL)
    failed, saved = len(run.events("checkpoint_failed")), complete_checkpoints(checkpoints)[-1]
    run.until(lambda: complete_checkpoints(checkpoints)[-1] > saved, "a checkpoint after that")
    fill(checkpoints)
    assert digest_of(run) == reference(**LENGTH)
    failures = run.events("checkpoint_failed")
    assert len(failures) > failed, "the last checkpoint of all too"
    assert all(NO_SPACE in event["message"] for event in failures)
    check_saved(checkpoints)
