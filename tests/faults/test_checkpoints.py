"""A damaged checkpoint is found out, and the one before is used; test_driver.py has one that was still being written."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.run_folder.folder import RunFolder
from tests.faults.conftest import Reference
from tests.faults.harness import LOCAL, PLAIN, QUICK, complete_checkpoints, digest_in
from tests.support.faults_world import Run, overrides
from tests.support.plain_run import in_no_time

LENGTH = {"loop__steps": 9, "loop__checkpoint_every": 2}
OPTIONS = [*LOCAL, *overrides(**{**QUICK, **LENGTH})]


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
def killed_run(plain_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was killed when it had two checkpoints."""
    out = tmp_path_factory.mktemp("killed") / "run"
    run = Run(plain_world, out, *OPTIONS, program=PLAIN)
    run.until(lambda: len(complete_checkpoints(out / "checkpoints")) >= 2, "two checkpoints")
    run.kill()
    assert run.folder.read_state()["status"] == "running"
    return out


@pytest.mark.parametrize("damage", [truncate, alter, remove, cut_manifest])
def test_a_damaged_checkpoint_is_found_out_and_the_one_before_is_used(
    killed_run: Path,
    plain_world: Path,
    tmp_path: Path,
    reference: Reference,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[Path], None],
) -> None:
    out = tmp_path / "run"
    shutil.copytree(killed_run, out)
    *_, before, newest = complete_checkpoints(out / "checkpoints")
    damage(newest)
    assert in_no_time([str(plain_world), "--out", str(out), *OPTIONS, "--resume"]) == 0
    assert "warning: a checkpoint is passed over" in capsys.readouterr().out
    folder = RunFolder(out)
    assert digest_in(folder) == reference(**LENGTH)
    events = folder.read_events()
    (resumed,) = [line.fields["step"] for line in events if line.kind == "resumed"]
    assert resumed == int(before.name.removeprefix("step-"))
    (problem,) = [line.fields["problem"] for line in events if line.kind == "checkpoint_damaged"]
    assert newest.name in problem
