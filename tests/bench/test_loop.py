"""The loop keeps workers busy: measured in virtual time, so that the figures are exact and the same everywhere."""

from __future__ import annotations

import pytest

from bench.loop import Scenario, measure


def of_bound(**changes: object) -> float:
    return measure(Scenario(**{"steps": 40, "payload_bytes": 0, **changes}), virtual=True)["of_bound"]


@pytest.mark.parametrize("order", ["strict", "ready"])
def test_two_versions_of_staleness_keep_balanced_pools_busy(order: str) -> None:
    assert of_bound(staleness=2, order=order, straggling=0.0) > 0.999
    assert of_bound(staleness=2, order=order) > 0.95


@pytest.mark.parametrize("together", [2, 4])
def test_groups_that_are_drawn_together_keep_pools_as_busy(together: int) -> None:
    assert of_bound(staleness=2, together=together, straggling=0.0) > 0.999


@pytest.mark.parametrize("limit", ["rollout", "reward", "policy"])
def test_one_version_of_staleness_keeps_a_pool_busy_that_dominates(limit: str) -> None:
    assert of_bound(staleness=1, limit=limit) > 0.95


def test_without_staleness_the_stages_wait_for_each_other() -> None:
    assert of_bound(staleness=0, straggling=0.0) == pytest.approx(3 / 7)  # one of three rounds overlaps with scoring


@pytest.mark.parametrize(("rollouts", "rewards", "limit"), [(2, 6, "rollout"), (8, 6, "policy"), (6, 1, "reward")])
def test_stages_that_suit_other_workers_keep_their_times(rollouts: int, rewards: int, limit: str) -> None:
    """A step of 5 + 3 workers has sixteen tasks; each stage needs 0.6 s for it if it has as many workers."""
    few = Scenario(4, rollouts=rollouts, rewards=rewards, suits=(5, 3), straggling=0.0, steps=60, payload_bytes=0)
    step_s = max(0.6, 0.6 * 5 / rollouts, 0.6 * 3 / rewards)
    row = measure(few, virtual=True)
    assert max(row["busy"], key=row["busy"].get) == limit
    assert row["images_per_s"] == pytest.approx(16 * 2 / step_s, rel=0.03)


def test_strict_order_costs_little() -> None:
    runs = {
        order: measure(Scenario(2, order, steps=40, payload_bytes=0), virtual=True) for order in ("strict", "ready")
    }
    assert runs["strict"]["images_per_s"] > 0.97 * runs["ready"]["images_per_s"]
