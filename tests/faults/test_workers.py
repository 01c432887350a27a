"""Reward and rollout workers that die or hang: their tasks go elsewhere and the run ends with the digest of a run without faults."""

from __future__ import annotations

from tests.faults.conftest import Reference, Start
from tests.faults.harness import digest_of, eventually_nothing, failures, still_alive

LENGTH = {"loop__steps": 20}


def test_the_only_worker_of_a_pool_is_killed_at_work_or_hangs_past_its_deadline(
    start: Start, reference: Reference
) -> None:
    run = start(**LENGTH, cluster__deadline_floor_s=10.0)
    run.reach(3)
    victims = [run.kill_in("PlainReward.score")]
    run.reach(run.steps() + 3)
    victims += [run.kill_in("PlainRollout.draw")]
    run.reach(run.steps() + 3)
    lost = failures(run, "worker_lost")
    assert [failure["task"] for failure in lost] == ["score", "draw"]
    assert lost[0]["step"] >= 3
    victims += [run.catch("PlainReward.score")]
    assert digest_of(run) == reference(**LENGTH)
    assert eventually_nothing(lambda: still_alive(victims)) == []
    assert "score" in {failure["task"] for failure in failures(run, "deadline")}
    assert run.folder.read_metrics()[-1].retries["worker_lost"] == len(failures(run, "worker_lost")) == 2
