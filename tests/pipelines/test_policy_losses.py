"""What was under way when the policy was lost: in virtual time, with real checkpoints and real files of kept images."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.messages import Prompt
from cluster.tasks import Failure, Outcome, PoolSpec
from cluster.virtual import VirtualExecutor
from pipelines.config import dump_recipe, parse_recipe
from pipelines.driver import Driver
from pipelines.evaluation import HeldoutPlan
from pipelines.monitoring.watchers import Watchers
from pipelines.planning.stages import SleepingReward, SleepingRollout
from pipelines.prompts import PromptList, PromptOrder
from pipelines.run_folder import RunFolder
from tests.pipelines.virtual_world import LoadablePolicy, TimedPacker, TimedStorage

STEPS, STEP_S, LOST_IN = 8, 1.0, 5
TURNS = 500  # of the driver, ten times as many as a whole run takes


class MortalExecutor(VirtualExecutor):
    """The policy is lost once, in the update of step LOST_IN."""

    lost = False

    def wait(self, timeout_s: float) -> list[Outcome]:
        return [self._lose(outcome) for outcome in super().wait(timeout_s)]

    def restart(self, pool: str) -> None:
        pass

    def _lose(self, outcome: Outcome) -> Outcome:
        if self.lost or (outcome.key.method, outcome.key.about) != ("update", LOST_IN):
            return outcome
        self.lost = True
        return Outcome(outcome.key, outcome.worker, outcome.seconds, failure=Failure("worker_lost", "rank 0 died"))


class HangsError(Exception):
    """The driver turns without an end."""


@pytest.mark.parametrize("read_s", [0.0, 1.0, 3.0])
def test_images_that_are_packed_while_the_policy_is_restored_are_kept(tmp_path: Path, read_s: float) -> None:
    tables = {"loop": {"steps": STEPS, "checkpoint_every": 2}, "data": {"train": "none"}, "samples": {"every": 1}}
    pools = {"rollout": {"group_size": 2, "prompts_per_step": 1}, "reward": {"model": "none"}}
    recipe = parse_recipe({**tables, **pools, "policy": {"model": "none", "zero_stage": 0}}, "test")
    executor = MortalExecutor(
        [
            PoolSpec("rollout", SleepingRollout, {"seconds": 0.001}),
            PoolSpec("reward", SleepingReward, {"seconds": 0.001}),
            PoolSpec("policy", LoadablePolicy, {"seconds": STEP_S}, gang=True),
            PoolSpec("storage", TimedStorage, {"seconds": 0.0, "read_s": read_s}),
            PoolSpec("samples", TimedPacker, {"seconds": 1.5 * STEP_S}),
        ]
    )
    folder = RunFolder.create(tmp_path / "run", dump_recipe(recipe))
    order = PromptOrder(PromptList([Prompt("p", "a prompt")]), seed=0, prompts_per_step=1, mix={})
    watchers, heldout = Watchers(), HeldoutPlan((), recipe.heldout, STEPS)
    turns = iter(range(TURNS))

    def check() -> None:
        if next(turns, None) is None:
            raise HangsError

    driver = Driver(recipe, order, heldout, executor, folder, watchers, str(tmp_path / "checkpoints"), check=check)
    assert driver.run(None) == "done"
    assert executor.lost
    assert {event["step"] for event in folder.read_events() if event["kind"] == "samples"} == set(range(1, STEPS + 1))
    assert [record["step"] for record in folder.read_metrics()] == list(range(1, STEPS + 1))
