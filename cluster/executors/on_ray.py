"""Carries out tasks on Ray: pools and gangs of actors behind the contract of cluster/tasks.py, and one wait for all."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import ray

from cluster.connect import worker_env
from cluster.control.controller import Link
from cluster.placement.fit import PlacementError, check_nodes
from cluster.placement.nodes import Say, nodes_here, room_for
from cluster.tasks import (
    HEARTBEAT_S,
    HEARTBEAT_TIMEOUT_S,
    START_TIMEOUT_S,
    STARTING,
    Command,
    Executor,
    Failure,
    Handle,
    Introduction,
    Outcome,
    PayloadLostError,
    PoolSpec,
    PoolStatus,
    Task,
    WorkerStartError,
    check_pools,
    check_size,
    gang_named,
    spec_named,
)
from cluster.workers.gang import Gang
from cluster.workers.heartbeat import Heartbeats
from cluster.workers.pool import Pool
from cluster.workers.spawn import Site
from cluster.workers.wait_set import WaitSet

__all__ = [
    "Command",
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
    `start_timeout_s`. A pool of which no worker was ever ready gives up at the first constructor that raises. So does a gang. A process
    that dies while it starts is replaced, the first time too.

    Workers are asked for a sign of life every `heartbeat_s`, during `wait`; one that gives none within `heartbeat_timeout_s`
    is ended.

    The start waits up to `node_timeout_s` for nodes that are missing; `say` hears what it waits for. From its beginning the run
    is found by others; one who tells it to stop meanwhile ends it, as Ctrl-C does.
    """

    def __init__(
        self,
        specs: Sequence[PoolSpec],
        run: str = "run",
        start_timeout_s: float = START_TIMEOUT_S,
        max_start_failures: int = 3,
        heartbeat_s: float = HEARTBEAT_S,
        heartbeat_timeout_s: float = HEARTBEAT_TIMEOUT_S,
        node_timeout_s: float = 0.0,
        say: Say = lambda text: None,
    ) -> None:
        self._specs = check_pools(specs)
        self._node_timeout_s = node_timeout_s
        self._say = say
        self._waits = WaitSet()
        self._heartbeats = Heartbeats(self._waits, heartbeat_s, heartbeat_timeout_s)
        self._outcomes: list[Outcome] = []
        self._introductions: list[Introduction] = []
        env = worker_env()
        self._link = Link(run, env)
        site = Site(
            run=run,
            waits=self._waits,
            heartbeats=self._heartbeats,
            report=self._outcomes.append,
            introduce=self._introductions.append,
            env_vars=env,
            start_timeout_s=start_timeout_s,
            max_start_failures=max_start_failures,
        )
        self._pools: dict[str, Pool | Gang] = {
            name: Gang(spec, site) if spec.gang else Pool(spec, site) for name, spec in self._specs.items()
        }

    def start(self) -> None:
        try:
            self._tell("looking for room for its workers")
            with room_for(list(self._specs.values()), self._node_timeout_s, self._tell):
                since = time.strftime("%H:%M:%S")
                while not all(pool.ready for pool in self._pools.values()):
                    self._waits.poll(min(1.0, self._heal(), self._heartbeats.beat()))
                    self._tell(f"starting workers since {since}, ready so far: {self._ready_so_far()}")
        except BaseException:
            self.close()
            raise

    def free(self, pool: str) -> int:
        return self._pools[pool].free()

    def submit(self, task: Task) -> None:
        self._pools[spec_named(task.pool, self._specs).name].submit(task)

    def wait(self, timeout_s: float) -> list[Outcome]:
        give_up = time.monotonic() + timeout_s
        while True:
            next_heal_s, next_beat_s = self._heal(), self._heartbeats.beat()
            under_way = len(self._waits) > 0 or next_heal_s < float("inf")
            left_s = give_up - time.monotonic() if under_way and not self._outcomes else 0.0
            self._waits.poll(max(0.0, min(left_s, next_heal_s, next_beat_s)))
            if self._outcomes or left_s <= 0:
                break
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
        before = spec_named(pool, self._specs)
        check_size(before, size)
        after = replace(before, size=size, min_size=before.smallest)
        if size > before.size:
            check_nodes([after if spec is before else spec for spec in self._specs.values()], nodes_here())
        resized = self._pools[pool]
        assert isinstance(resized, Pool), "no size is right for a gang"
        resized.resize(size)
        self._specs[pool] = after

    def restart(self, pool: str) -> None:
        gang = self._pools[gang_named(pool, self._specs).name]
        assert isinstance(gang, Gang)
        gang.restart()

    def exchange(self, status: Mapping[str, Any]) -> list[Command]:
        return self._link.exchange(status)

    def answer(self, command_id: int, text: str) -> None:
        self._link.answer(command_id, text)

    def object_store_bytes(self) -> int | None:
        return int(ray.cluster_resources().get("object_store_memory", 0)) or None

    def introductions(self) -> list[Introduction]:
        said = self._introductions[:]
        self._introductions.clear()
        return said

    def status(self) -> dict[str, PoolStatus]:
        return {name: pool.status() for name, pool in self._pools.items()}

    def close(self) -> None:
        if not ray.is_initialized():
            return
        ended = [actor for pool in self._pools.values() for actor in pool.close()] + self._link.close()
        self._outcomes.clear()
        give_up = time.monotonic() + CLOSE_S
        while ended and time.monotonic() < give_up:
            ended = [actor for actor in ended if not _is_dead(actor)]

    def _tell(self, waiting_for: str) -> None:
        """Tells what the start waits for, here and to those who look from outside. Raises KeyboardInterrupt if they want it to stop."""
        self._say(waiting_for)
        for command in self._link.exchange({"state": STARTING, "waiting_for": waiting_for}):
            if command.kind == "stop":
                raise KeyboardInterrupt
            self._link.answer(command.id, "refused: the run is still starting; ask again when it trains")

    def _heal(self) -> float:
        return min(pool.heal() for pool in self._pools.values())

    def _ready_so_far(self) -> str:
        return ", ".join(f"{name} {pool.ready} of {pool.wanted}" for name, pool in self.status().items())


def _is_dead(actor: ray.actor.ActorHandle) -> bool:
    """A dead actor answers every call with an error; one that still dies may answer, or not yet."""
    try:
        ray.get(actor.__ray_ready__.remote(), timeout=0.5)
    except ray.exceptions.RayActorError:
        return True
    except ray.exceptions.GetTimeoutError:
        return False
    return False
