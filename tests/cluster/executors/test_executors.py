"""What both executors promise."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from cluster.executors.local import LocalExecutor
from cluster.executors.on_ray import Executor, PoolSpec, RayExecutor, Task, WorkerStartError
from tests.cluster.helpers import PATIENCE_S, eventually, outcomes, run, value_of
from tests.cluster.plain_actors import NeverStarts, Plain, Poisoned, Rank

POOLS = [
    PoolSpec("pair", Plain, {"tag": "p"}, size=2, num_cpus=0, min_size=1, max_size=3),
    PoolSpec("gang", Rank, {"tag": "g"}, size=2, num_cpus=0.5, gang=True),
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


@pytest.mark.parametrize("kind", [RayExecutor, LocalExecutor])
def test_every_worker_introduces_itself_once(kind: type, ray_cluster: None, unreachable: None) -> None:
    executor = kind(POOLS)
    try:
        executor.start()
        said = executor.introductions()
        assert sorted((one.pool, one.worker, one.said["tag"]) for one in said) == [
            ("gang", "gang-0", "g"), ("gang", "gang-1", "g"), ("pair", "pair-0", "p"), ("pair", "pair-1", "p")
        ]  # fmt: skip
        assert executor.introductions() == []
        executor.resize("pair", 3)
        assert eventually(lambda: not executor.wait(0.1) and executor.status()["pair"].ready == 3)
        assert [one.worker for one in executor.introductions()] == ["pair-2"]
    finally:
        executor.close()


def test_a_lost_gpu_ends_what_runs_in_one_process() -> None:
    executor = LocalExecutor([PoolSpec("pool", Poisoned)])
    executor.start()
    executor.submit(Task("pool", "do", 0, ("CUDA error: an illegal memory access was encountered",)))
    with pytest.raises(WorkerStartError, match=r"pool-0 lost its GPU.*--resume"):
        executor.wait(1.0)


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


def test_ranks_know_each_other_and_have_met_where_rank_0_said(executor: Executor) -> None:
    assert value_of(executor, "gang", "met") == "rank 0 of 2"


def test_a_restarted_gang_has_lost_its_state_and_has_met_again(executor: Executor) -> None:
    before = value_of(executor, "gang", "count")
    executor.restart("gang")
    counted, added = run(executor, Task("gang", "count", 0), Task("gang", "add", 1, (1, 1)))
    assert (counted.value, added.value) == (1, 2)
    assert before >= 1
    assert value_of(executor, "gang", "met") == "rank 0 of 2"
    status = executor.status()["gang"]
    assert (status.wanted, status.ready, status.restarts) == (2, 2, 1)


def test_only_a_gang_is_restarted(executor: Executor) -> None:
    with pytest.raises(ValueError, match="pool pair heals by itself"):
        executor.restart("pair")
    with pytest.raises(ValueError, match="there is no pool pear, only pair, gang"):
        executor.restart("pear")


def test_sizes_outside_of_the_limits_are_refused_with_the_limits(executor: Executor) -> None:
    for size in (0, 4):
        with pytest.raises(ValueError, match=rf"pool pair: {size} is outside of its limits, 1 to 3 workers"):
            executor.resize("pair", size)
    with pytest.raises(ValueError, match="gang is a gang of 2 ranks: its size is fixed"):
        executor.resize("gang", 3)
    with pytest.raises(ValueError, match="there is no pool pear"):
        executor.resize("pear", 3)
    assert executor.status()["pair"].wanted == 2


def test_a_pool_may_come_back_to_the_size_that_it_had(executor: Executor) -> None:
    for size in (3, 1, 2):
        executor.resize("pair", size)
        assert executor.status()["pair"].wanted == size
    assert [it.value for it in run(executor, *(Task("pair", "add", i, (i, 1)) for i in range(4)))] == [1, 2, 3, 4]


def test_tasks_that_wait_for_a_worker_are_counted(executor: Executor) -> None:
    for i in range(5):
        executor.submit(Task("pair", "add", i, (1, 1)))
    status = executor.status()["pair"]
    assert status.waiting + status.in_flight == 5
    assert status.waiting >= 3
    outcomes(executor, 5)
    status = executor.status()["pair"]
    assert (status.waiting, status.in_flight) == (0, 0)


def test_nobody_commands_a_run_that_nobody_asked_anything(executor: Executor) -> None:
    assert executor.exchange({"state": "running"}) == []
    executor.answer(7, "nobody hears this")
    assert executor.exchange({"state": "running"}) == []


@pytest.mark.parametrize("kind", [RayExecutor, LocalExecutor])
def test_a_worker_that_cannot_start_says_why(kind: type, ray_cluster: None, unreachable: None) -> None:
    executor = kind([PoolSpec("pool", NeverStarts, size=2, num_cpus=0)])
    with pytest.raises(WorkerStartError, match=r"(?s)pool.*FileNotFoundError: no model at /nowhere"):
        executor.start()


def test_what_no_pool_can_be_is_refused() -> None:
    with pytest.raises(ValueError, match="same name"):
        LocalExecutor([POOLS[0], POOLS[0]])
    with pytest.raises(ValueError, match="pool none: size is 0"):
        LocalExecutor([PoolSpec("none", Plain, size=0)])
    with pytest.raises(ValueError, match="pool tight: 5 is outside of its limits, 5 to 4 workers"):
        LocalExecutor([PoolSpec("tight", Plain, size=5, max_size=4)])
    with pytest.raises(ValueError, match="cannot be placed beside the driver"):
        LocalExecutor([PoolSpec("gang", Rank, gang=True, beside_driver=True)])


@pytest.mark.parametrize("kind", [RayExecutor, LocalExecutor])
def test_a_gang_that_cannot_join_says_why(kind: type, ray_cluster: None, unreachable: None) -> None:
    executor = kind([PoolSpec("pool", NeverStarts, size=2, num_cpus=0, gang=True)])
    with pytest.raises(WorkerStartError, match=r"(?s)pool.*FileNotFoundError: no model at /nowhere"):
        executor.start()
