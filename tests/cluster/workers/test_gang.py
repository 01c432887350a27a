"""Ranks that meet, work together, and are lost and started again together."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from ray.util import placement_group_table

from cluster.executors.on_ray import RayExecutor, Task, WorkerStartError
from tests.cluster.helpers import PATIENCE_S, eventually, exists, outcomes, run, value_of
from tests.cluster.plain_actors import Rank, RanksJoinSometimes, RanksJoinWhenTold, RanksNeverMeet, RanksWait


def pids_of(executor: RayExecutor, folder: Path) -> list[int]:
    """The processes of a gang of two, by rank."""
    assert run(executor, Task("pool", "note_pid", "pids", (str(folder),)))[0].failure is None
    return [int((folder / str(rank)).read_text()) for rank in range(2)]


def placement_groups() -> list[dict]:
    return [it for it in placement_group_table().values() if it["state"] != "REMOVED"]


def test_a_gang_that_loses_a_rank_is_lost_as_a_whole(start: Callable[..., RayExecutor], tmp_path: Path) -> None:
    executor = start(Rank, size=2, gang=True, num_cpus=1)
    pid = value_of(executor, "pool", "pid")
    for i in range(2):
        executor.submit(Task("pool", "hold", i, (str(tmp_path / "begun"),)))
    assert eventually((tmp_path / "begun").exists)
    os.kill(pid, signal.SIGKILL)
    done = outcomes(executor, 2)
    assert [done[i].failure.cause for i in range(2)] == ["worker_lost", "worker_lost"]
    assert "rank 0" in done[0].failure.message
    later = run(executor, Task("pool", "pid", "later"))[0]
    assert later.failure is not None
    assert "rank 0" in later.failure.message
    assert executor.status()["pool"].ready == 0


def test_an_error_in_one_of_several_ranks_does_not_leave_the_others_waiting(start: Callable[..., RayExecutor]) -> None:
    executor = start(Rank, size=2, gang=True)
    bad, after = run(executor, Task("pool", "sleep", 0, shards=((60,), ("no number",))), Task("pool", "pid", 1))
    assert bad.failure is not None
    assert bad.failure.cause == "raised"
    assert "rank 1" in bad.failure.message
    assert "TypeError" in bad.failure.message
    assert after.failure is not None
    assert after.failure.cause == "worker_lost"


def test_an_error_in_a_gang_of_one_leaves_it_alive(start: Callable[..., RayExecutor]) -> None:
    executor = start(Rank, size=1, gang=True)
    bad, good = run(executor, Task("pool", "fail", 0, ("magic",)), Task("pool", "add", 1, (1, 1)))
    assert bad.failure is not None
    assert "cannot do magic" in bad.failure.message
    assert good.value == 2


def test_a_gangs_deadline_counts_from_the_start_of_the_call_not_from_its_submission(
    start: Callable[..., RayExecutor],
) -> None:
    executor = start(Rank, size=1, gang=True)
    tasks = [Task("pool", "sleep", i, (1.0,), deadline_s=3.0) for i in range(4)] + [
        Task("pool", "sleep", 4, (60,), deadline_s=3.0)
    ]
    *good, late = run(executor, *tasks)
    assert all(outcome.failure is None for outcome in good)
    assert all(outcome.seconds <= 3.0 for outcome in good)
    assert late.failure is not None
    assert late.failure.cause == "deadline"


def test_a_rank_that_died_is_blamed_not_the_one_that_lost_its_connection(
    start: Callable[..., RayExecutor], tmp_path: Path
) -> None:
    executor = start(Rank, size=2, gang=True)
    pids = pids_of(executor, tmp_path)
    executor.submit(Task("pool", "wait_for_rank_0", "victim", (pids[0],)))
    assert executor.wait(0.2) == []
    os.kill(pids[0], signal.SIGKILL)
    failure = outcomes(executor, 1)["victim"].failure
    assert failure is not None
    assert failure.cause == "worker_lost"
    assert failure.message.startswith("rank 0")
    assert eventually(lambda: not exists(pids[1]))


def test_a_lost_gang_is_started_anew_after_everything_of_the_old_one_is_gone(
    start: Callable[..., RayExecutor], tmp_path: Path
) -> None:
    executor = start(Rank, size=2, gang=True, num_cpus=1)
    [before] = placement_groups()
    pids = pids_of(executor, tmp_path)
    executor.submit(Task("pool", "sleep", "victim", (60,)))
    os.kill(pids[1], signal.SIGKILL)
    done = outcomes(executor, 1)
    assert done["victim"].failure is not None
    assert done["victim"].failure.cause == "worker_lost"
    executor.restart("pool")
    tasks = [Task("pool", "count", i, deadline_s=PATIENCE_S) for i in range(3)]
    assert [outcome.value for outcome in run(executor, *tasks)] == [1, 2, 3], "held back until the ranks had met"
    assert value_of(executor, "pool", "met") == "rank 0 of 2"
    [after] = placement_groups()
    assert after["placement_group_id"] != before["placement_group_id"]
    assert eventually(lambda: not any(exists(pid) for pid in pids))
    assert not set(pids) & set(pids_of(executor, tmp_path))
    executor.close()
    assert placement_groups() == []


def test_restarting_fails_what_is_under_way(start: Callable[..., RayExecutor]) -> None:
    executor = start(Rank, size=2, gang=True)
    for key in ("runs", "waits behind it"):
        executor.submit(Task("pool", "sleep", key, (60,)))
    executor.restart("pool")
    executor.submit(Task("pool", "add", "after", (1, 1)))
    done = outcomes(executor, 3)
    assert [done[key].failure.cause for key in ("runs", "waits behind it")] == ["worker_lost", "worker_lost"]
    assert "restarted" in done["runs"].failure.message
    assert done["after"].value == 2


def test_the_deadline_of_a_call_that_was_held_back_runs_from_its_issue(
    start: Callable[..., RayExecutor], tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    executor = start(RanksJoinWhenTold, {"gate": str(gate)}, size=2, gang=True)
    gate.unlink()
    executor.restart("pool")
    executor.submit(Task("pool", "add", "held back", (1, 1), deadline_s=5.0))
    assert executor.status()["pool"].waiting == 1
    assert executor.wait(6.0) == []
    gate.touch()
    outcome = outcomes(executor, 1)["held back"]
    assert outcome.value == 2


def test_an_error_while_joining_is_the_ranks_own_and_ends_the_others(start: Callable[..., RayExecutor]) -> None:
    with pytest.raises(WorkerStartError, match=r"(?s)gang pool of 2 ranks.*rank 1.*OSError: no route to host"):
        start(RanksNeverMeet, size=2, gang=True, num_cpus=1)
    assert placement_groups() == []


def test_joining_has_a_deadline(start: Callable[..., RayExecutor]) -> None:
    with pytest.raises(WorkerStartError, match=r"join\(\) took longer than 15.0 s \(not done: rank 0, 1 of 2\)"):
        start(RanksWait, size=2, gang=True, start_timeout_s=15.0)


def test_a_gang_that_was_ready_once_tries_again_to_start(start: Callable[..., RayExecutor], tmp_path: Path) -> None:
    plan = tmp_path / "plan"
    plan.write_text("well\nthe port is taken\nwell")
    executor = start(RanksJoinSometimes, {"plan": str(plan)}, size=2, gang=True)
    executor.restart("pool")
    assert value_of(executor, "pool", "add", 1, 1) == 2
    assert plan.read_text() == ""
    assert executor.status()["pool"].restarts == 1


def test_a_gang_that_does_not_start_again_ends_the_run_with_the_ranks_own_error(
    start: Callable[..., RayExecutor], tmp_path: Path
) -> None:
    plan = tmp_path / "plan"
    plan.write_text("well\nthe port is taken\nthe disk is full")
    executor = start(RanksJoinSometimes, {"plan": str(plan)}, size=2, gang=True, max_start_failures=2)
    executor.restart("pool")
    executor.submit(Task("pool", "add", "waits for ever", (1, 1)))
    with pytest.raises(WorkerStartError, match=r"(?s)2 failed in a row.*OSError: the disk is full"):
        outcomes(executor, 1)
