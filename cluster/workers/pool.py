"""An elastic pool of interchangeable workers: any can do a task, a dead one is replaced, the size may change."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import ray

from cluster.tasks import (
    Failure,
    Introduction,
    Outcome,
    PoolSpec,
    PoolStatus,
    Task,
    WorkerMistakeError,
    WorkerStartError,
)
from cluster.workers.heartbeat import Pulse
from cluster.workers.ray_errors import result_of
from cluster.workers.spawn import Site, backoff_s, call

MAX_RAISED = 3  # tasks in a row that a worker may fail: then it is taken for broken, whatever it says


@dataclass(slots=True, eq=False)
class _Worker:
    name: str
    actor: ray.actor.ActorHandle
    ref: ray.ObjectRef  # what it is doing: starting, or the call in flight
    task: Task | None = None
    began: float = 0.0
    pulse: Pulse | None = None  # once it is ready
    raised: set[Any] = field(default_factory=set)  # the tasks that it failed since the last that it did


class Pool:
    """The workers of one PoolSpec. The executor's wait set calls back into it; outcomes go to `site.report`."""

    def __init__(self, spec: PoolSpec, site: Site) -> None:
        self.spec = spec
        self._site = site
        self._wanted = spec.size
        self._workers: dict[str, _Worker] = {}  # each is starting, idle, or busy; a busy one may be leaving
        self._starting: set[str] = set()
        self._idle: dict[str, _Worker] = {}  # in the order in which they became idle: they take turns
        self._leaving: set[str] = set()  # ended when they finish
        self._backlog: deque[Task] = deque()
        self._num_started = 0
        self._restarts = 0
        self._start_failures = 0  # in a row
        self._failed_at = 0.0  # when the last of them was counted
        self._was_ready = self._was_complete = False  # any worker, and all of them
        self._heal_at = 0.0

    # -- what the executor calls

    def free(self) -> int:
        return len(self._idle)

    def submit(self, task: Task) -> None:
        self._backlog.append(task)
        self._dispatch()

    def resize(self, size: int) -> None:
        self._wanted = size
        self._leaving.clear()
        # those that do nothing go first, and of them those that are not even ready
        workers = sorted(self._workers.values(), key=lambda it: (it.task is not None, it.name not in self._starting))
        for worker in workers[: max(0, len(workers) - size)]:
            if worker.task is not None:
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
        busy = ready - len(self._idle)
        began = min((self._workers[name].began for name in self._starting), default=None)
        starting_s = None if began is None else time.monotonic() - began
        return PoolStatus(self._wanted, ready, busy, self._restarts, len(self._backlog), busy, starting_s)

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
        actor = self._site.start_actor(self.spec, name)
        worker = _Worker(name, actor, actor.started.remote(), began=time.monotonic())
        self._workers[name] = worker
        self._starting.add(name)
        self._site.waits.add(
            worker.ref,
            on_ready=lambda: self._started(worker),
            on_late=lambda: self._not_started(worker, f"it was not ready within {self._site.start_timeout_s:.0f} s"),
            deadline_s=self._site.start_timeout_s,
        )

    def _started(self, worker: _Worker) -> None:
        said, failure = result_of(worker.ref)
        if failure:
            self._refused(worker, failure)
            return
        self._site.introduce(Introduction(self.spec.name, worker.name, said))
        self._start_failures = 0
        self._was_ready = True
        self._starting.discard(worker.name)
        self._idle[worker.name] = worker
        self._was_complete = self._was_complete or self.ready
        worker.pulse = self._site.heartbeats.watch(worker.actor, partial(self._lost, worker))
        self._dispatch()

    def _refused(self, worker: _Worker, failure: Failure) -> None:
        """It died, or its constructor raised. A mistake ends the start; once all were ready, its node may be to blame as well."""
        if failure.cause == "mistake" and not self._was_complete:
            self._end(worker)
            raise WorkerMistakeError(failure.message)
        self._not_started(worker, failure.message, hopeless=failure.cause == "raised" and not self._was_ready)

    def _not_started(self, worker: _Worker, message: str, hopeless: bool = False) -> None:
        """Try again, ever more slowly. With no other worker, give up: if `hopeless` at once, else after a few times."""
        self._end(worker)
        if worker.began >= self._failed_at:  # those that were started together, and fail with their node, count once
            self._start_failures += 1
            self._failed_at = time.monotonic()
        alone = self.status().ready == 0
        if alone and (hopeless or self._start_failures >= self._site.max_start_failures):
            raise WorkerStartError(
                f"workers of the pool {self.spec.name} do not start ({self._start_failures} failed in a row).\n"
                f"{worker.name}: {message}"
            )
        self._heal_at = time.monotonic() + backoff_s(self._start_failures)
        self._dispatch()

    def _lost(self, worker: _Worker, reason: str) -> None:
        """Its heartbeat says that it died or hangs."""
        if worker.task is None:
            self._replace(worker)
        else:
            self._failed(worker, Failure("worker_lost", f"{worker.name}: {reason}"))

    def _replace(self, worker: _Worker) -> None:
        self._end(worker)
        self._restarts += 1
        self.heal()

    def _end(self, worker: _Worker) -> None:
        self._site.waits.discard(worker.ref)
        self._workers.pop(worker.name, None)
        self._starting.discard(worker.name)
        self._idle.pop(worker.name, None)
        self._leaving.discard(worker.name)
        if worker.pulse:
            self._site.heartbeats.stop(worker.pulse)
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
        worker.ref, worker.task, worker.began = refs[0], task, time.monotonic()

        def on_ready() -> None:
            value, failure = result_of(refs[0])
            if failure:
                self._failed(worker, failure)
            else:
                seconds = time.monotonic() - worker.began
                self._returned(worker, Outcome(task.key, worker.name, seconds, value, tuple(refs[1:])))

        def on_late() -> None:
            message = f"{task.method} on {worker.name} took longer than {task.deadline_s} s"
            self._failed(worker, Failure("deadline", message))

        self._site.waits.add(worker.ref, on_ready, on_late, task.deadline_s)

    def _failed(self, worker: _Worker, failure: Failure) -> None:
        assert worker.task is not None
        seconds = time.monotonic() - worker.began
        self._returned(worker, Outcome(worker.task.key, worker.name, seconds, failure=failure))

    def _returned(self, worker: _Worker, outcome: Outcome) -> None:
        worker.task = None
        if worker.name in self._leaving:
            self._end(worker)
        elif _is_broken(worker, outcome):
            self._replace(worker)
        else:
            self._idle[worker.name] = worker
        self._site.report(outcome)
        self._dispatch()


def _is_broken(worker: _Worker, outcome: Outcome) -> bool:
    """Whether a worker is no good any more. One that fails at once is always idle: left alone, it would get every task."""
    if outcome.failure is None:
        worker.raised.clear()
        return False
    if outcome.failure.cause == "raised":
        worker.raised.add(outcome.key)
    return outcome.failure.lost or len(worker.raised) >= MAX_RAISED
