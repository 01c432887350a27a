"""One run of a recipe in virtual time: the real loop and driver, stages that only say how long they take, and what came of it.

Every figure is taken from the virtual clock, so that it is the same on any machine; but for `cpu_s`, what the driver itself cost here.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from actors.messages import Prompt
from cluster.executors.virtual import VirtualExecutor
from cluster.tasks import Outcome, PoolSpec
from pipelines.data.prompts import PromptList, PromptOrder
from pipelines.monitoring.watchers import Watchers
from pipelines.planning.gpus import DRIVER_S
from pipelines.planning.stages import SleepingPolicy, SleepingReward, SleepingRollout, SleepingStorage
from pipelines.planning.times import Duration, Times
from pipelines.recipe.load import dump_recipe
from pipelines.recipe.tables import Autoscale, Monitor, Samples
from pipelines.recipe.training import Recipe
from pipelines.run_folder.folder import RunFolder
from pipelines.run_folder.records import StepRecord
from pipelines.training.heldout_plan import HeldoutPlan
from pipelines.training.work import driver_of

STEADY = 8  # steps that are measured, between those that fill the pipeline and those that drain it
WAITING = "waiting"
LIMITS = 0.9  # a pool that is busy for so much of the time limits the run


@dataclass(frozen=True)
class Figures:
    """A simulated run in its steady part.

    busy: the share of the time by pool, and of the driver; staleness: the mean of the groups trained on; bytes_peak: the most that was
    drawn and not yet trained on; tasks: all that came back; cpu_s: the CPU seconds of the driver's thread, of which there were `steps`.
    """

    images_per_s: float
    step_s: float
    busy: dict[str, float]
    staleness: float
    bytes_peak: int
    steps: int
    tasks: int
    cpu_s: float

    @property
    def bottleneck(self) -> str:
        """The pool that limits the run; where none does, the stages wait for each other."""
        pool = max(self.busy, key=lambda name: self.busy[name])
        return pool if self.busy[pool] >= LIMITS else WAITING


class Meter:
    """Executor that passes everything on to one in virtual time, and notes by its clock what comes back."""

    def __init__(self, executor: VirtualExecutor, step_bytes: int) -> None:
        self._executor = executor
        self._step_bytes = step_bytes
        self._bytes = 0
        self.bytes_peak = 0
        self.num_tasks = 0
        self.worked: list[tuple[float, str, float]] = []  # (end, pool, seconds)
        self.step_ends: list[float] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._executor, name)

    def wait(self, timeout_s: float) -> list[Outcome]:
        """As the executor's."""
        outcomes = self._executor.wait(timeout_s)
        self.num_tasks += len(outcomes)
        for outcome in outcomes:
            self._note(self._executor.now, outcome)
        return outcomes

    def busy(self, begin: float, end: float) -> dict[str, float]:
        """Seconds of work by pool between two times."""
        seconds: dict[str, float] = defaultdict(float)
        for when, pool, took in self.worked:
            seconds[pool] += max(0.0, min(when, end) - max(when - took, begin))
        return seconds

    def _note(self, now: float, outcome: Outcome) -> None:
        match outcome.key.method:
            case "draw":
                self.worked.append((now, "rollout", outcome.seconds))
                self._bytes += sum(report.num_bytes for report in outcome.value)
                self.bytes_peak = max(self.bytes_peak, self._bytes)
            case "score":
                self.worked.append((now, outcome.key.task.pool, outcome.seconds))
            case "update":
                self.worked.append((now, "policy", outcome.seconds))
            case "export" if outcome.key.about:  # version 0 ends no step
                self.step_ends.append(now)
                self._bytes -= self._step_bytes


def simulate(recipe: Recipe, times: Times, driver_s: float = DRIVER_S, steady: int = STEADY) -> Figures:
    """Runs a recipe without its evaluations, samples and autoscaling for so many steady steps. driver_s: of the driver, for each task."""
    fill = recipe.loop.staleness + 2
    recipe = planned(recipe, 2 * fill + steady)
    chunks = recipe.rollout.chunks_per_step
    executor = VirtualExecutor(list(pools(recipe, times)), driver_s)
    meter = Meter(executor, chunks * times.chunk_bytes)
    began = time.thread_time()
    records = drive(recipe, meter)
    cpu_s = time.thread_time() - began
    begin, end = meter.step_ends[fill], meter.step_ends[fill + steady]
    scoring = {pool: reward.size for pool, reward in recipe.rewards.items()}
    worked, workers = meter.busy(begin, end), {"rollout": recipe.rollout.size, **scoring, "policy": 1}
    busy = {pool: worked[pool] / (size * (end - begin)) for pool, size in workers.items()}
    tasks = recipe.rollout.draws_per_step + len(scoring) * chunks + 2
    in_steady = records[fill:-fill]
    images = sum(record.images for record in in_steady)
    stale = [versions for record in in_steady for versions in record.staleness]
    return Figures(
        images_per_s=images / (end - begin),
        step_s=(end - begin) / steady,
        busy={**busy, "driver": driver_s * tasks * steady / (end - begin)},
        staleness=sum(stale) / len(stale),
        bytes_peak=meter.bytes_peak,
        steps=recipe.loop.steps,
        tasks=meter.num_tasks,
        cpu_s=cpu_s,
    )


def planned(recipe: Recipe, steps: int) -> Recipe:
    """The recipe of a simulated run: so many steps, and nothing beside them."""
    loop = recipe.loop.model_copy(update={"steps": steps, "checkpoint_every": steps})
    cluster = recipe.cluster.model_copy(update={"autoscale": Autoscale()})
    beside = {"samples": Samples(), "monitor": Monitor(tensorboard=False)}
    return recipe.model_copy(update={"loop": loop, "cluster": cluster, **beside})


def pools(recipe: Recipe, times: Times) -> Iterator[PoolSpec]:
    """The pools of a recipe, of stages that take these times."""

    def noise(duration: Duration) -> dict[str, float]:
        return {"seconds": duration.seconds, "jitter": duration.jitter}

    draw = {**noise(times.draw), "said_bytes": times.chunk_bytes}
    yield PoolSpec("rollout", SleepingRollout, draw, recipe.rollout.size)
    for pool, reward in recipe.rewards.items():
        score = {**noise(times.score[pool]), "images": recipe.rollout.images_per_score}
        yield PoolSpec(pool, SleepingReward, {**score, "pool": pool} if recipe.combine else score, reward.size)
    yield PoolSpec("policy", SleepingPolicy, noise(times.update), recipe.policy.ranks, gang=True)
    yield PoolSpec("storage", SleepingStorage, {"seconds": 0.0})


def drive(recipe: Recipe, executor: Meter) -> list[StepRecord]:
    """Runs the driver to the end; the records of its steps."""
    per_step = recipe.rollout.prompts_per_step
    prompts = PromptList(Prompt(str(number), f"prompt {number}") for number in range(per_step))
    order = PromptOrder(prompts, recipe.run.seed, per_step, mix={})
    heldout = HeldoutPlan((), recipe.heldout, recipe.loop.steps)
    with TemporaryDirectory() as temporary:
        folder = RunFolder.create(Path(temporary) / "run", dump_recipe(recipe))
        watchers = Watchers()
        driver_of(recipe, order, heldout, executor, folder, watchers, f"{temporary}/checkpoints").run(None)
        return folder.read_metrics()
