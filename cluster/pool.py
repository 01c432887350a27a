"""An elastic pool of interchangeable workers: any can do a task, a dead one is replaced, the size may change."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import ActorDiedError

from cluster.failures import failure_of, tail
from cluster.tasks import Failure, Outcome, PoolSpec, PoolStatus, Task, WorkerStartError
from cluster.waiting import WaitSet

FETCH_S = 60.0  # a first return value is small and exists already: if it does not come, its node is gone
MAX_BACKOFF_S = 30.0


@dataclass(frozen=True)
class Site:
    """What every pool of an executor shares. `report` takes outcomes as they arise."""

    run: str
    waits: WaitSet
    report: Callable[[Outcome], None]
    env_vars: dict[str, str]
    start_timeout_s: float
    max_start_failures: int

    def start_actor(self, actor_class: Any, spec: PoolSpec, name: str, **options: Any) -> ray.actor.ActorHandle:
        """A new actor process; it is not ready yet. Ray never restarts it: the state would be lost without a word."""
        actor = actor_class.options(
            name=f"echoray-{self.run}-{name}",
            num_cpus=spec.num_cpus,
            num_gpus=spec.num_gpus,
            resources=dict(spec.resources),
            max_restarts=0,
            runtime_env={"env_vars": self.env_vars},
            **options,
        )
        return actor.remote(**spec.kwargs)


@dataclass(slots=True, eq=False)
class _Worker:
    name: str
    actor: ray.actor.ActorHandle
    ref: ray.ObjectRef  # what it is doing: starting, or the call in flight


class Pool:
    """The workers of one PoolSpec. The executor's wait set calls back into it; outcomes go to `site.report`."""

    def __init__(self, spec: PoolSpec, site: Site) -> None:
        self.spec = spec
        self._site = site
        self._actor_class = ray.remote(spec.actor)
        self._wanted = spec.size
        self._workers: dict[str, _Worker] = {}  # each is starting, idle, or busy; a busy one may be leaving
        self._starting: set[str] = set()
        self._idle: dict[str, _Worker] = {}  # in the order in which they became idle: they take turns
        self._leaving: set[str] = set()  # ended when they finish
        self._backlog: deque[Task] = deque()
        self._num_started = 0
        self._restarts = 0
        self._start_failures = 0  # in a row
        self._was_ready = False
        self._heal_at = 0.0

    # -- what the executor calls

    def free(self) -> int:
        return len(self._idle)

    def submit(self, task: Task) -> None:
        self._backlog.append(task)
        self._dispatch()

    def resize(self, size: int) -> None:
        self._wanted = size
        staying = [worker for name, worker in self._workers.items() if name not in self._leaving]
        staying.sort(key=self._is_busy)  # those that do nothing go first
        for worker in staying[: max(0, len(staying) - size)]:
            if self._is_busy(worker):
                self._leaving.add(worker.name)
            else:
                self._end(worker)
        self.heal()

    def heal(self) -> float:
        """Start the workers that are missing; seconds until it should be called again."""
        missing = self._wanted - (len(self._workers) - len(self._leaving))
        if missing <= 0:
            return float("inf")
        if (delay := self._heal_at - time.monotonic()) > 0:
            return delay
        for _ in range(missing):
            self._start_worker()
        return float("inf")

    @property
    def ready(self) -> bool:
        return self.status().ready >= self._wanted

    def status(self) -> PoolStatus:
        ready = len(self._workers) - len(self._starting)
        return PoolStatus(self._wanted, ready, ready - len(self._idle), self._restarts)

    def close(self) -> list[ray.actor.ActorHandle]:
        """End all workers; the handles of those that were still there."""
        self._wanted = 0
        self._backlog.clear()
        workers = list(self._workers.values())
        for worker in workers:
            self._end(worker)
        return [worker.actor for worker in workers]

    # -- starting and ending

    def _start_worker(self) -> None:
        name = f"{self.spec.name}-{self._num_started}"
        self._num_started += 1
        actor = self._site.start_actor(self._actor_class, self.spec, name)
        worker = _Worker(name, actor, actor.__ray_ready__.remote())
        self._workers[name] = worker
        self._starting.add(name)
        self._site.waits.add(
            worker.ref,
            on_ready=lambda: self._started(worker),
            on_late=lambda: self._not_started(worker, f"it was not ready within {self._site.start_timeout_s:.0f} s"),
            deadline_s=self._site.start_timeout_s,
        )

    def _started(self, worker: _Worker) -> None:
        try:
            ray.get(worker.ref, timeout=FETCH_S)
        except Exception as error:
            own_error = isinstance(error, ActorDiedError) and error.actor_init_failed
            self._not_started(worker, tail(str(error)), hopeless=own_error and not self._was_ready)
            return
        self._start_failures = 0
        self._was_ready = True
        self._starting.discard(worker.name)
        self._idle[worker.name] = worker
        self._dispatch()

    def _not_started(self, worker: _Worker, message: str, hopeless: bool = False) -> None:
        """Try again, ever more slowly. With no other worker, give up: if `hopeless` at once, else after a few times."""
        self._end(worker)
        self._start_failures += 1
        alone = self.status().ready == 0
        if alone and (hopeless or self._start_failures >= self._site.max_start_failures):
            raise WorkerStartError(
                f"workers of the pool {self.spec.name} do not start ({self._start_failures} failed in a row).\n"
                f"{worker.name}: {message}"
            )
        self._heal_at = time.monotonic() + min(MAX_BACKOFF_S, 2.0**self._start_failures)
        self._dispatch()

    def _is_busy(self, worker: _Worker) -> bool:
        return worker.name not in self._starting and worker.name not in self._idle

    def _end(self, worker: _Worker) -> None:
        self._site.waits.discard(worker.ref)
        self._workers.pop(worker.name, None)
        self._starting.discard(worker.name)
        self._idle.pop(worker.name, None)
        self._leaving.discard(worker.name)
        ray.kill(worker.actor)

    # -- tasks

    def _dispatch(self) -> None:
        held_back = []
        while self._backlog and self._idle:
            task = self._backlog.popleft()
            if worker := self._choose(task):
                self._call(worker, task)
            else:
                held_back.append(task)
        self._backlog.extendleft(reversed(held_back))

    def _choose(self, task: Task) -> _Worker | None:
        """An idle worker that need not be avoided; any, if there is no other at all; None if another will be free."""
        for name, worker in self._idle.items():
            if name not in task.avoid:
                return worker
        if any(name not in task.avoid and name not in self._leaving for name in self._workers):
            return None
        return next(iter(self._idle.values()))

    def _call(self, worker: _Worker, task: Task) -> None:
        del self._idle[worker.name]
        refs = call(worker.actor, task, task.args)
        worker.ref = refs[0]
        began = time.monotonic()

        def on_ready() -> None:
            value, failure = result_of(worker.ref)
            payloads = () if failure else tuple(refs[1:])
            self._returned(worker, Outcome(task.key, worker.name, time.monotonic() - began, value, payloads, failure))

        def on_late() -> None:
            failure = Failure("deadline", f"{task.method} on {worker.name} took longer than {task.deadline_s} s")
            self._returned(worker, Outcome(task.key, worker.name, time.monotonic() - began, failure=failure))

        self._site.waits.add(worker.ref, on_ready, on_late, task.deadline_s)

    def _returned(self, worker: _Worker, outcome: Outcome) -> None:
        lost = outcome.failure is not None and outcome.failure.cause in ("worker_lost", "deadline")
        if worker.name in self._leaving:
            self._end(worker)
        elif lost:
            self._end(worker)
            self._restarts += 1
            self.heal()
        else:
            self._idle[worker.name] = worker
        self._site.report(outcome)
        self._dispatch()


def call(actor: ray.actor.ActorHandle, task: Task, args: tuple) -> list[ray.ObjectRef]:
    """Call the task's method; one reference for each of its return values."""
    method = getattr(actor, task.method)
    return [method.remote(*args)] if task.returns == 1 else method.options(num_returns=task.returns).remote(*args)


def result_of(ref: ray.ObjectRef) -> tuple[Any, Failure | None]:
    """The value of a call that is done, or its failure."""
    try:
        return ray.get(ref, timeout=FETCH_S), None
    except Exception as error:
        return None, failure_of(error)
