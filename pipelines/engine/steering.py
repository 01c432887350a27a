"""What a run reports to the outside and gets from it: its status, pools scaled by hand or automatically, requests to stop."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from cluster.control.autoscale import Autoscaler, AutoscaleSettings, Limits, Load
from cluster.placement.fit import PlacementError
from cluster.tasks import Command, PoolStatus
from pipelines.engine.messages import Progress
from pipelines.engine.tickets import Tickets
from pipelines.engine.work import Work
from pipelines.monitoring.watchers import Watchers
from pipelines.recipe.errors import RunFailed
from pipelines.recipe.tables import Autoscale
from pipelines.run_folder.events import MixedGpus, Scaled, ScaleRefused
from pipelines.run_folder.folder import RunFolder
from pipelines.run_folder.roster import Roster

AUTOSCALE_EVERY_S = 1.0


class Control:
    """The executor's ear for commands, and the hand that scales its pools. `stopping`: somebody has asked the run to end."""

    def __init__(
        self,
        name: str,
        work: Work,
        tickets: Tickets,
        folder: RunFolder,
        watchers: Watchers,
        roster: Roster,
        autoscale: Autoscale,
    ) -> None:
        self.name, self.work, self.tickets, self.executor = name, work, tickets, tickets.executor
        self.folder, self.watchers, self.roster = folder, watchers, roster
        self.stopping = False
        self._told_problem = False
        self._autoscaler = _autoscaler(work, autoscale) if autoscale.enabled else None
        self._advise_at = 0.0

    def stop(self) -> None:
        """Asks the run to end: no new work; the update in flight finishes and a checkpoint is written."""
        self.stopping = True
        first = (
            "finishing the update and writing a checkpoint" if self.work.updates.gang else "writing down what is done"
        )
        self.watchers.note(f"stopping: {first}; Ctrl-C again ends at once")

    def tick(self, progress: Progress) -> None:
        """Meets new workers, shows and publishes the status, carries out commands, and scales. Raises RunFailed."""
        pools = self.executor.status()
        self.greet()
        status = self.status(progress, pools)
        self.watchers.status(status)
        for command in self.executor.exchange(status):
            self.executor.answer(command.id, self.obey(command))
        now = time.monotonic()
        if self._autoscaler and now >= self._advise_at:
            self._advise_at = now + AUTOSCALE_EVERY_S
            for pool, size in self._autoscaler.advise(now, self._loads(progress, pools)).items():
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

    def status(self, progress: Progress, pools: Mapping[str, PoolStatus]) -> dict[str, Any]:
        """The run as it is now: for `python -m cluster status`, and for who watches it."""
        health, busy = self.tickets.health, self.work.busy_share()
        return {
            "run": self.name,
            "state": "stopping" if self.stopping else "running",
            "time": time.time(),
            **self.work.status(progress),
            "policy_version": progress.version,
            "retries": dict(health.retries),
            "policy_restarts": health.gang_losses,
            "groups_in_flight": progress.groups_in_flight,
            "bytes_in_flight": progress.bytes_in_flight,
            "admission_paused": progress.admission_paused,
            "checkpoint": {"age_s": health.checkpoint_age(), **health.checkpoint},
            "pools": {name: self._shown(name, status, busy.get(name, 0.0)) for name, status in pools.items()},
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
            if pool not in self.work.elastic:
                raise ValueError(f"{pool} is no pool that scales; {' and '.join(self.work.elastic)} are")
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
        limits = self.work.elastic.get(name)
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

    def _loads(self, progress: Progress, pools: Mapping[str, PoolStatus]) -> dict[str, Load]:
        return {
            name: Load(
                progress.waiting[name],
                pools[name].busy,
                pools[name].ready,
                pools[name].wanted,
                self.tickets.mean_seconds(name),
            )
            for name in self.work.elastic
        }


def _autoscaler(work: Work, settings: Autoscale) -> Autoscaler:
    """Of the pools that may be scaled."""
    limits = {name: Limits(pool.min, pool.max) for name, pool in work.elastic.items()}
    seconds = settings.model_dump(include={"queue_s", "grow_after_s", "shrink_after_s"})
    return Autoscaler(limits, AutoscaleSettings(**seconds))
