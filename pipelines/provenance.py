"""Where and with what a run was started: an event at each start, which the report shows."""

from __future__ import annotations

import os
import platform
import socket
import time
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from cluster.tasks import Executor, Task
from pipelines.shipping import git_revision

PACKAGES = ("torch", "transformers", "diffusers", "peft", "deepspeed", "ray", "numpy")
POOLS = ("rollout", "reward", "policy")
ANSWER_S = 30.0


def provenance(command: str, executor: Executor) -> dict[str, Any]:
    """The command, machine, versions and revision of this start, and what one worker of each pool says of its device."""
    return {
        "command": command,
        "host": socket.gethostname(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "git_revision": git_revision(),
        "versions": versions(),
        "workers": workers(executor),
    }


def versions() -> dict[str, str]:
    """Of Python and of what computes, as they are installed here."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def workers(executor: Executor) -> dict[str, dict[str, Any]]:
    """What a worker of each pool says of itself; a pool that does not answer is left out. Nothing else may be under way."""
    for pool in POOLS:
        executor.submit(Task(pool, "info", ("info", pool), deadline_s=ANSWER_S))
    said: dict[str, dict[str, Any]] = {}
    waiting, give_up = set(POOLS), time.monotonic() + ANSWER_S
    while waiting and time.monotonic() < give_up:
        for outcome in executor.wait(timeout_s=1.0):
            pool = outcome.key[1]
            waiting.discard(pool)
            if outcome.failure is None:
                said[pool] = outcome.value
    return said
