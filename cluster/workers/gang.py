"""Ranks that work together: every rank is called for every method, and when one is lost, all are."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from typing import Any

import ray

from cluster.tasks import Failure, Outcome, PoolSpec, PoolStatus, Task, WorkerMistakeError, WorkerStartError, rank_args
from cluster.workers.ranks import Ranks
from cluster.workers.rounds import Round
from cluster.workers.spawn import Site, backoff_s, call


@dataclass(slots=True, eq=False)
class _Call:
    task: Task
    refs: list[list[ray.ObjectRef]]  # of each rank, of each return value
    began: float


class Gang:
    """The ranks of one PoolSpec. An outcome's value and payloads are rank 0's.

    Ranks may wait for each other inside a call. So when one of several fails, hangs or dies, all are ended, every task under
    way fails, and so do later ones, until `restart`: the ranks come back without their state, which is the driver's business.
    """

    def __init__(self, spec: PoolSpec, site: Site) -> None:
        self.spec = spec
        self._site = site
        self._ranks: Ranks | None = None
        self._ready = False
        self._lost: str | None = None
        self._held: deque[Task] = deque()  # until the ranks have joined
        self._calls: deque[_Call] = deque()  # issued; the first one runs
        self._round: Round | None = None  # of the first call
        self._incarnations = 0
        self._restarts = 0
        self._start_failures = 0  # in a row
        self._was_ready = False
        self._heal_at = 0.0

    # -- what the executor calls

    def free(self) -> int:
        return int(self._ready and not self._calls)

    def submit(self, task: Task) -> None:
        args = rank_args(task, self.spec.size)
        if self._lost is not None:
            self._report(task, time.monotonic(), failure=Failure("worker_lost", self._lost))
        elif self._ranks is None or not self._ready:
            self._held.append(task)
        else:
            refs = [call(actor, task, arg) for actor, arg in zip(self._ranks.actors, args, strict=True)]
            self._calls.append(_Call(task, refs, time.monotonic()))
            if len(self._calls) == 1:
                self._watch_first()

    def restart(self) -> None:
        """End the ranks, fail the tasks under way, and start anew."""
        self._end(f"the gang {self.spec.name} is restarted")
        self._lost = None
        self._start_failures = 0
        self._heal_at = 0.0
        self._restarts += 1
        self.heal()

    def heal(self) -> float:
        """Start the ranks if there are none; seconds until it should be called again."""
        if self._ranks is not None or self._lost is not None:
            return float("inf")
        if (delay := self._heal_at - time.monotonic()) > 0:
            return delay
        self._ranks = Ranks(self.spec, self._site, self._incarnations, self._joined, self._failed)
        self._incarnations += 1
        return float("inf")

    @property
    def ready(self) -> bool:
        return self._ready

    def status(self) -> PoolStatus:
        ready = self.spec.size if self._ready else 0
        busy = ready if self._calls else 0
        starting_s = None if self._ready or self._ranks is None else time.monotonic() - self._ranks.began
        return PoolStatus(self.spec.size, ready, busy, self._restarts, len(self._held), len(self._calls), starting_s)

    def close(self) -> list[ray.actor.ActorHandle]:
        """End all ranks; the handles of those that were still there."""
        actors = self._ranks.actors if self._ranks else []
        self._held.clear()
        self._lost = "the gang is closed"
        self._end(self._lost)
        return actors

    # -- starting and ending

    def _joined(self) -> None:
        self._ready = self._was_ready = True
        self._start_failures = 0
        held, self._held = self._held, deque()
        for task in held:
            self.submit(task)

    def _failed(self, failure: Failure) -> None:
        """The ranks did not come up, or one of them is lost."""
        if self._ready:
            self._lose(failure)
        elif failure.cause == "mistake" and not self._was_ready:
            self._end(failure.message)
            self._lost = failure.message
            raise WorkerMistakeError(failure.message)
        else:
            self._not_started(failure)

    def _lose(self, failure: Failure) -> None:
        self._lost = f"the gang {self.spec.name} was ended: {failure.message}"
        self._end(self._lost, failure)

    def _not_started(self, failure: Failure) -> None:
        """Try again, ever more slowly. Give up after a few times; at once if the ranks were never ready and none of them died."""
        message = failure.message
        self._end(message)
        self._start_failures += 1
        hopeless = failure.cause != "worker_lost" and not self._was_ready
        if hopeless or self._start_failures >= self._site.max_start_failures:
            self._lost = message
            raise WorkerStartError(
                f"the gang {self.spec.name} of {self.spec.size} ranks does not start"
                f" ({self._start_failures} failed in a row).\n{message}"
            )
        self._heal_at = time.monotonic() + backoff_s(self._start_failures)

    def _end(self, reason: str, failure: Failure | None = None) -> None:
        """End the ranks. The call that runs fails with `failure`, those that wait behind it because the gang is lost."""
        self._ready = False
        if self._round is not None:
            self._round.cancel()
            self._round = None
        if self._ranks is not None:
            self._ranks.end()
            self._ranks = None
        calls, self._calls = self._calls, deque()
        for number, ended in enumerate(calls):
            first = failure if number == 0 else None
            self._report(ended.task, ended.began, failure=first or Failure("worker_lost", reason))

    # -- tasks

    def _watch_first(self) -> None:
        """Wait for the first call. Ranks do calls in order, so that the others' clocks do not run yet."""
        first = self._calls[0]
        first.began = time.monotonic()
        what = f"{first.task.method} on the gang {self.spec.name}"
        refs = [refs[0] for refs in first.refs]
        self._round = Round(self._site.waits, what, refs, first.task.deadline_s, self._returned)

    def _returned(self, values: list[Any], failure: Failure | None) -> None:
        if failure and (failure.lost or self.spec.size > 1):
            return self._lose(failure)
        first = self._calls.popleft()
        payloads = () if failure else tuple(first.refs[0][1:])
        self._report(first.task, first.began, values[0] if values else None, payloads, failure)
        if self._calls:
            self._watch_first()

    def _report(
        self, task: Task, began: float, value: Any = None, payloads: tuple = (), failure: Failure | None = None
    ) -> None:
        seconds = time.monotonic() - began
        self._site.report(Outcome(task.key, f"{self.spec.name}-0", seconds, value, payloads, failure))
