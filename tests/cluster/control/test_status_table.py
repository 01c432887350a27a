"""A run's status as a table for the terminal."""

from __future__ import annotations

import pytest
from rich.console import Console

from cluster.control.status_table import show

POOL = {
    "wanted": 3, "ready": 3, "busy": 1, "restarts": 0, "waiting": 0, "in_flight": 1, "busy_share": 0.5,
    "min": 1, "max": 4, "elastic": True, "starting_s": None,
}  # fmt: skip
STATUS = {
    "state": "running", "step": 3, "steps": 10, "policy_version": 3, "images_per_s": 1.0, "reward_mean": 0.5,
    "seconds": 75.0, "retries": {}, "quarantined": 0, "bytes_in_flight": 0, "admission_paused": False,
}  # fmt: skip


def test_workers_that_are_not_ready_are_shown_with_the_time_since(capsys: pytest.CaptureFixture[str]) -> None:
    pools = {"rollout": {**POOL, "ready": 1, "starting_s": 83.0}, "reward": POOL}
    Console(width=100).print(show("run", {**STATUS, "pools": pools}, age_s=0.0))
    said = capsys.readouterr().out
    assert "rollout: 2 starting for 1:23" in said
    assert "reward: " not in said
