"""A policy rank that dies or hangs: the ranks begin anew from the last checkpoint and replay, to the digest of a run without faults.

test_ranks.py has the same of two real ranks.
"""

from __future__ import annotations

from tests.faults.conftest import Reference, Start
from tests.faults.harness import kill_then_hang

EVERY = 4
LENGTH = {"loop__steps": 16, "loop__checkpoint_every": EVERY}


def test_the_only_rank_is_killed_during_an_update_then_hangs_past_its_deadline(
    start: Start, reference: Reference
) -> None:
    run = start(**LENGTH, cluster__deadline_floor_s=10.0)
    digest = kill_then_hang(run, "PlainPolicy", after=(6, 9), noticed_by="deadline", every=EVERY)
    assert digest == reference(**LENGTH)
