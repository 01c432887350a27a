"""Workers on Ray that die, hang and do not start, and pools that change their size."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import ray

from cluster.executors.local import LocalExecutor
from cluster.executors.on_ray import PlacementError, PoolSpec, PoolStatus, RayExecutor, Task, WorkerStartError
from cluster.tasks import WorkerMistakeError
from cluster.workers.pool import MAX_RAISED
from tests.cluster.helpers import PATIENCE_S, eventually, exists, outcomes, run, value_of
from tests.cluster.plain_actors import NotThis, Picky, Poisoned, RanksFindOut, StartsOnce, StartsSlowly


def test_a_killed_worker_fails_its_task_only_and_is_replaced(start: Callable[..., RayExecutor], tmp_path: Path) -> None:
    executor = start(size=1)
    made = run(executor, Task("pool", "squares", "made", (4,), returns=3))[0]
    pid = value_of(executor, "pool", "pid")
    executor.submit(Task("pool", "hold", "victim", (str(tmp_path / "begun"),)))
    executor.submit(Task("pool", "pid", "next"))
    assert eventually((tmp_path / "begun").exists)
    os.kill(pid, signal.SIGKILL)
    done = outcomes(executor, 2)
    assert done["victim"].failure is not None
    assert done["victim"].failure.cause == "worker_lost"
    assert done["next"].value != pid
    assert done["next"].worker != done["victim"].worker
    assert executor.status()["pool"] == PoolStatus(wanted=1, ready=1, busy=0, restarts=1)
    assert executor.fetch(made.payloads[0]).tolist() == [0, 1, 4, 9], "what a dead worker returned lives on"


def test_a_worker_that_hangs_is_ended_at_the_deadline(start: Callable[..., RayExecutor]) -> None:
    executor = start(size=2)
    pid = value_of(executor, "pool", "pid")
    os.kill(pid, signal.SIGSTOP)
    first, second = run(executor, *(Task("pool", "pid", i, deadline_s=2.0) for i in range(2)))
    late, good = (first, second) if first.failure else (second, first)
    assert late.failure is not None
    assert late.failure.cause == "deadline"
    assert "longer than 2.0 s" in late.failure.message
    assert 2.0 <= late.seconds < PATIENCE_S
    assert good.value != pid
    assert eventually(lambda: not exists(pid))


@pytest.mark.parametrize(
    ("error", "failed"),
    [("CUDA error: an illegal memory access was encountered", 1), ("this worker's disk is full", MAX_RAISED)],
)
def test_a_worker_that_fails_whatever_it_is_given_is_replaced_before_it_has_swallowed_all_tasks(
    start: Callable[..., RayExecutor], error: str, failed: int
) -> None:
    executor = start(Poisoned, size=3)
    done = run(executor, *(Task("pool", "do", i, ("" if i else error,)) for i in range(30)))
    failures = [outcome.failure for outcome in done if outcome.failure]
    assert len(failures) == failed, "left alone, it was always idle, and 28 of 30 failed"
    assert {failure.cause for failure in failures} == {"worker_lost" if failed == 1 else "raised"}
    assert executor.status()["pool"].restarts == 1


def test_a_worker_that_does_some_of_its_tasks_keeps_its_place(start: Callable[..., RayExecutor]) -> None:
    executor = start(size=1)
    for number in range(2 * MAX_RAISED):
        run(executor, Task("pool", "fail", "always the same", ("magic",)), Task("pool", "fail", number, ("this",)))
        run(executor, Task("pool", "add", "a good one", (1, 1)))
    assert executor.status()["pool"].restarts == 0


def test_a_task_avoids_the_worker_that_failed_it_unless_there_is_no_other(start: Callable[..., RayExecutor]) -> None:
    executor = start(size=2, min_size=1)
    busy, other = "pool-0", "pool-1"
    for _ in range(4):
        assert run(executor, Task("pool", "add", 0, (1, 1), avoid=frozenset({busy})))[0].worker == other
    # the other one is busy: the task waits for it, and lets a task that avoids nobody pass
    executor.submit(Task("pool", "sleep", "long", (0.5,), avoid=frozenset({busy})))
    executor.submit(Task("pool", "add", "patient", (1, 1), avoid=frozenset({busy})))
    executor.submit(Task("pool", "add", "quick", (1, 1)))
    done = outcomes(executor, 3)
    assert (done["patient"].worker, done["quick"].worker) == (other, busy)
    executor.resize("pool", 1)
    everyone = frozenset({busy, other})
    assert run(executor, Task("pool", "add", 0, (1, 1), avoid=everyone))[0].value == 2


def test_a_pool_grows_and_shrinks_without_losing_a_task(start: Callable[..., RayExecutor]) -> None:
    executor = start(size=1)
    executor.resize("pool", 3)
    assert executor.free("pool") == 1, "new workers are not free before they are ready"
    assert executor.wait(0.0) == []
    assert eventually(lambda: executor.wait(0.0) == [] and executor.free("pool") == 3)
    pids = {it.value for it in run(executor, *(Task("pool", "sleep", i, (1.0,)) for i in range(6)))}
    assert len(pids) == 3
    for i in range(3):
        executor.submit(Task("pool", "sleep", i, (0.5,)))
    executor.resize("pool", 1)
    done = outcomes(executor, 3)
    assert all(outcome.failure is None for outcome in done.values())
    assert executor.status()["pool"] == PoolStatus(wanted=1, ready=1, busy=0, restarts=0)
    staying = value_of(executor, "pool", "pid")
    assert eventually(lambda: [pid for pid in pids if exists(pid)] == [staying])


def test_a_worker_that_was_to_leave_stays_when_the_pool_grows_again(start: Callable[..., RayExecutor]) -> None:
    executor = start(size=2, min_size=1)
    for i in range(2):
        executor.submit(Task("pool", "sleep", i, (0.5,)))
    executor.resize("pool", 1)
    executor.resize("pool", 2)
    pids = {outcome.value for outcome in outcomes(executor, 2).values()}
    assert {it.value for it in run(executor, *(Task("pool", "sleep", i, (0.1,)) for i in range(2)))} == pids


def test_workers_beside_the_driver_run_on_its_node(start: Callable[..., RayExecutor]) -> None:
    where = value_of(start(beside_driver=True), "pool", "where")
    assert where["node"] == ray.get_runtime_context().get_node_id()


def test_growing_beyond_the_cluster_is_refused(start: Callable[..., RayExecutor]) -> None:
    executor = start(size=1, num_cpus=1)
    with pytest.raises(PlacementError, match=r"CPU: asked 9 \(pool 9 x 1\), the cluster has 8"):
        executor.resize("pool", 9)
    assert executor.status()["pool"].wanted == 1


def test_more_workers_than_the_cluster_has_room_for_are_refused_before_any_starts(
    start: Callable[..., RayExecutor],
) -> None:
    with pytest.raises(PlacementError, match="asked 100"):
        start(size=100, num_cpus=1)


@pytest.mark.parametrize(("actor", "gang"), [(Picky, False), (Picky, True), (RanksFindOut, True)])
def test_a_worker_that_cannot_use_what_it_was_given_ends_the_start_with_its_own_sentence(
    start: Callable[..., RayExecutor], actor: type, gang: bool
) -> None:
    with pytest.raises(WorkerMistakeError) as raised:
        start(actor, size=2, gang=gang, mistakes=(NotThis,))
    assert str(raised.value) == "size = 36: give a multiple of 8 [/b]"


@pytest.mark.parametrize(("actor", "gang"), [(Picky, False), (Picky, True), (RanksFindOut, True)])
def test_it_does_so_in_one_process_as_well(actor: type, gang: bool) -> None:
    executor = LocalExecutor([PoolSpec("pool", actor, gang=gang, mistakes=(NotThis,))])
    with pytest.raises(WorkerMistakeError) as raised:
        executor.start()
    assert str(raised.value) == "size = 36: give a multiple of 8 [/b]"


def test_a_worker_that_is_not_ready_in_time_ends_the_start(start: Callable[..., RayExecutor]) -> None:
    with pytest.raises(WorkerStartError, match="not ready within 1 s"):
        start(StartsSlowly, start_timeout_s=1.0, max_start_failures=1)


def test_a_worker_that_starts_is_counted_with_the_time_since(start: Callable[..., RayExecutor]) -> None:
    executor = start(size=1)
    assert executor.status()["pool"].starting_s is None
    executor.resize("pool", 2)
    status = executor.status()["pool"]
    assert (status.wanted, status.ready) == (2, 1)
    assert status.starting_s is not None
    assert eventually(lambda: not executor.wait(0.1) and executor.status()["pool"].starting_s is None)


def test_a_pool_that_cannot_replace_its_last_worker_ends_the_run_with_the_workers_error(
    start: Callable[..., RayExecutor], tmp_path: Path
) -> None:
    executor = start(StartsOnce, {"marker": str(tmp_path / "marker")}, max_start_failures=1)
    os.kill(value_of(executor, "pool", "pid"), signal.SIGKILL)
    executor.submit(Task("pool", "pid", "victim"))
    executor.submit(Task("pool", "pid", "waits for ever"))
    with pytest.raises(WorkerStartError, match="OSError: the disk is full"):
        outcomes(executor, 2)


def test_the_number_of_threads_does_not_depend_on_the_share_of_a_cpu(start: Callable[..., RayExecutor]) -> None:
    assert value_of(start(num_cpus=4), "pool", "threads") == value_of(start(num_cpus=0), "pool", "threads") == "1"


def test_close_ends_every_process_busy_or_not(start: Callable[..., RayExecutor]) -> None:
    executor = start(size=3)
    pids = {outcome.value for outcome in run(executor, *(Task("pool", "sleep", i, (0.3,)) for i in range(3)))}
    executor.submit(Task("pool", "sleep", "long", (60,)))
    executor.close()
    assert len(pids) == 3
    assert eventually(lambda: not any(exists(pid) for pid in pids))
    executor.close()


def test_actors_carry_the_names_of_run_and_pool(start: Callable[..., RayExecutor]) -> None:
    start(size=1)
    name = "echoray-test_actors_carry_the_names_of_run_and_pool-0-pool-0"
    assert ray.get(ray.get_actor(name).add.remote(1, 2), timeout=PATIENCE_S) == 3
