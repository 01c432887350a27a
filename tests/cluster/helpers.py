"""What the tests of executors share: tasks in, outcomes by key out, and whether a process is still there."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from cluster.tasks import Executor, Outcome, Task

PATIENCE_S = 180.0


def outcomes(executor: Executor, num: int) -> dict[object, Outcome]:
    """The next `num` outcomes by key."""
    done: list[Outcome] = []
    give_up = time.monotonic() + PATIENCE_S
    while len(done) < num:
        assert time.monotonic() < give_up, f"only {done}"
        done += executor.wait(1.0)
    return {outcome.key: outcome for outcome in done}


def run(executor: Executor, *tasks: Task) -> list[Outcome]:
    """The outcomes of these tasks, in the tasks' order."""
    for task in tasks:
        executor.submit(task)
    done = outcomes(executor, len(tasks))
    return [done[task.key] for task in tasks]


def value_of(executor: Executor, pool: str, method: str, *args: object) -> object:
    outcome = run(executor, Task(pool, method, method, args))[0]
    assert outcome.failure is None, outcome.failure
    return outcome.value


def eventually(condition: Callable[[], bool]) -> bool:
    give_up = time.monotonic() + PATIENCE_S
    while not condition() and time.monotonic() < give_up:
        time.sleep(0.02)
    return condition()


def exists(pid: int) -> bool:
    """Whether the process runs; one that has ended and was not yet collected by its parent does not count."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
