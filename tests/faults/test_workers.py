"""Reward and rollout workers that die or hang: their tasks go elsewhere and the run ends with the digest of a run without faults."""

from __future__ import annotations

import pytest

from tests.faults.conftest import Reference, Start
from tests.faults.harness import digest_of, eventually_nothing, failures, still_alive


@pytest.mark.parametrize(("method", "task"), [("RewardActor.score", "score"), ("RolloutActor.draw", "draw")])
def test_the_only_worker_of_a_pool_is_killed_at_work(
    start: Start, reference: Reference, method: str, task: str
) -> None:
    run = start(loop__steps=8)
    run.reach(3)
    killed = run.kill_in(method)
    assert digest_of(run) == reference(loop__steps=8)
    assert not killed.alive
    (failure,) = failures(run, "worker_lost")
    assert (failure["task"], failure["step"] >= 3) == (task, True)
    assert run.folder.read_metrics()[-1]["retries"] == {"worker_lost": 1}


def test_workers_of_both_pools_are_killed_again_and_again(start: Start, reference: Reference) -> None:
    run = start(loop__steps=50, rollout__size=2, reward__size=2)
    killed = []
    for _ in range(3):
        run.reach(run.steps() + 3)
        killed += [run.kill_in("RewardActor.score"), run.kill_in("RolloutActor.draw")]
    assert run.steps() < 50
    assert digest_of(run) == reference(loop__steps=50)
    assert len(set(killed)) == 6
    assert len(failures(run, "worker_lost")) == 6


def test_a_worker_that_hangs_is_replaced_when_its_deadline_is_over(start: Start, reference: Reference) -> None:
    run = start(loop__steps=8, cluster__deadline_floor_s=5.0)
    run.reach(3)
    hung = run.catch("RewardActor.score")
    assert digest_of(run) == reference(loop__steps=8)
    assert eventually_nothing(lambda: still_alive([hung])) == []
    assert "score" in {failure["task"] for failure in failures(run, "deadline")}
