"""What was under way when the policy was lost: in virtual time, with real checkpoints and real files of kept images."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.executors.virtual import VirtualExecutor
from cluster.tasks import Failure, Outcome, PoolSpec
from tests.support.virtual_world import STEP_S, TimedPacker, TimedStorage, virtual_driver, virtual_pools, virtual_recipe

STEPS, LOST_IN = 8, 5
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
    recipe = virtual_recipe(loop={"steps": STEPS, "checkpoint_every": 2}, samples={"every": 1})
    storage = PoolSpec("storage", TimedStorage, {"seconds": 0.0, "read_s": read_s})
    packer = PoolSpec("samples", TimedPacker, {"seconds": 1.5 * STEP_S})
    executor = MortalExecutor(virtual_pools(storage, packer))
    turns = iter(range(TURNS))

    def check() -> None:
        if next(turns, None) is None:
            raise HangsError

    driver = virtual_driver(recipe, executor, tmp_path, check=check)
    assert driver.run(None) == "done"
    assert executor.lost
    assert {line.fields["step"] for line in driver.folder.read_events() if line.kind == "samples"} == set(
        range(1, STEPS + 1)
    )
    assert [record.step for record in driver.folder.read_metrics()] == list(range(1, STEPS + 1))
