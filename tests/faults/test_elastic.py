"""Pools that change their size in the middle of a run, because a user says so or by themselves: more hands, the same digest."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.control import client
from pipelines.run_folder.folder import RunFolder
from tests.faults.conftest import Reference, Start
from tests.faults.harness import LOCAL, PLAIN, QUICK, digest_in, digest_of, failures
from tests.support.faults_world import Run, go_on, overrides, workers
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


def control() -> client.Run:
    """What `python -m cluster` talks to; tests/cluster/control has the command line."""
    return client.Run(*client.runs_on_cluster())


def scale(pool: str, size: int) -> None:
    """Returns when the run has taken note."""
    answer = control().ask("scale", pool, size)
    assert not answer.startswith("refused"), answer


def wait_for_workers(run: Run, class_name: str, count: int) -> None:
    """Waits until so many are there and have nothing to do."""
    title = f"ray::{class_name}"
    run.until(lambda: [it.title for it in workers(class_name)] == [title] * count, f"{count} idle {class_name}")


def test_of_three_rewards_one_is_scaled_and_loses_a_worker_and_one_that_joins_late_draws_with_the_adapter_of_the_day(
    start_in: Start, tmp_path: Path
) -> None:
    recipe, local = make_world_of_three_judges(tmp_path), tmp_path / "local"
    steps: dict[str, object] = {"loop__steps": 20}
    assert in_no_time([str(recipe), "--out", str(local), *LOCAL, *overrides(**QUICK, **steps)]) == 0
    run = start_in(recipe, program=PLAIN, reward__b__size=2, reward__c__size=3, **steps, **PATIENT)
    run.reach(3)
    judges, drawers = [{worker.pid for worker in workers(name)} for name in ("PlainReward", "PlainRollout")]
    with held_up(run):
        scale("reward.a", 3)
        scale("rollout", 2)
        wait_for_workers(run, "PlainReward", 8)
        wait_for_workers(run, "PlainRollout", 2)
        status, _ = control().view()
    go_on(run.catch("PlainRollout.draw", besides=drawers))
    killed = run.kill_in("PlainReward.score", besides=judges)  # one of the two that joined reward.a
    run.reach(run.steps() + 2)
    with held_up(run):
        wait_for_workers(run, "PlainReward", 8)
        scale("reward.a", 1)
        wait_for_workers(run, "PlainReward", 6)
    assert digest_of(run) == digest_in(RunFolder(local))
    assert not killed.alive
    assert [failure["task"] for failure in failures(run, "worker_lost")] == ["score"]
    assert scaled(run, "reward.a") == [(1, 3), (3, 1)]
    assert scaled(run, "rollout") == [(1, 2)]
    assert len(run.events("scaled")) == 3
    assert status["pools"].keys() >= {"reward.a", "reward.b", "reward.c"}
    sizes = [record.workers for record in run.folder.read_metrics()]
    ready = [tuple(record[f"reward.{name}"] for name in "abc") for record in sizes]
    assert (ready[0], max(ready), ready[-1]) == ((1, 2, 3), (3, 2, 3), (1, 2, 3))
    assert (sizes[0]["rollout"], sizes[-1]["rollout"]) == (1, 2)


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
