"""Calls of the workers' methods: by which deadline, how often after a lost worker, whether they still count, and who takes what comes."""

from __future__ import annotations

import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cluster.tasks import Executor, Failure, Outcome, Task
from pipelines.recipe.tables import Cluster

Take = Callable[[Outcome], None]
RECENT = 64


class Health:
    """How a run has fared since this start.

    retries: failed calls by cause; gang_losses: how often what it trains was lost; paused_s: how long admission was paused;
    checkpoint: the last whole one, by the names of the status.
    """

    def __init__(self) -> None:
        self.retries: Counter[str] = Counter()
        self.gang_losses = 0
        self.paused_s = 0.0
        self.checkpoint: dict[str, float] = {}
        self._checkpoint_at = time.monotonic()

    def failed(self, failure: Failure) -> None:
        """A call failed."""
        self.retries[failure.cause] += 1

    def checkpointed(self, step: int, figures: Mapping[str, float]) -> None:
        """A checkpoint of this step is whole."""
        self._checkpoint_at = time.monotonic()
        self.checkpoint |= {"step": step, "write_s": figures["seconds"], "bytes": figures["bytes"]}

    def checkpoint_age(self) -> float:
        """Seconds since the last whole checkpoint, or since this start."""
        return time.monotonic() - self._checkpoint_at


class Deadlines:
    """Durations of tasks by kind, in seconds.

    A deadline is `factor` times the longest of the last RECENT tasks of the kind, at least `floor_s` and at most `first_s`,
    which is also the deadline as long as nothing of the kind was measured.
    """

    def __init__(self, first_s: float, floor_s: float, factor: float) -> None:
        self.first_s, self.floor_s, self.factor = first_s, floor_s, factor
        self._seconds: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=RECENT))

    def took(self, kind: str, seconds: float) -> None:
        """A task of this kind was done."""
        self._seconds[kind].append(seconds)

    def of(self, kind: str, late_before: int = 0) -> float:
        """The deadline of the next task; twice as long for each worker that did not finish it."""
        seconds = self._seconds.get(kind)
        deadline = min(self.first_s, max(self.floor_s, self.factor * max(seconds))) if seconds else self.first_s
        return deadline * 2**late_before

    def mean(self, kind: str) -> float | None:
        """The mean of the recent durations; None before the first."""
        seconds = self._seconds.get(kind)
        return sum(seconds) / len(seconds) if seconds else None


class CallFailed(Exception):
    """A call that was waited for failed."""

    def __init__(self, method: str, failure: Failure) -> None:
        super().__init__(f"{method}: {failure.message}")
        self.method, self.failure = method, failure


@dataclass(frozen=True)
class Ticket:
    """A call under way, and the key under which it comes back: that of the same work, asked for again, is equal to it.

    about: what it is for. duration: the name under which its time is remembered. era: in which it counts (None: in any).
    retries: that are left.
    """

    method: str
    about: Hashable
    task: Task = field(compare=False)
    duration: str = field(compare=False)
    then: Take = field(compare=False)
    era: int | None = field(compare=False)
    retries: int = field(compare=False)


class Tickets:
    """Gives calls to the executor, and what comes of them to who asked.

    An era begins whenever all that was asked for is let go, as when the policy is lost: what comes back of an earlier era does
    not count, but for calls that say `survives_era`.
    """

    def __init__(self, executor: Executor, limits: Cluster) -> None:
        self.executor = executor
        self.health = Health()
        self.deadlines = Deadlines(limits.task_timeout_s, limits.deadline_floor_s, limits.deadline_factor)
        self._era = 0

    def begin_era(self) -> None:
        """Lets go of all that is under way, but for what survives."""
        self._era += 1

    def call(
        self,
        pool: str,
        method: Callable[..., Any],
        args: tuple,
        then: Take,
        about: Hashable = None,
        purpose: str = "",
        retries: int = 0,
        survives_era: bool = False,
        **options: Any,
    ) -> None:
        """Asks a worker of the pool for `method(*args)`, of which `args` may be handles; `then` takes the outcome.

        about: what it is for. purpose: of a method whose tasks are of different sizes. retries: how often it is asked for again
        when its worker is lost.
        survives_era: what it does is good even if the policy is lost meanwhile. options: of `Task`.
        """
        name, era = method.__name__, None if survives_era else self._era
        task = Task(pool, name, None, args, **options)
        self._submit(Ticket(name, about, task, f"{name} {purpose}".strip(), then, era, retries))

    def now(self, pool: str, method: Callable[..., Any], args: tuple, returns: int = 1, retries: int = 0) -> Outcome:
        """Waits for a call; what else comes back meanwhile goes where it belongs. Raises CallFailed."""
        arrived: list[Outcome] = []
        self.call(pool, method, args, arrived.append, retries=retries, returns=returns)
        while not arrived:
            self.hand_out(self.executor.wait(timeout_s=10.0))
        [outcome] = arrived
        if outcome.failure:
            raise CallFailed(method.__name__, outcome.failure)
        return outcome

    def hand_out(self, outcomes: Sequence[Outcome]) -> None:
        """Passes each outcome that still counts to its callback, or makes the call again."""
        for outcome in outcomes:
            ticket: Ticket = outcome.key
            if ticket.era not in (None, self._era):
                continue
            if outcome.failure is None:
                self.deadlines.took(ticket.duration, outcome.seconds)
                self.deadlines.took(_pool(ticket.task.pool), outcome.seconds)
            elif outcome.failure.lost and ticket.retries:
                self.health.failed(outcome.failure)
                self._submit(replace(ticket, retries=ticket.retries - 1))
                continue
            ticket.then(outcome)

    def mean_seconds(self, pool: str) -> float | None:
        """The mean of the recent calls of a pool, whatever they were for; None before the first."""
        return self.deadlines.mean(_pool(pool))

    def _submit(self, ticket: Ticket) -> None:
        deadline_s = self.deadlines.of(ticket.duration, late_before=len(ticket.task.avoid))
        self.executor.submit(replace(ticket.task, key=ticket, deadline_s=deadline_s))


def _pool(name: str) -> str:
    """The kind of all calls of a pool together."""
    return f"pool {name}"
