"""A policy rank that dies or hangs: the ranks begin anew from the last checkpoint and replay, to the digest of a run without faults."""

from __future__ import annotations

import pytest

from bench.faults_world import Run
from pipelines.run_folder import Record
from tests.faults.conftest import Reference, Start
from tests.faults.harness import digest_of, eventually_nothing, still_alive

LENGTH = {"loop__steps": 12, "loop__checkpoint_every": 4}
TWO_RANKS = {"policy__ranks": 2, "policy__zero_stage": 2}


def check_restart(run: Run, after: int) -> Record:
    """The policy was lost after this step and went on from the checkpoint before; returns the record of its loss."""
    lost, restarted = run.events("policy_lost")[0], run.events("policy_restarted")[0]
    assert lost["step"] > after
    assert restarted["step"] in (4, 8)
    assert lost["step"] > restarted["step"]
    return lost


def test_the_only_rank_is_killed_during_an_update(start: Start, reference: Reference) -> None:
    run = start(**LENGTH)
    run.reach(6)
    killed = run.kill_in("PolicyActor.update")
    assert digest_of(run) == reference(**LENGTH)
    assert not killed.alive
    check_restart(run, 6)
    assert run.folder.read_summary()["policy_restarts"] == 1


def test_one_of_two_ranks_is_killed_during_an_update(start: Start) -> None:
    """With two ranks sums round otherwise than with one, so that the run without faults has two as well."""
    untouched = start(name="untouched", **LENGTH, **TWO_RANKS)
    expected = digest_of(untouched)
    run = start(**LENGTH, **TWO_RANKS)
    run.reach(6)
    killed = run.kill_in("PolicyActor.update")
    assert digest_of(run) == expected
    assert not killed.alive
    check_restart(run, 6)
    assert run.folder.read_summary()["policy_restarts"] == 1
    assert not untouched.events("policy_lost")


@pytest.mark.parametrize("noticed_by", ["deadline", "heartbeat"])
def test_a_rank_that_hangs_is_lost(start: Start, reference: Reference, noticed_by: str) -> None:
    limits = {"deadline": {"cluster__deadline_floor_s": 5.0},
              "heartbeat": {"cluster__heartbeat_s": 0.5, "cluster__heartbeat_timeout_s": 5.0}}[noticed_by]  # fmt: skip
    run = start(**LENGTH, **limits)
    run.reach(6)
    hung = run.catch("PolicyActor.update")
    assert digest_of(run) == reference(**LENGTH)
    assert eventually_nothing(lambda: still_alive([hung])) == []
    lost = check_restart(run, 6)
    assert noticed_by in f"{lost['cause']}: {lost['message']}"
