"""Pools that change their size in the middle of a run, from the command line or by themselves: more hands, the same digest."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipelines.run_folder.folder import RunFolder
from tests.faults.conftest import Reference, Start
from tests.faults.harness import LOCAL, PLAIN, QUICK, digest_in, digest_of, failures
from tests.support.faults_world import ROOT, Run, go_on, overrides, workers
from tests.support.plain_run import in_no_time
from tests.support.plain_world import make_world_of_three_judges

# while pools change a worker is held up, in the middle of its work, so that the run cannot end before
PATIENT = {"cluster__deadline_floor_s": 600.0, "cluster__heartbeat_timeout_s": 600.0}
# a task that waits is too long a queue, and whoever is idle for three seconds is one too many
AUTOSCALE = {
    "cluster__autoscale__enabled": "true",
    "cluster__autoscale__queue_s": 0.001,
    "cluster__autoscale__grow_after_s": 1.5,
    "cluster__autoscale__shrink_after_s": 3.0,
}


@contextmanager
def held_up(run: Run, method: str = "PlainPolicy.update") -> Iterator[None]:
    """Inside, the run stands still as soon as all is done that can be done without this worker."""
    working = run.catch(method)
    yield
    go_on(working)


def cluster(run: Run, *words: str) -> str:
    """What a user types, and what that prints."""
    command = [sys.executable, "-m", "cluster", *words]
    environment = {**os.environ, "RAY_ADDRESS": run.address}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def scale(run: Run, pool: str, size: int) -> None:
    """Returns when the run has taken note."""
    cluster(run, "scale", pool, str(size))


def wait_for_workers(run: Run, class_name: str, count: int) -> None:
    """Waits until so many are there and have nothing to do."""
    title = f"ray::{class_name}"
    run.until(lambda: [it.title for it in workers(class_name)] == [title] * count, f"{count} idle {class_name}")


def test_pools_are_scaled_by_hand_and_a_worker_that_joins_late_draws_with_the_adapter_of_the_day(
    start: Start, reference: Reference
) -> None:
    run = start(loop__steps=20, **PATIENT)
    run.reach(3)
    first = {worker.pid for worker in workers("PlainRollout")}
    with held_up(run):
        scale(run, "reward", 3)
        scale(run, "rollout", 2)
        wait_for_workers(run, "PlainReward", 3)
        wait_for_workers(run, "PlainRollout", 2)
    go_on(run.catch("PlainRollout.draw", besides=first))
    run.reach(run.steps() + 2)
    with held_up(run):
        scale(run, "reward", 1)
        wait_for_workers(run, "PlainReward", 1)
    assert digest_of(run) == reference(loop__steps=20)
    assert scaled(run, "reward") == [(1, 3), (3, 1)]
    assert scaled(run, "rollout") == [(1, 2)]
    ready = [record.workers for record in run.folder.read_metrics()]
    judges = [record["reward"] for record in ready]
    assert (judges[0], max(judges), judges[-1]) == (1, 3, 1)
    assert (ready[0]["rollout"], ready[-1]["rollout"]) == (1, 2)


def test_of_three_rewards_one_is_scaled_and_loses_a_worker_and_the_digest_stays(
    start_in: Start, tmp_path: Path
) -> None:
    recipe, local = make_world_of_three_judges(tmp_path), tmp_path / "local"
    steps: dict[str, object] = {"loop__steps": 20}
    assert in_no_time([str(recipe), "--out", str(local), *LOCAL, *overrides(**QUICK, **steps)]) == 0
    run = start_in(recipe, program=PLAIN, reward__b__size=2, reward__c__size=3, **steps, **PATIENT)
    run.reach(3)
    first = {worker.pid for worker in workers("PlainReward")}
    with held_up(run):
        scale(run, "reward.a", 3)
        wait_for_workers(run, "PlainReward", 8)
        told = cluster(run, "status")
    killed = run.kill_in("PlainReward.score", besides=first)  # one of the two that joined reward.a
    run.reach(run.steps() + 2)
    with held_up(run):
        wait_for_workers(run, "PlainReward", 8)
        scale(run, "reward.a", 1)
        wait_for_workers(run, "PlainReward", 6)
    assert digest_of(run) == digest_in(RunFolder(local))
    assert not killed.alive
    assert [failure["task"] for failure in failures(run, "worker_lost")] == ["score"]
    assert scaled(run, "reward.a") == [(1, 3), (3, 1)]
    assert len(run.events("scaled")) == 2
    for pool in ("reward.a", "reward.b", "reward.c"):
        assert pool in told
    ready = [tuple(record.workers[f"reward.{name}"] for name in "abc") for record in run.folder.read_metrics()]
    assert (ready[0], max(ready), ready[-1]) == ((1, 2, 3), (3, 2, 3), (1, 2, 3))


def test_the_autoscaler_lets_one_pool_grow_and_another_shrink(start: Start, reference: Reference) -> None:
    """The only worker that draws is held up: draws pile up behind it, and two judges have nothing to judge."""
    sizes = {"rollout__max": 2, "reward__size": 2, "reward__max": 2}
    run = start(loop__steps=20, **sizes, **AUTOSCALE, **PATIENT)
    run.reach(3)
    with held_up(run, "PlainRollout.draw"):
        run.until(lambda: scaled(run, "rollout"), "a larger pool of rollout workers")
        run.until(lambda: scaled(run, "reward"), "a pool of one judge")
        wait_for_workers(run, "PlainReward", 1)
        one_idle = ["ray::PlainRollout", "ray::PlainRollout.draw"]
        run.until(lambda: sorted(it.title for it in workers("PlainRollout")) == one_idle, "an idle rollout worker")
    assert digest_of(run) == reference(loop__steps=20)
    assert scaled(run, "rollout")[0] == (1, 2)
    assert scaled(run, "reward")[0] == (2, 1)
    assert {event["by"] for event in run.events("scaled")} == {"autoscaler"}
    assert not run.events("failure")
    ready = [record.workers for record in run.folder.read_metrics()]
    assert max(record["rollout"] for record in ready) == 2
    assert min(record["reward"] for record in ready) == 1
    assert "by autoscaler" in run.output()


def scaled(run: Run, pool: str) -> list[tuple[int, int]]:
    """How the size of a pool changed so far: (from, to)."""
    return [(event["from"], event["to"]) for event in run.events("scaled") if event["pool"] == pool]
