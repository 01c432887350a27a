"""Nothing of a run outlives it, however it ended: no process, no actor, no placement group.

The end of every test of faults says so of the shared cluster, such as test_driver.py, where all of Ray's drivers are killed;
test_memory.py and test_stops.py say so of a Ray that is the run's own.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.conftest import Start
from tests.faults.harness import RAYS_OWN, eventually_nothing, left_on_the_cluster, still_alive
from tests.support.faults_world import Process, Run, descendants, workers
from tests.support.plain_world import unscorable

AGENT = re.compile(r"ray::(Dashboard|RuntimeEnv)Agent")
AGENTS_S = 90.0
CLASSES = ("PlainRollout", "PlainReward", "PlainPolicy")
ENDINGS = [("killed", "own"), ("failed", "own"), ("interrupted at the start", "shared")]


def processes_of(run: Run) -> list[Process]:
    """The driver, its Ray if it has one, and the workers, once all workers are there."""
    run.until(lambda: all(map(workers, CLASSES)), "workers")
    below = {process.pid: process for process in descendants(run.process.pid)}
    actors = {worker.pid: worker for worker in workers("") if not RAYS_OWN.match(worker.title)}
    driver = [process for process in descendants(os.getpid()) if process.pid == run.process.pid]
    return [*driver, *{**below, **actors}.values()]


@pytest.fixture(scope="session")
def agents() -> Iterator[list[Process]]:
    """Two helpers of Ray that look for their dead cluster for a minute before they end: they may, while other files' tests run."""
    processes: list[Process] = []
    yield processes
    assert eventually_nothing(lambda: still_alive(processes), seconds=AGENTS_S) == []


@pytest.mark.parametrize(("ending", "whose_ray"), ENDINGS)
def test_nothing_is_left(start: Start, agents: list[Process], tmp_path: Path, ending: str, whose_ray: str) -> None:
    settings: dict[str, object] = {} if whose_ray == "shared" else {"address": ""}
    if ending == "failed":
        settings |= unscorable(tmp_path) | {"loop__max_failures_in_row": 2}
    run = start(loop__steps=500, **settings)
    processes = processes_of(run)
    assert len(processes) >= (4 if whose_ray == "shared" else 8)
    if ending == "interrupted at the start":
        run.interrupt()
    elif ending == "killed":
        run.reach(2)
        run.kill()
    assert run.end() == {"failed": 1, "killed": -signal.SIGKILL}.get(ending, 130), run.output()
    if ending == "killed":
        agents += [process for process in processes if AGENT.match(process.title)]
        processes = [process for process in processes if not AGENT.match(process.title)]
    assert eventually_nothing(lambda: still_alive(processes)) == []
    assert eventually_nothing(left_on_the_cluster) == []
