"""When the policy is lost: how often to try again."""

from __future__ import annotations

import pytest

from cluster.tasks import Failure
from pipelines.engine.recovery import PolicyLosses
from pipelines.recipe.errors import RunFailed

LOST = Failure("worker_lost", "rank 0 died")
RAISED = Failure("raised", "FloatingPointError: loss nan")


def test_losses_without_a_new_step_are_limited() -> None:
    losses = PolicyLosses(max_in_row=3)
    for _ in range(3):
        losses.add("update", 5, LOST)
    with pytest.raises(RunFailed, match="4 times without a new step, at last in the update of step 5: rank 0 died"):
        losses.add("update", 5, LOST)


def test_a_new_step_begins_the_count_anew_and_a_replayed_one_does_not() -> None:
    losses = PolicyLosses(max_in_row=2)
    for step in range(1, 10):
        losses.add("update", step, LOST)
        losses.add("update", step, LOST)
        losses.trained(step)
    losses.add("update", 10, LOST)
    losses.trained(8)
    losses.add("update", 10, LOST)
    with pytest.raises(RunFailed):
        losses.add("update", 10, LOST)


def test_what_raises_at_the_same_step_twice_ends_the_run() -> None:
    losses = PolicyLosses(max_in_row=8)
    losses.add("update", 4, RAISED)
    losses.trained(4)
    losses.add("update", 7, RAISED)
    with pytest.raises(RunFailed, match="update of step 7 failed twice: FloatingPointError"):
        losses.add("update", 7, RAISED)
