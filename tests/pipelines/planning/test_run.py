"""Simulated runs against closed forms: without jitter their figures are exact."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.planning.run import WAITING, Figures, simulate
from pipelines.planning.times import Duration, Times
from pipelines.recipe.load import load_recipe
from pipelines.recipe.training import Recipe

TOY = Path("recipes/toy.toml")  # 12 groups of 8 images a step
DRAW, SCORE, UPDATE = 0.5, 0.25, 3.0
CHUNK_BYTES = 1000


def recipe(*overrides: str) -> Recipe:
    return load_recipe(TOY, ["rollout.groups_per_task=1", *overrides])


def simulated(*overrides: str, jitter: float = 0.0, driver_s: float = 0.0, update: float = UPDATE) -> Figures:
    times = Times(Duration(DRAW, jitter), {"reward": Duration(SCORE, jitter)}, Duration(update, jitter), CHUNK_BYTES)
    return simulate(recipe(*overrides), times, driver_s)


def test_without_staleness_a_step_is_the_sum_of_its_stages() -> None:
    figures = simulated("loop.staleness=0")
    assert figures.step_s == pytest.approx(
        12 * DRAW + SCORE + UPDATE
    )  # scoring hides behind drawing, but for the last chunk
    assert figures.images_per_s == pytest.approx(96 / figures.step_s)
    assert figures.busy == pytest.approx({
        "rollout": 12 * DRAW / figures.step_s, "reward": 12 * SCORE / figures.step_s, "policy": UPDATE / figures.step_s, "driver": 0.0,
    })  # fmt: skip
    assert figures.bottleneck == WAITING
    assert figures.staleness == 0.0


@pytest.mark.parametrize("staleness", [1, 2, 4])
def test_with_staleness_a_step_is_its_slowest_stage(staleness: int) -> None:
    drawing = simulated(f"loop.staleness={staleness}")
    assert drawing.step_s == pytest.approx(12 * DRAW)
    assert (drawing.bottleneck, drawing.staleness) == ("rollout", staleness)
    training = simulated(f"loop.staleness={staleness}", "rollout.size=12", update=20.0)
    assert training.step_s == pytest.approx(20.0)
    assert training.bottleneck == "policy"


def test_balanced_stages_need_two_versions_of_staleness() -> None:
    steps = [simulated(f"loop.staleness={staleness}", update=12 * DRAW).step_s for staleness in (0, 1, 2, 3)]
    once_through = 2 * 12 * DRAW + SCORE
    assert steps == pytest.approx([once_through, once_through / 2, 12 * DRAW, 12 * DRAW])


def test_workers_share_the_work() -> None:
    assert simulated("loop.staleness=2", "rollout.size=3", "reward.size=2", update=0.5).step_s == pytest.approx(
        12 * DRAW / 3
    )


def test_the_driver_limits_a_run_whose_tasks_are_short() -> None:
    figures = simulated("loop.staleness=2", "rollout.size=12", "reward.size=12", driver_s=0.25, update=0.5)
    alone = (2 * 12 + 2) * 0.25
    assert alone <= figures.step_s < 1.05 * alone
    assert figures.bottleneck == "driver"


def test_bytes_in_flight_are_what_is_drawn_and_not_yet_trained_on() -> None:
    assert simulated("loop.staleness=0").bytes_peak == 12 * CHUNK_BYTES
    held_back = simulated("loop.staleness=2", update=20.0)  # both later steps are drawn while one trains
    assert held_back.bytes_peak == 3 * 12 * CHUNK_BYTES


def test_jitter_costs_time_and_every_run_has_the_same() -> None:
    first, again = (simulated("loop.staleness=2", "rollout.size=4", jitter=0.3, update=0.5) for _ in range(2))
    assert (first.step_s, first.busy) == (again.step_s, again.busy)
    assert first.step_s > 12 * DRAW / 4


def test_what_lies_beside_training_is_left_out() -> None:
    """Toy's recipe evaluates every 50 steps; samples and the autoscaler would meet a cluster that is not there."""
    beside = ("samples.every=1", "cluster.autoscale.enabled=true", "rollout.max=4", "heldout.every=1")
    assert simulated("loop.staleness=1", *beside).step_s == simulated("loop.staleness=1").step_s


def test_ready_order_is_planned_as_well() -> None:
    figures = simulated("loop.staleness=2", 'loop.order="ready"')
    assert figures.step_s == pytest.approx(12 * DRAW)
    assert 0 <= figures.staleness <= 2


SEVERAL = Path("recipes/toy_two_rewards.toml")


def two(*overrides: str, echo: float = SCORE, small: float = SCORE, jitter: float = 0.0) -> Figures:
    score = {"reward.echo": Duration(echo, jitter), "reward.small": Duration(small, jitter)}
    times = Times(Duration(DRAW, jitter), score, Duration(UPDATE, jitter), CHUNK_BYTES)
    return simulate(load_recipe(SEVERAL, ["rollout.groups_per_task=1", *overrides]), times, driver_s=0.0)


def test_several_rewards_score_side_by_side() -> None:
    figures = two("loop.staleness=0")
    assert figures.step_s == pytest.approx(12 * DRAW + SCORE + UPDATE), "as with one of them"
    assert figures.busy["reward.echo"] == figures.busy["reward.small"] == pytest.approx(12 * SCORE / figures.step_s)


def test_the_slowest_reward_limits_a_run_until_its_own_pool_grows() -> None:
    slow = two("loop.staleness=2", small=1.5)
    assert slow.step_s == pytest.approx(12 * 1.5)
    assert slow.bottleneck == "reward.small"
    grown = two("loop.staleness=2", "reward.small.size=3", small=1.5)
    assert grown.step_s == pytest.approx(12 * DRAW)


def test_each_reward_has_long_tasks_of_its_own() -> None:
    figures = two("loop.staleness=2", echo=DRAW, small=DRAW, jitter=0.5)
    assert figures.busy["reward.echo"] != figures.busy["reward.small"]
