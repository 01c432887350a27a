"""Tasks on their way to the workers and back: under which key, by which deadline, and whether they still count."""

from __future__ import annotations

from typing import Any

from cluster.tasks import Executor, Outcome, Task
from pipelines.deadlines import Deadlines
from pipelines.loop_messages import Draw, Unit
from pipelines.tables import Cluster

FINISHED_ANYWAY = {"write", "remove", "keep"}  # what is stored is good even if the policy is lost meanwhile


class Dispatch:
    """Gives tasks to the executor under the key (kind, what, era).

    An era begins whenever all that was asked for is let go, as when the policy is lost: what comes back of an earlier era
    does not count.
    """

    def __init__(self, executor: Executor, limits: Cluster) -> None:
        self.executor = executor
        self.deadlines = Deadlines(limits.task_timeout_s, limits.deadline_floor_s, limits.deadline_factor)
        self.era = 0

    def begin_era(self) -> None:
        """Lets go of all that is under way, but for FINISHED_ANYWAY."""
        self.era += 1

    def submit(self, pool: str, kind: str, what: Any, args: tuple, method: str | None = None, **options: Any) -> None:
        """Gives a task to the executor. method: if not `kind`; options: of `Task`."""
        deadline_s = self.deadlines.of(_duration_of(kind, what), late_before=len(options.get("avoid", ())))
        key = (kind, what, self.era)
        self.executor.submit(Task(pool, method or kind, key, args, deadline_s=deadline_s, **options))

    def counts(self, outcome: Outcome) -> bool:
        """Whether a task that came back is still wanted; if so, the time that it took is noted."""
        kind, what, era = outcome.key
        if era != self.era and kind not in FINISHED_ANYWAY:
            return False
        if outcome.failure is None:
            self.deadlines.took(_duration_of(kind, what), outcome.seconds)
        return True


def _duration_of(kind: str, what: Any) -> str:
    """The kind under which a task's time is remembered: held-out groups are of another size."""
    match what:
        case Draw(batch=(unit, *_)) | (Unit() as unit):
            return f"{kind} {unit.purpose}"
        case _:
            return kind
