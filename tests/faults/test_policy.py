"""A policy rank that dies or hangs: the ranks begin anew from the last checkpoint and replay, to the digest of a run without faults."""

from __future__ import annotations

from tests.faults.conftest import Reference, Start
from tests.faults.harness import digest_of, eventually_nothing, still_alive
from tests.support.faults_world import Run

EVERY = 4
LENGTH = {"loop__steps": 16, "loop__checkpoint_every": EVERY}
TWO_RANKS = {"policy__ranks": 2, "policy__zero_stage": 2}


def kill_then_hang(run: Run, noticed_by: str) -> str:
    """A rank is killed during an update, and later one is stopped in one: both are replaced. Returns the run's digest."""
    run.reach(6)
    killed = run.kill_in("PolicyActor.update")
    run.reach(9)
    hung = run.catch("PolicyActor.update")
    digest = digest_of(run)
    assert eventually_nothing(lambda: still_alive([killed, hung])) == []
    lost, restarted = run.events("policy_lost"), run.events("policy_restarted")
    assert len(lost) == len(restarted) == run.folder.read_summary()["policy_restarts"] == 2
    for number, after in enumerate((6, 9)):
        assert lost[number]["step"] > after
        assert restarted[number]["step"] in range(EVERY, lost[number]["step"], EVERY)
    assert [noticed_by in f"{event['cause']}: {event['message']}" for event in lost] == [False, True]
    return digest


def test_the_only_rank_is_killed_during_an_update_then_hangs_past_its_deadline(
    start_tiny: Start, tiny_reference: Reference
) -> None:
    run = start_tiny(**LENGTH, cluster__deadline_floor_s=20.0)
    assert kill_then_hang(run, noticed_by="deadline") == tiny_reference(**LENGTH)


def test_one_of_two_ranks_is_killed_during_an_update_then_one_hangs_without_a_heartbeat(start_tiny: Start) -> None:
    """With two ranks sums round otherwise than with one, so that the run without faults has two as well."""
    untouched = start_tiny(name="untouched", **LENGTH, **TWO_RANKS)
    expected = digest_of(untouched)
    assert not untouched.events("policy_lost")
    run = start_tiny(**LENGTH, **TWO_RANKS, cluster__heartbeat_s=1.0, cluster__heartbeat_timeout_s=20.0)
    assert kill_then_hang(run, noticed_by="heartbeat") == expected
