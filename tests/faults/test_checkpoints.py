"""Checkpoints that are not whole: one that was being written is ignored, a damaged one is found out and the one before is used."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.faults_world import Process, Run, go_on, overrides
from tests.faults.conftest import Reference, Start
from tests.faults.harness import QUICK, complete_checkpoints, digest_of, is_whole

LENGTH = {"loop__steps": 9, "loop__checkpoint_every": 2}


def half_written(checkpoints: Path) -> list[Path]:
    """Places under way: there are files of a checkpoint, and no manifest."""
    places = [path for path in checkpoints.glob("*") if path.is_dir() and not (path / "manifest.json").exists()]
    return [place for place in places if any(path.is_file() for path in place.rglob("*"))]


def catch_half_way(run: Run) -> Process:
    """The process that writes a checkpoint, stopped when it has written a part of it."""
    while True:
        writer = run.catch("Storage.write")
        if half_written(run.out / "checkpoints"):
            return writer
        go_on(writer)


def test_a_checkpoint_that_was_being_written_is_ignored(start: Start, reference: Reference) -> None:
    settings = {"loop__steps": 60, "loop__checkpoint_every": 1}
    run = start(**settings)
    run.until(lambda: complete_checkpoints(run.out / "checkpoints"), "a first checkpoint")
    writer = catch_half_way(run)
    run.kill()
    writer.kill()
    (unfinished,) = half_written(run.out / "checkpoints")
    newest = complete_checkpoints(run.out / "checkpoints")[-1]
    assert is_whole(newest)
    assert unfinished.name[:11] > newest.name
    run = run.resume()
    assert digest_of(run) == reference(**settings)
    assert [event["step"] for event in run.events("resumed")] == [int(newest.name.removeprefix("step-"))]
    assert half_written(run.out / "checkpoints") == []


def truncate(checkpoint: Path) -> None:
    path = checkpoint / "policy.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def alter(checkpoint: Path) -> None:
    path = next((checkpoint / "versions").iterdir())
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def remove(checkpoint: Path) -> None:
    (checkpoint / "adapter" / "pytorch_lora_weights.safetensors").unlink()


def cut_manifest(checkpoint: Path) -> None:
    path = checkpoint / "manifest.json"
    path.write_bytes(path.read_bytes()[:-20])


@pytest.fixture(scope="module")
def killed_run(tiny_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was killed when it had two checkpoints."""
    out = tmp_path_factory.mktemp("killed") / "run"
    run = Run(tiny_world, out, "--executor", "local", *overrides(**{**QUICK, **LENGTH}))
    run.until(lambda: len(complete_checkpoints(out / "checkpoints")) >= 2, "two checkpoints")
    run.kill()
    assert run.folder.read_state()["status"] == "running"
    return out


@pytest.mark.parametrize("damage", [truncate, alter, remove, cut_manifest])
def test_a_damaged_checkpoint_is_found_out_and_the_one_before_is_used(
    killed_run: Path,
    tiny_world: Path,
    tmp_path: Path,
    reference: Reference,
    damage: Callable[[Path], None],
) -> None:
    out = tmp_path / "run"
    shutil.copytree(killed_run, out)
    *_, before, newest = complete_checkpoints(out / "checkpoints")
    damage(newest)
    resumed = Run(tiny_world, out, "--executor", "local", *overrides(**{**QUICK, **LENGTH}), "--resume")
    assert digest_of(resumed) == reference(**LENGTH)
    assert [event["step"] for event in resumed.events("resumed")] == [int(before.name.removeprefix("step-"))]
    (warning,) = resumed.events("checkpoint_damaged")
    assert newest.name in warning["problem"]
    assert "warning: a checkpoint is passed over" in resumed.output()
