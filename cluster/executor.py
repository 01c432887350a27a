"""Carries out tasks on Ray: pools and gangs of actors behind the contract of cluster/tasks.py, and one wait for all."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import ray

from cluster.connect import worker_env
from cluster.gang import Gang
from cluster.placement import PlacementError, preflight
from cluster.pool import Pool, Site
from cluster.tasks import (
    Executor,
    Failure,
    Handle,
    Outcome,
    PayloadLostError,
    PoolSpec,
    PoolStatus,
    Task,
    WorkerStartError,
    check_pools,
)
from cluster.waiting import WaitSet

__all__ = [
    "Executor",
    "Failure",
    "Handle",
    "Outcome",
    "PayloadLostError",
    "PlacementError",
    "PoolSpec",
    "PoolStatus",
    "RayExecutor",
    "Task",
    "WorkerStartError",
]

CLOSE_S = 10.0


class RayExecutor:
    """Executor on a Ray cluster that this process has joined (cluster/connect.py). `run` names the actors.

    A pool without a ready worker gives up after `max_start_failures` starts in a row that failed; a start fails after
    `start_timeout_s`. A pool of which no worker was ever ready gives up at the first constructor that raises.
    """

    def __init__(
        self,
        specs: Sequence[PoolSpec],
        run: str = "run",
        start_timeout_s: float = 300.0,
        max_start_failures: int = 3,
    ) -> None:
        self._specs = check_pools(specs)
        self._waits = WaitSet()
        self._outcomes: list[Outcome] = []
        site = Site(run, self._waits, self._outcomes.append, worker_env(), start_timeout_s, max_start_failures)
        self._pools: dict[str, Pool | Gang] = {
            name: Gang(spec, site) if spec.gang else Pool(spec, site) for name, spec in self._specs.items()
        }

    def start(self) -> None:
        preflight(list(self._specs.values()), ray.cluster_resources())
        try:
            while not all(pool.ready for pool in self._pools.values()):
                self._waits.poll(min(1.0, self._heal()))
        except BaseException:
            self.close()
            raise

    def free(self, pool: str) -> int:
        return self._pools[pool].free()

    def submit(self, task: Task) -> None:
        if task.pool not in self._pools:
            raise ValueError(f"there is no pool {task.pool}, only {', '.join(self._pools)}")
        self._pools[task.pool].submit(task)

    def wait(self, timeout_s: float) -> list[Outcome]:
        give_up = time.monotonic() + timeout_s
        left_s = timeout_s
        while not self._outcomes and left_s >= 0:
            next_heal_s = self._heal()
            if not len(self._waits) and next_heal_s == float("inf"):
                break
            self._waits.poll(min(left_s, next_heal_s))
            left_s = give_up - time.monotonic()
        outcomes = self._outcomes[:]
        self._outcomes.clear()
        return outcomes

    def fetch(self, handle: Handle, timeout_s: float = 60.0) -> Any:
        try:
            return ray.get(handle, timeout=timeout_s)
        except ray.exceptions.RayError as error:
            raise PayloadLostError(f"a payload could not be fetched: {error}") from error

    def put(self, value: Any) -> Handle:
        return ray.put(value)

    def resize(self, pool: str, size: int) -> None:
        spec = replace(self._specs[pool], size=size)
        others = [other for name, other in self._specs.items() if name != pool]
        if size > self._specs[pool].size:
            preflight([*others, spec], ray.cluster_resources())
        self._pools[pool].resize(size)
        self._specs[pool] = spec

    def status(self) -> dict[str, PoolStatus]:
        return {name: pool.status() for name, pool in self._pools.items()}

    def close(self) -> None:
        if not ray.is_initialized():
            return
        ended = [actor for pool in self._pools.values() for actor in pool.close()]
        self._outcomes.clear()
        give_up = time.monotonic() + CLOSE_S
        while ended and time.monotonic() < give_up:
            ended = [actor for actor in ended if not _is_dead(actor)]

    def _heal(self) -> float:
        return min(pool.heal() for pool in self._pools.values())


def _is_dead(actor: ray.actor.ActorHandle) -> bool:
    """A dead actor answers every call with an error; one that still dies may answer, or not yet."""
    try:
        ray.get(actor.__ray_ready__.remote(), timeout=0.5)
    except ray.exceptions.RayActorError:
        return True
    except ray.exceptions.GetTimeoutError:
        return False
    return False
