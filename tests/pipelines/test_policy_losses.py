"""What was under way when the policy was lost: in virtual time, with real checkpoints and real files of kept images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actors.messages import Prompt
from cluster.storage import Storage
from cluster.tasks import Failure, Outcome, PoolSpec
from cluster.virtual import VirtualExecutor
from pipelines.config import dump_recipe, parse_recipe
from pipelines.driver import Driver
from pipelines.evaluation import HeldoutPlan
from pipelines.monitoring.watchers import Watchers
from pipelines.planning.stages import SleepingPolicy, SleepingReward, SleepingRollout, Stage
from pipelines.prompts import PromptList, PromptOrder
from pipelines.recovery import Recovery
from pipelines.run_folder import RunFolder

STEPS, STEP_S, LOST_IN = 8, 1.0, 5
TURNS = 500  # of the driver, ten times as many as a whole run takes


class LoadablePolicy(SleepingPolicy):
    """A policy whose state is its version."""

    def load(self, files: dict) -> int:
        return 0

    def load_adapter(self, files: dict, version: int) -> tuple:
        return self.export(version)


@dataclass
class SlowStorage(Stage):
    """Takes its time to read and none to write."""

    def write(self, *document: Any) -> dict[str, Any]:
        return Storage().write(*document)

    def write_file(self, place: str, content: bytes) -> dict[str, Any]:
        return Storage().write_file(place, content)

    def read(self, place: str, names: list[str]) -> tuple:
        self.sleep(self.seconds)
        return Storage().read(place, names)

    def remove(self, places: list[str]) -> None:
        Storage().remove(places)


@dataclass
class SlowPacker(Stage):
    """Takes longer than a step of training."""

    def pack(self, chunks: tuple, *images: np.ndarray) -> tuple[dict[str, Any], bytes]:
        return {"images": 0, "seconds": self.work("pack", chunks[0].step)}, b"shard"


class MortalExecutor(VirtualExecutor):
    """The policy is lost once, in the update of step LOST_IN."""

    lost = False

    def submit(self, task) -> None:
        self.updates = task.method == "update" and task.args[0] == LOST_IN
        super().submit(task)

    def wait(self, timeout_s: float) -> list[Outcome]:
        return [self._lose(outcome) for outcome in super().wait(timeout_s)]

    def restart(self, pool: str) -> None:
        pass

    def _lose(self, outcome: Outcome) -> Outcome:
        if self.lost or outcome.key[:2] != ("update", LOST_IN):
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
            PoolSpec("storage", SlowStorage, {"seconds": read_s}),
            PoolSpec("samples", SlowPacker, {"seconds": 1.5 * STEP_S}),
        ]
    )
    folder = RunFolder.create(tmp_path / "run", dump_recipe(recipe))
    order = PromptOrder(PromptList([Prompt("p", "a prompt")]), seed=0, prompts_per_step=1, mix={})
    watchers, heldout = Watchers(), HeldoutPlan((), recipe.heldout, STEPS)
    recovery = Recovery(recipe, executor, folder, str(tmp_path / "checkpoints"), watchers.note)
    turns = iter(range(TURNS))

    def check() -> None:
        if next(turns, None) is None:
            raise HangsError

    driver = Driver(recipe, order, heldout, executor, folder, watchers, recovery, check=check)
    assert driver.run(None) == "done"
    assert executor.lost
    assert {event["step"] for event in folder.read_events() if event["kind"] == "samples"} == set(range(1, STEPS + 1))
    assert [record["step"] for record in folder.read_metrics()] == list(range(1, STEPS + 1))
