"""A run in virtual time whose checkpoints and shards are real, for tests of the driver."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from actors.messages import Prompt
from cluster.storage.documents import Storage
from cluster.tasks import Executor, PoolSpec
from pipelines.data.prompts import PromptList, PromptOrder
from pipelines.engine.driver import Driver
from pipelines.monitoring.watchers import Watchers
from pipelines.planning.stages import SleepingPolicy, SleepingReward, SleepingRollout, Stage
from pipelines.recipe.load import dump_recipe, parse_recipe
from pipelines.recipe.training import Recipe
from pipelines.run_folder.folder import RunFolder
from pipelines.training.heldout_plan import HeldoutPlan
from pipelines.training.work import TrainWork, driver_of


class LoadablePolicy(SleepingPolicy):
    """A policy whose state is its version."""

    def load(self, files: dict) -> int:
        return 0

    def load_adapter(self, files: dict, version: int) -> tuple:
        return self.export(version)


@dataclass
class TimedStorage(Stage):
    """Writes a document in `seconds`, reads one in `read_s`, and does all else in no time."""

    read_s: float = 0.0

    def write(self, *document: Any) -> dict[str, Any]:
        self.work("write")
        return Storage().write(*document)

    def write_file(self, place: str, content: bytes) -> dict[str, Any]:
        return Storage().write_file(place, content)

    def read(self, place: str, names: list[str]) -> tuple:
        self.sleep(self.read_s)
        return Storage().read(place, names)

    def remove(self, places: list[str]) -> None:
        Storage().remove(places)


@dataclass
class TimedPacker(Stage):
    """Packs nothing, in `seconds`."""

    def pack(self, chunks: tuple, *images: np.ndarray) -> tuple[dict[str, Any], bytes]:
        return {"images": 0, "seconds": self.work("pack", chunks[0].step)}, b"shard"


STEP_S = 1.0  # an update; drawing and scoring take next to nothing


def virtual_recipe(**tables: Any) -> Recipe:
    """A recipe of one group of two images a step, with these tables beside what it needs."""
    pools = {"rollout": {"group_size": 2, "prompts_per_step": 1}, "reward": {"model": "none"}}
    policy = {"model": "none", "zero_stage": 0}
    return parse_recipe({"data": {"train": "none"}, **pools, "policy": policy, **tables}, "test")


def virtual_pools(*more: PoolSpec) -> list[PoolSpec]:
    """Workers that draw, score and train, and these."""
    return [
        PoolSpec("rollout", SleepingRollout, {"seconds": 0.001}),
        PoolSpec("reward", SleepingReward, {"seconds": 0.001}),
        PoolSpec("policy", LoadablePolicy, {"seconds": STEP_S}, gang=True),
        *more,
    ]


def virtual_driver(recipe: Recipe, executor: Executor, folder: Path, **options: Any) -> Driver[TrainWork]:
    """The driver of such a run in `folder`, new or begun, with its checkpoints beside the run folder."""
    out = folder / "run"
    run = RunFolder.open(out) if out.exists() else RunFolder.create(out, dump_recipe(recipe))
    order = PromptOrder(PromptList([Prompt("p", "a prompt")]), seed=0, prompts_per_step=1, mix={})
    heldout = HeldoutPlan((), recipe.heldout, recipe.loop.steps)
    return driver_of(recipe, order, heldout, executor, run, Watchers(), str(folder / "checkpoints"), **options)
