"""What a run tells the outside and hears from it: its status, pools that are scaled by hand or by themselves, the wish to stop."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from cluster.control.autoscale import Autoscaler, AutoscaleSettings, Limits, Load
from cluster.placement.fit import PlacementError
from cluster.tasks import Command, Executor, PoolStatus
from pipelines.engine.deadlines import Deadlines
from pipelines.engine.messages import Progress
from pipelines.monitoring.watchers import Watchers
from pipelines.recipe.errors import RunFailed
from pipelines.recipe.training import Recipe
from pipelines.run_folder.events import MixedGpus, Scaled, ScaleRefused
from pipelines.run_folder.folder import RunFolder
from pipelines.run_folder.records import StepRecord
from pipelines.run_folder.roster import Roster
from pipelines.training.step_log import StepLog

AUTOSCALE_EVERY_S = 1.0
TASK_KINDS = {"rollout": "draw train", "reward": "score train"}


class Control:
    """The executor's ear for commands, and the hand that scales its pools. `stop` is what to do when asked to end."""

    def __init__(
        self,
        recipe: Recipe,
        executor: Executor,
        folder: RunFolder,
        log: StepLog,
        watchers: Watchers,
        roster: Roster,
        stop: Callable[[], None],
    ) -> None:
        self.recipe, self.executor, self.folder, self.log = recipe, executor, folder, log
        self.watchers, self.roster, self.stop = watchers, roster, stop
        self._told_problem = False
        self._pools = {"rollout": recipe.rollout, "reward": recipe.reward}
        settings = recipe.cluster.autoscale
        limits = {name: Limits(pool.min, pool.max) for name, pool in self._pools.items()}
        self._autoscaler = (
            Autoscaler(
                limits,
                AutoscaleSettings(
                    queue_s=settings.queue_s,
                    grow_after_s=settings.grow_after_s,
                    shrink_after_s=settings.shrink_after_s,
                ),
            )
            if settings.enabled
            else None
        )
        self._advise_at = 0.0

    def tick(self, progress: Progress, pools: Mapping[str, PoolStatus], deadlines: Deadlines, stopping: bool) -> None:
        """Meets new workers, shows and publishes the status, carries out what was asked for, and scales. Raises RunFailed."""
        self.greet()
        status = self.status(progress, pools, stopping)
        self.watchers.status(status)
        for command in self.executor.exchange(status):
            self.executor.answer(command.id, self.obey(command))
        now = time.monotonic()
        if self._autoscaler and now >= self._advise_at:
            self._advise_at = now + AUTOSCALE_EVERY_S
            for pool, size in self._autoscaler.advise(now, self._loads(progress, pools, deadlines)).items():
                self.scale(pool, size, by="autoscaler")

    def greet(self) -> None:
        """Keeps what new workers say of themselves. Raises RunFailed if the run could not be repeated with them, but must be."""
        if new := self.executor.introductions():
            self.roster.meet(new)
            self.roster.write(self.folder)
        if not self.roster.problem or self._told_problem:
            return
        self._told_problem = True
        self.folder.event(MixedGpus(message=self.roster.problem))
        if self.roster.exact:
            raise RunFailed(self.roster.problem)
        self.watchers.note(f"warning: {self.roster.problem}")

    def status(self, progress: Progress, pools: Mapping[str, PoolStatus], stopping: bool) -> dict[str, Any]:
        """The run as it is now: for `python -m cluster status`, and for who watches it."""
        log = self.log
        last = log.last or StepRecord(step=0)
        return {
            "run": self.recipe.run.name or self.folder.path.name,
            "state": "stopping" if stopping else "running",
            "time": time.time(),
            "step": log.step,
            "steps": self.recipe.loop.steps,
            "policy_version": progress.version,
            "images_per_s": last.images_per_s,
            "reward_mean": last.reward_mean,
            "seconds": log.seconds(),
            "images": log.images,
            "quarantined": log.quarantined,
            "retries": dict(log.retries),
            "policy_restarts": log.policy_restarts,
            "groups_in_flight": progress.groups_in_flight,
            "bytes_in_flight": progress.bytes_in_flight,
            "admission_paused": progress.admission_paused,
            "stages": {
                "draw": {"waiting": progress.waiting_to_draw, "in_flight": progress.drawing},
                "score": {"waiting": progress.waiting_to_score, "in_flight": progress.scoring},
                "update": {"in_flight": int(progress.training)},
            },
            "checkpoint": {"age_s": log.checkpoint_age(), **log.checkpoint},
            "evaluating": dict(zip(("step", "settled", "groups"), progress.evaluating, strict=True))
            if progress.evaluating
            else None,
            "pools": {name: self._shown(name, status, last.busy.get(name, 0.0)) for name, status in pools.items()},
        }

    def obey(self, command: Command) -> str:
        """Does what a command asks; the text is for the one who asked."""
        if command.kind == "stop":
            self.stop()
            return "the run finishes its step, writes a checkpoint and ends"
        return self.scale(command.pool, command.size, by="command")

    def scale(self, pool: str, size: int, by: str) -> str:
        """Gives a pool another size, within its limits and the cluster's; says what came of it."""
        try:
            if pool not in self._pools:
                raise ValueError(f"{pool} is no pool that scales; {' and '.join(self._pools)} are")
            before = self.executor.status()[pool].wanted
            if size == before:
                return f"{pool} has {size} workers already"
            self.executor.resize(pool, size)
        except (ValueError, PlacementError) as error:
            self.folder.event(ScaleRefused(pool=pool, size=size, by=by, message=str(error)))
            return f"refused: {error}"
        self.folder.event(Scaled(pool=pool, by=by, from_=before, to=size))
        self.watchers.note(f"pool {pool}: {before} -> {size} workers (by {by})")
        return f"{pool}: {before} -> {size} workers"

    def _shown(self, name: str, status: PoolStatus, busy_share: float) -> dict[str, Any]:
        limits = self._pools.get(name)
        return {
            "wanted": status.wanted,
            "ready": status.ready,
            "busy": status.busy,
            "restarts": status.restarts,
            "starting_s": status.starting_s,
            "waiting": status.waiting,
            "in_flight": status.in_flight,
            "busy_share": busy_share,
            "min": limits.min if limits else status.wanted,
            "max": limits.max if limits else status.wanted,
            "elastic": limits is not None,
        }

    def _loads(self, progress: Progress, pools: Mapping[str, PoolStatus], deadlines: Deadlines) -> dict[str, Load]:
        waiting = {"rollout": progress.waiting_to_draw, "reward": progress.waiting_to_score}
        return {
            name: Load(
                waiting[name], pools[name].busy, pools[name].ready, pools[name].wanted, deadlines.mean(TASK_KINDS[name])
            )
            for name in self._pools
        }
