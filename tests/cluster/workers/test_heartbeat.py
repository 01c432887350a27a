"""Workers that hang or die without a word, and what asking them for signs of life does to those that work."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import ray

from cluster.executors.on_ray import RayExecutor, Task
from tests.cluster.helpers import PATIENCE_S, eventually, exists, outcomes, run, value_of
from tests.cluster.plain_actors import Rank
from tests.cluster.torch_actor import Torch
from tests.cluster.workers.test_gang import pids_of

OFTEN = {"heartbeat_s": 0.5, "heartbeat_timeout_s": 4.0}


def wait_until(executor: RayExecutor, condition: Callable[[], bool]) -> bool:
    """Whether it comes true while the executor is waited on, as a driver does."""
    give_up = time.monotonic() + PATIENCE_S
    while not condition() and time.monotonic() < give_up:
        assert executor.wait(0.1) == []
        time.sleep(0.02)  # with nothing under way, wait() returns at once
    return condition()


# ---- noticed --------------------------------------------------------------------------------------------------------


def test_an_idle_worker_that_dies_is_replaced(start: Callable[..., RayExecutor]) -> None:
    executor = start(size=1, **OFTEN)
    pid = value_of(executor, "pool", "pid")
    os.kill(pid, signal.SIGKILL)
    assert wait_until(executor, lambda: executor.status()["pool"].restarts == 1)
    assert wait_until(executor, lambda: executor.status()["pool"].ready == 1)
    assert value_of(executor, "pool", "pid") != pid


def test_an_idle_worker_that_hangs_is_replaced_and_its_process_ended(start: Callable[..., RayExecutor]) -> None:
    executor = start(size=1, **OFTEN)
    pid = value_of(executor, "pool", "pid")
    os.kill(pid, signal.SIGSTOP)
    assert wait_until(executor, lambda: executor.status()["pool"].restarts == 1)
    assert value_of(executor, "pool", "pid") != pid
    assert eventually(lambda: not exists(pid))


def test_a_busy_worker_that_hangs_is_ended_long_before_its_deadline(start: Callable[..., RayExecutor]) -> None:
    executor = start(size=1, **OFTEN)
    pid = value_of(executor, "pool", "pid")
    executor.submit(Task("pool", "sleep", "victim", (600,), deadline_s=1000.0))
    executor.submit(Task("pool", "pid", "next"))
    assert executor.wait(0.2) == []
    os.kill(pid, signal.SIGSTOP)
    done = outcomes(executor, 2)
    assert done["victim"].failure is not None
    assert done["victim"].failure.cause == "worker_lost"
    assert "no heartbeat for 4 s" in done["victim"].failure.message
    assert done["next"].value != pid
    assert executor.status()["pool"].restarts == 1
    assert eventually(lambda: not exists(pid))


def test_a_rank_that_hangs_in_a_call_ends_the_gang(start: Callable[..., RayExecutor], tmp_path: Path) -> None:
    executor = start(Rank, size=2, gang=True, num_cpus=1, **OFTEN)
    pids = pids_of(executor, tmp_path)
    executor.submit(Task("pool", "sleep", "victim", (600,), deadline_s=1000.0))
    assert executor.wait(0.2) == []
    os.kill(pids[1], signal.SIGSTOP)
    failure = outcomes(executor, 1)["victim"].failure
    assert failure is not None
    assert failure.cause == "worker_lost"
    assert "rank 1: no heartbeat for 4 s" in failure.message
    assert executor.status()["pool"].ready == 0
    assert eventually(lambda: not any(exists(pid) for pid in pids))
    executor.restart("pool")
    assert value_of(executor, "pool", "add", 1, 1) == 2


def test_an_idle_gang_that_loses_a_rank_fails_the_next_task_at_once(
    start: Callable[..., RayExecutor], tmp_path: Path
) -> None:
    executor = start(Rank, size=2, gang=True, **OFTEN)
    os.kill(pids_of(executor, tmp_path)[1], signal.SIGKILL)
    assert wait_until(executor, lambda: executor.status()["pool"].ready == 0)
    executor.submit(Task("pool", "pid", "later"))
    [later] = executor.wait(0.0)
    assert later.failure is not None
    assert later.failure.cause == "worker_lost"
    assert "rank 1" in later.failure.message


# ---- and not disturbed ----------------------------------------------------------------------------------------------


def test_a_worker_in_a_long_call_is_alive(start: Callable[..., RayExecutor]) -> None:
    executor = start(Torch, {"num_threads": 1}, size=2, **OFTEN)
    long = [Task("pool", method, method, (6.0,)) for method in ("multiply", "sleep")]
    assert [outcome.failure for outcome in run(executor, *long)] == [None, None]
    assert executor.status()["pool"].restarts == 0


def test_heartbeats_are_no_reason_to_wait_nor_to_return(start: Callable[..., RayExecutor]) -> None:
    executor = start(size=1, heartbeat_s=0.01, heartbeat_timeout_s=PATIENCE_S)
    os.kill(value_of(executor, "pool", "pid"), signal.SIGSTOP)  # so that a heartbeat is under way all the time
    time.sleep(0.1)
    began = time.monotonic()
    for _ in range(3):
        assert executor.wait(PATIENCE_S) == []
    assert time.monotonic() - began < PATIENCE_S / 2
    busy = start(size=1, heartbeat_s=0.01, heartbeat_timeout_s=PATIENCE_S)
    busy.submit(Task("pool", "sleep", "long", (1.0,)))
    [outcome] = busy.wait(PATIENCE_S)
    assert outcome.key == "long"


def test_calls_keep_their_order_although_heartbeats_have_a_thread_of_their_own(
    start: Callable[..., RayExecutor], request: pytest.FixtureRequest
) -> None:
    executor = start(Torch, {"num_threads": 1}, heartbeat_s=0.01)
    actor = ray.get_actor(f"echoray-{request.node.name}-0-pool-0")
    late = ray.remote(num_cpus=0)(lambda: time.sleep(1.0)).remote()
    calls = [actor.note.remote(late), *(actor.note.remote(i) for i in range(20))]
    while ray.wait(calls, num_returns=len(calls), timeout=0.01)[1]:
        executor.wait(0.0)  # heartbeats go on
    assert value_of(executor, "pool", "noted") == [None, *range(20)]


def test_all_calls_run_in_one_thread_with_the_constructors_number_of_torch_threads(
    start: Callable[..., RayExecutor],
) -> None:
    for num_threads in (1, 2):
        executor = start(Torch, {"num_threads": num_threads}, heartbeat_s=0.01)
        found = {outcome.value for outcome in run(executor, *(Task("pool", "threads", i) for i in range(5)))}
        assert [number for _, number in found] == [num_threads]
