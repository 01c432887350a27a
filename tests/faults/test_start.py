"""Reward workers that cannot start end the run at once, with their own error."""

from __future__ import annotations

import shutil
from pathlib import Path

from pipelines.run_folder import RunFolder
from tests.faults.conftest import Start


def test_a_judge_that_only_the_worker_finds_broken(start: Start, tiny_world: Path, tmp_path: Path) -> None:
    """The driver's check looks for a config.json and finds it; the weights are cut."""
    judge = tmp_path / "judge"
    shutil.copytree(tiny_world.parent / "judge", judge)
    weights = judge / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    deadline_s = 120.0
    run = start(reward__model=judge, loop__steps=2, cluster__start_timeout_s=deadline_s)
    assert run.end(seconds=deadline_s) == 1
    said = " ".join(run.output().split())
    assert "workers of the pool reward do not start" in said
    assert "SafetensorError" in said
    assert not RunFolder.holds_run(run.out)
