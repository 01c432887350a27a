"""Ranks that work together: every rank is called for every method, and all of them live, or none."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from cluster.failures import tail
from cluster.pool import FETCH_S, Site, call, result_of
from cluster.tasks import Failure, Outcome, PoolSpec, PoolStatus, Task, WorkerStartError, rank_args


@dataclass(slots=True, eq=False)
class _Call:
    task: Task
    refs: list[list[ray.ObjectRef]]  # of each rank, of each return value
    began: float
    waiting: int
    value: Any = None


class Gang:
    """The ranks of one PoolSpec, in one placement group. An outcome's value and payloads are rank 0's.

    Ranks may wait for each other inside a call. So when one of several fails, hangs or dies, all are ended, every task
    under way fails, and so do later ones: bringing the gang back, with its state, is the driver's business.
    """

    def __init__(self, spec: PoolSpec, site: Site) -> None:
        self.spec = spec
        self._site = site
        self._actor_class = ray.remote(spec.actor)
        self._placement: PlacementGroup | None = None
        self._ranks: list[ray.actor.ActorHandle] = []
        self._starting: set[ray.ObjectRef] = set()
        self._calls: deque[_Call] = deque()
        self._lost: str | None = None

    # -- what the executor calls

    def free(self) -> int:
        return int(self.ready and not self._calls)

    def submit(self, task: Task) -> None:
        if self._lost is not None:
            self._report(task, time.monotonic(), None, Failure("worker_lost", self._lost))
            return
        assert self._ranks, "start() comes first"
        args = rank_args(task, len(self._ranks))
        refs = [call(rank, task, arg) for rank, arg in zip(self._ranks, args, strict=True)]
        self._calls.append(_Call(task, refs, time.monotonic(), waiting=len(refs)))
        if len(self._calls) == 1:
            self._watch_first()

    def resize(self, size: int) -> None:
        raise ValueError(f"pool {self.spec.name} is a gang of {self.spec.size} ranks: its size is fixed during a run")

    def heal(self) -> float:
        """Start the ranks, once; seconds until it should be called again."""
        if not self._ranks and self._lost is None:
            self._start()
        return float("inf")

    @property
    def ready(self) -> bool:
        return bool(self._ranks) and not self._starting

    def status(self) -> PoolStatus:
        ready = len(self._ranks) - len(self._starting)
        return PoolStatus(self.spec.size, ready, ready if self._calls else 0, restarts=0)

    def close(self) -> list[ray.actor.ActorHandle]:
        """End all ranks; the handles of those that were still there."""
        ranks = self._ranks
        self._calls.clear()
        self._end("the gang is closed")
        return ranks

    # -- starting and ending

    def _start(self) -> None:
        options = {}
        demand = {"CPU": self.spec.num_cpus, "GPU": self.spec.num_gpus, **self.spec.resources}
        bundle = {name: amount for name, amount in demand.items() if amount}
        if bundle:  # Ray refuses an empty bundle
            self._placement = placement_group([bundle] * self.spec.size, strategy="PACK")
            options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(self._placement)
        for rank in range(self.spec.size):
            actor = self._site.start_actor(self._actor_class, self.spec, f"{self.spec.name}-{rank}", **options)
            self._ranks.append(actor)
            self._watch_start(rank, actor.__ray_ready__.remote())

    def _watch_start(self, rank: int, ref: ray.ObjectRef) -> None:
        self._starting.add(ref)

        def on_ready() -> None:
            try:
                ray.get(ref, timeout=FETCH_S)
            except Exception as error:
                self._not_started(rank, tail(str(error)))
            self._starting.discard(ref)

        def on_late() -> None:
            self._not_started(rank, f"it was not ready within {self._site.start_timeout_s:.0f} s")

        self._site.waits.add(ref, on_ready, on_late, self._site.start_timeout_s)

    def _not_started(self, rank: int, message: str) -> None:
        self._end(message)
        raise WorkerStartError(
            f"rank {rank} of the gang {self.spec.name} ({self.spec.size}) does not start.\n{message}"
        )

    def _end(self, reason: str) -> None:
        self._lost = self._lost or reason
        for ref in self._starting:
            self._site.waits.discard(ref)
        self._starting.clear()
        for rank in self._ranks:
            ray.kill(rank)
        self._ranks = []
        if self._placement is not None:
            remove_placement_group(self._placement)
            self._placement = None

    # -- tasks

    def _watch_first(self) -> None:
        """Wait for the first call. Ranks do calls in order, so that the others' clocks do not run yet."""
        first = self._calls[0]
        first.began = time.monotonic()
        for rank, refs in enumerate(first.refs):
            on_ready = partial(self._returned, first, rank, refs[0])
            self._site.waits.add(refs[0], on_ready, partial(self._late, first), first.task.deadline_s)

    def _returned(self, first: _Call, rank: int, ref: ray.ObjectRef) -> None:
        value, failure = result_of(ref)
        if rank == 0:
            first.value = value
        first.waiting -= 1
        if failure is not None and (failure.cause == "worker_lost" or len(self._ranks) > 1):
            self._fail_all(first, Failure(failure.cause, f"rank {rank}: {failure.message}"))
        elif first.waiting == 0:
            self._calls.popleft()
            self._report(first.task, first.began, first, failure)
            if self._calls:
                self._watch_first()

    def _late(self, first: _Call) -> None:
        message = f"{first.task.method} on the gang {self.spec.name} took longer than {first.task.deadline_s} s"
        self._fail_all(first, Failure("deadline", message))

    def _fail_all(self, first: _Call, failure: Failure) -> None:
        self._end(f"the gang {self.spec.name} was ended: {failure.message}")
        for refs in first.refs:
            self._site.waits.discard(refs[0])
        calls, self._calls = self._calls, deque()
        self._report(first.task, first.began, None, failure)
        for other in list(calls)[1:]:
            self._report(other.task, other.began, None, Failure("worker_lost", self._lost or ""))

    def _report(self, task: Task, began: float, done: _Call | None, failure: Failure | None) -> None:
        good = done is not None and failure is None
        value, payloads = (done.value, tuple(done.refs[0][1:])) if done is not None and good else (None, ())
        seconds = time.monotonic() - began
        self._site.report(Outcome(task.key, f"{self.spec.name}-0", seconds, value, payloads, failure))
