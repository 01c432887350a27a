"""What both executors promise, and what RayExecutor does when workers die, hang, raise and do not start."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray

from cluster.executor import (
    Executor,
    Outcome,
    PlacementError,
    PoolSpec,
    PoolStatus,
    RayExecutor,
    Task,
    WorkerStartError,
)
from cluster.local import LocalExecutor
from tests.cluster.plain_actors import NeverStarts, Plain, StartsOnce, StartsSlowly

PATIENCE_S = 30.0
POOLS = [
    PoolSpec("pair", Plain, {"tag": "p"}, size=2, num_cpus=0),
    PoolSpec("gang", Plain, {"tag": "g"}, size=2, num_cpus=0.5, gang=True),
]


@pytest.fixture(scope="module")
def shared(ray_cluster: None) -> Iterator[dict[str, Executor]]:
    """One executor of each kind, for tests that break nothing."""
    executors: dict[str, Executor] = {"ray": RayExecutor(POOLS, run="shared"), "local": LocalExecutor(POOLS)}
    for executor in executors.values():
        executor.start()
    yield executors
    for executor in executors.values():
        executor.close()


@pytest.fixture(params=["ray", "local"])
def executor(request: pytest.FixtureRequest, shared: dict[str, Executor]) -> Executor:
    return shared[request.param]


@pytest.fixture
def start(ray_cluster: None, request: pytest.FixtureRequest) -> Iterator[Callable[..., RayExecutor]]:
    """Start a RayExecutor with one pool of its own; it is closed after the test."""
    started: list[RayExecutor] = []

    def start_one(actor: type = Plain, kwargs: dict | None = None, **options: object) -> RayExecutor:
        of_spec = {name: options.pop(name) for name in ("size", "gang", "num_cpus") if name in options}
        spec = PoolSpec("pool", actor, kwargs or {}, **{"num_cpus": 0.0, **of_spec})
        executor = RayExecutor([spec], run=f"{request.node.name}-{len(started)}", **options)
        started.append(executor)
        executor.start()
        return executor

    yield start_one
    for executor in started:
        executor.close()


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


# ---- both executors -------------------------------------------------------------------------------------------------


def test_tasks_come_back_by_their_key(executor: Executor) -> None:
    tasks = [Task("pair", "add", (i, "key"), (i, 10)) for i in range(20)]
    assert [outcome.value for outcome in run(executor, *tasks)] == [i + 10 for i in range(20)]


def test_the_first_value_comes_back_and_the_others_travel_as_handles(executor: Executor) -> None:
    made = run(executor, Task("pair", "squares", "made", (4,), returns=3))[0]
    assert made.value == {"tag": "p", "num": 4}
    assert len(made.payloads) == 2
    assert run(executor, Task("pair", "total", "used", made.payloads))[0].value == 14 + 7
    assert executor.fetch(made.payloads[0]).tolist() == [0, 1, 4, 9]
    assert not executor.fetch(made.payloads[0]).flags.writeable


def test_a_value_that_was_put_can_be_passed_to_many_tasks(executor: Executor) -> None:
    handle = executor.put(5)
    assert [it.value for it in run(executor, *(Task("pair", "add", i, (handle, i)) for i in range(3)))] == [5, 6, 7]


def test_every_rank_of_a_gang_is_called_and_rank_0_answers(executor: Executor) -> None:
    first, second, counted = run(
        executor,
        Task("gang", "add", "sharded", (1,), shards=((10,), (20,))),
        Task("gang", "squares", "payload", (3,), returns=3),
        Task("gang", "count", "count"),
    )
    assert first.value == 11
    assert executor.fetch(second.payloads[0]).tolist() == [0, 1, 4]
    assert counted.value == value_of(executor, "gang", "count") - 1


def test_a_gang_needs_a_shard_for_each_rank(executor: Executor) -> None:
    with pytest.raises(ValueError, match="1 shards for 2 ranks"):
        executor.submit(Task("gang", "add", "bad", (1,), shards=((10,),)))


def test_an_error_comes_back_with_the_workers_traceback(executor: Executor) -> None:
    failed, strange, good = run(
        executor, Task("pair", "fail", 0, ("magic",)), Task("pair", "fail_strangely", 1), Task("pair", "add", 2, (1, 1))
    )
    assert failed.failure is not None
    assert failed.failure.cause == "raised"
    assert "ValueError: cannot do magic" in failed.failure.message
    assert "plain_actors.py" in failed.failure.message
    assert "\x1b" not in failed.failure.message
    assert (failed.value, failed.payloads) == (None, ())
    assert strange.failure is not None
    assert strange.failure.cause == "raised"
    assert "cannot be pickled" in strange.failure.message
    assert good.value == 2


def test_an_unknown_pool_is_named(executor: Executor) -> None:
    with pytest.raises(ValueError, match=r"there is no pool pear, only pair, gang"):
        executor.submit(Task("pear", "add", 0))


def test_nothing_under_way_means_no_waiting(executor: Executor) -> None:
    began = time.monotonic()
    assert executor.wait(PATIENCE_S) == []
    assert time.monotonic() - began < PATIENCE_S / 2


def test_workers_count_as_free_while_they_have_no_task(executor: Executor) -> None:
    assert (executor.free("pair"), executor.free("gang")) == (2, 1)
    executor.submit(Task("pair", "add", 0, (1, 1)))
    executor.submit(Task("gang", "count", 1))
    assert (executor.free("pair"), executor.free("gang")) == (1, 0)
    outcomes(executor, 2)
    assert (executor.free("pair"), executor.free("gang")) == (2, 1)


@pytest.mark.parametrize("kind", [RayExecutor, LocalExecutor])
def test_a_worker_that_cannot_start_says_why(kind: type, ray_cluster: None) -> None:
    executor = kind([PoolSpec("pool", NeverStarts, size=2, num_cpus=0)])
    with pytest.raises(WorkerStartError, match=r"(?s)pool.*FileNotFoundError: no model at /nowhere"):
        executor.start()


def test_two_pools_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="same name"):
        LocalExecutor([POOLS[0], POOLS[0]])
    with pytest.raises(ValueError, match="pool none: size is 0"):
        LocalExecutor([PoolSpec("none", Plain, size=0)])


# ---- workers on Ray that die, hang and do not start -----------------------------------------------------------------


def test_a_killed_worker_fails_its_task_only_and_is_replaced(start: Callable[..., RayExecutor]) -> None:
    executor = start(size=1)
    made = run(executor, Task("pool", "squares", "made", (4,), returns=3))[0]
    pid = value_of(executor, "pool", "pid")
    executor.submit(Task("pool", "sleep", "victim", (60,)))
    executor.submit(Task("pool", "pid", "next"))
    time.sleep(0.2)
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


def test_a_task_avoids_the_worker_that_failed_it_unless_there_is_no_other(start: Callable[..., RayExecutor]) -> None:
    executor = start(size=2)
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


def test_a_worker_that_is_not_ready_in_time_ends_the_start(start: Callable[..., RayExecutor]) -> None:
    with pytest.raises(WorkerStartError, match="not ready within 1 s"):
        start(StartsSlowly, start_timeout_s=1.0, max_start_failures=1)


def test_a_pool_that_cannot_replace_its_last_worker_ends_the_run_with_the_workers_error(
    start: Callable[..., RayExecutor], tmp_path: Path
) -> None:
    executor = start(StartsOnce, {"marker": str(tmp_path / "marker")}, max_start_failures=1)
    os.kill(value_of(executor, "pool", "pid"), signal.SIGKILL)
    executor.submit(Task("pool", "pid", "victim"))
    executor.submit(Task("pool", "pid", "waits for ever"))
    with pytest.raises(WorkerStartError, match="OSError: the disk is full"):
        outcomes(executor, 2)


def test_a_gang_that_loses_a_rank_is_lost_as_a_whole(start: Callable[..., RayExecutor]) -> None:
    executor = start(size=2, gang=True, num_cpus=1)
    pid = value_of(executor, "pool", "pid")
    tasks = [Task("pool", "sleep", i, (60,)) for i in range(2)]
    for task in tasks:
        executor.submit(task)
    time.sleep(0.2)
    os.kill(pid, signal.SIGKILL)
    done = outcomes(executor, 2)
    assert [done[i].failure.cause for i in range(2)] == ["worker_lost", "worker_lost"]
    assert "rank 0" in done[0].failure.message
    later = run(executor, Task("pool", "pid", "later"))[0]
    assert later.failure is not None
    assert "rank 0" in later.failure.message
    assert executor.status()["pool"].ready == 0


def test_an_error_in_one_of_several_ranks_does_not_leave_the_others_waiting(start: Callable[..., RayExecutor]) -> None:
    executor = start(size=2, gang=True)
    bad, after = run(executor, Task("pool", "sleep", 0, shards=((60,), ("no number",))), Task("pool", "pid", 1))
    assert bad.failure is not None
    assert bad.failure.cause == "raised"
    assert "rank 1" in bad.failure.message
    assert "TypeError" in bad.failure.message
    assert after.failure is not None
    assert after.failure.cause == "worker_lost"


def test_an_error_in_a_gang_of_one_leaves_it_alive(start: Callable[..., RayExecutor]) -> None:
    executor = start(size=1, gang=True)
    bad, good = run(executor, Task("pool", "fail", 0, ("magic",)), Task("pool", "add", 1, (1, 1)))
    assert bad.failure is not None
    assert "cannot do magic" in bad.failure.message
    assert good.value == 2


def test_a_gangs_deadline_counts_from_the_start_of_the_call_not_from_its_submission(
    start: Callable[..., RayExecutor],
) -> None:
    executor = start(size=1, gang=True)
    tasks = [Task("pool", "sleep", i, (0.4,), deadline_s=1.0) for i in range(4)] + [
        Task("pool", "sleep", 4, (60,), deadline_s=1.0)
    ]
    *good, late = run(executor, *tasks)
    assert all(outcome.failure is None for outcome in good)
    assert all(outcome.seconds <= 1.0 for outcome in good)
    assert late.failure is not None
    assert late.failure.cause == "deadline"


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
