"""An executor for tests of who asks: it keeps the tasks, and what comes of them is said by hand."""

from __future__ import annotations

from typing import Any

from cluster.executors.in_process import InProcess
from cluster.tasks import Cause, Failure, Outcome, Task
from pipelines.engine.tickets import Tickets


class Outbox(InProcess):
    """Executor of which only `submit` is of use."""

    def __init__(self) -> None:
        self.sent: list[Task] = []

    def submit(self, task: Task) -> None:
        self.sent.append(task)

    def wait(self, timeout_s: float) -> list[Outcome]:
        raise AssertionError("nobody answers here")


def comes_back(
    tickets: Tickets, task: Task, value: Any = None, payloads: tuple = (), cause: Cause | None = None
) -> None:
    """The outcome of a task arrives."""
    failure = Failure(cause, "why") if cause else None
    tickets.hand_out([Outcome(task.key, "worker-0", 0.1, None if cause else value, payloads, failure)])
