"""Runs that are looked at and steered from another process, by `python -m cluster`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
import ray

from cluster.connect import ROOT, worker_env
from cluster.control.client import Run, RunEnded, RunGone, runs_on_cluster
from cluster.control.controller import NAMESPACE, Link, actor_name
from cluster.executors.on_ray import RayExecutor
from cluster.joining.here import clusters_here
from cluster.tasks import Command
from tests.cluster.helpers import PATIENCE_S, eventually, exists
from tests.support.faults_world import without_ray

Started = tuple[subprocess.Popen, str]
Steer = Callable[..., tuple[int, str]]


@pytest.fixture
def start_run(ray_cluster: str) -> Iterator[Callable[..., Started]]:
    """Start small runs, by default on the tests' cluster; (process, address of its cluster) once it is ready."""
    processes: list[subprocess.Popen] = []

    def start(name: str, address: str = ray_cluster, *more: str, until: str = "ready") -> Started:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.cluster.small_run", name, *more],
            cwd=ROOT,
            env={**environment(address), "RAY_ADDRESS": address},
            stdout=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(until):
                return process, line.split()[1]
        raise AssertionError("the run did not start")

    yield start
    for process in processes:
        process.terminate()
        process.wait(PATIENCE_S)


def environment(address: str) -> dict[str, str]:
    """Of a process that knows the tests' cluster and its token; with no address, of one that knows neither."""
    return dict(os.environ) if address else without_ray()


@pytest.fixture(scope="module")
def steer(ray_cluster: str) -> Iterator[Steer]:
    """`python -m cluster ...` in a process that has loaded it already (tests/cluster/steering.py): (exit code, what it prints)."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.cluster.steering"],
        cwd=ROOT,
        env={**environment(ray_cluster), "COLUMNS": "100"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    )
    with process:  # its commands end with their pipe
        assert process.stdin is not None
        assert process.stdout is not None

        def steer(address: str, *arguments: str) -> tuple[int, str]:
            print(json.dumps([address, arguments]), file=process.stdin)
            code, said = json.loads(process.stdout.readline())
            return code, said

        yield steer


def cluster(address: str, *arguments: str) -> tuple[int, str]:
    """The same in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "cluster", *arguments],
        cwd=ROOT,
        env={**environment(address), "RAY_ADDRESS": address, "COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=3 * PATIENCE_S,
    )
    return done.returncode, done.stdout + done.stderr


def test_a_run_is_shown_scaled_and_stopped(start_run: Callable[..., Started], steer: Steer) -> None:
    process, address = start_run("first")
    assert eventually(lambda: "first  running" in steer(address, "status", "--once")[1])
    code, text = cluster(address, "status", "--once")
    assert code == 0
    assert "step 3/10  version 3  12.3 images/s  reward -1.500  1:15" in text
    assert "retries: 2 worker lost" in text
    assert [line.split() for line in text.splitlines() if line.startswith("reward")] == [
        ["reward", "1", "1", "0", "━━━━┄┄┄┄", "50%", "0", "0", "0", "1–3"]
    ]
    assert [line.split()[-1] for line in text.splitlines() if line.startswith("policy")] == ["fixed"]

    assert steer(address, "scale", "reward", "3") == (0, "reward has 3 workers now\n")
    assert eventually(lambda: sum("-reward-" in it["name"] for it in ray.util.list_named_actors(True)) == 3)
    for pool, size, complaint in (
        ("reward", "4", "4 workers are outside of the limits of reward: 1 to 3"),
        ("policy", "3", "policy is a gang, whose size is fixed during a run: choose from reward, large"),
        ("rewrad", "2", "rewrad is no pool of this run: choose from reward, large"),
        ("large", "100", "refused: the workers do not fit the cluster"),
    ):
        code, text = steer(address, "scale", pool, size)
        assert code == 2
        assert complaint in text

    code, text = steer(address, "stop")
    assert code == 0
    assert text in ("the run finishes its step and ends\n", "the run first has ended\n")
    assert process.wait(PATIENCE_S) == 0
    code, text = steer(address, "status")
    assert code == 2
    assert f"there is no run on the cluster at {address}" in text


def test_several_runs_on_one_cluster_are_told_apart_also_while_one_starts(
    start_run: Callable[..., Started], steer: Steer, ray_cluster: str
) -> None:
    (one, address), (starts, _) = start_run("one"), start_run("other", ray_cluster, "slowly", until="starting")
    code, text = steer(address, "stop")
    assert code == 2
    assert f"--run one --address {address}" in text
    assert f"--run other --address {address}" in text
    code, text = steer(address, "stop", "--run", "third")
    assert code == 2
    assert "there is no run third, only one, other" in text
    seen = lambda: steer(address, "status", "--once", "--run", "other")[1]  # noqa: E731
    assert eventually(lambda: "slow 0 of" in seen())
    assert "other  starting" in seen()
    code, text = steer(address, "scale", "reward", "2", "--run", "other")
    assert code == 2
    assert "the run is still starting" in text
    assert steer(address, "stop", "--run", "other") == (0, "the run other has ended\n")
    assert starts.wait(PATIENCE_S) != 0
    assert one.poll() is None
    one.kill()
    one.wait()
    assert eventually(lambda: runs_on_cluster() == []), "the controller dies with the driver"
    assert eventually(lambda: not any("one" in it["name"] for it in ray.util.list_named_actors(True)))


def test_two_runs_of_one_name_do_not_disturb_each_other(start_run: Callable[..., Started], steer: Steer) -> None:
    first, address = start_run("twin")
    assert eventually(lambda: runs_on_cluster() == ["twin"])
    second, _ = start_run("twin")
    assert eventually(lambda: runs_on_cluster() == ["twin", "twin-2"])
    assert steer(address, "stop", "--run", "twin-2")[0] == 0
    assert second.wait(PATIENCE_S) == 0
    assert first.poll() is None


def test_a_run_that_started_ray_itself_is_found_on_this_machine(start_run: Callable[..., Started]) -> None:
    process, address = start_run("own ray", address="")
    assert address in clusters_here()
    assert cluster("", "stop", "--run", "own ray")[0] == 0
    assert process.wait(PATIENCE_S) == 0
    assert eventually(lambda: address not in clusters_here())


def test_where_no_cluster_answers_nothing_is_started() -> None:
    code, text = cluster("127.0.0.1:1", "status")
    assert code == 2
    assert "no Ray cluster answers at 127.0.0.1:1" in text


# ---- the driver's side ----------------------------------------------------------------------------------------------


def exchanged(executor: RayExecutor, run: str) -> list[Command]:
    """What comes of exchanging until a command comes."""
    commands: list[Command] = []
    assert eventually(lambda: bool(commands.extend(executor.exchange({"run": run})) or commands))
    return commands


def controller(run: str) -> ray.actor.ActorHandle | None:
    try:
        return ray.get_actor(actor_name(run), namespace=NAMESPACE)
    except ValueError:
        return None


def wait_for_controller(executor: RayExecutor | Link, run: str) -> ray.actor.ActorHandle:
    """The controller, once it has a status."""
    found: list[ray.actor.ActorHandle] = []

    def has_status() -> bool:
        executor.exchange({"run": run})
        try:
            found[:] = [actor for actor in [controller(run)] if actor is not None]
            return bool(found) and ray.get(found[0].view.remote(), timeout=1.0)[0] == {"run": run}
        except ray.exceptions.RayError:
            return False

    assert eventually(has_status)
    return found[0]


def test_commands_come_once_and_answers_go_back(
    start_reachable: Callable[..., RayExecutor], request: pytest.FixtureRequest
) -> None:
    executor, run = start_reachable(), f"{request.node.name}-0"
    actor = wait_for_controller(executor, run)
    ids = ray.get([actor.ask.remote("scale", "pool", 3), actor.ask.remote("stop")], timeout=PATIENCE_S)
    first, second = exchanged(executor, run)
    assert (first, second) == (Command(ids[0], "scale", "pool", 3), Command(ids[1], "stop"))
    assert ray.get(actor.answer_to.remote(ids[0]), timeout=PATIENCE_S) is None
    executor.answer(ids[0], "done")
    answered = lambda: ray.get(actor.answer_to.remote(ids[0]), timeout=PATIENCE_S)  # noqa: E731
    assert eventually(lambda: executor.exchange({"run": run}) == [] and answered() == "done")
    assert ray.get(actor.answer_to.remote(ids[1]), timeout=PATIENCE_S) is None
    executor.close()
    assert eventually(lambda: controller(run) is None)


def test_a_controller_that_dies_is_made_again(
    start_reachable: Callable[..., RayExecutor], request: pytest.FixtureRequest
) -> None:
    executor, run = start_reachable(), f"{request.node.name}-0"
    actor = wait_for_controller(executor, run)
    old_id = ray.get(actor.ask.remote("stop"), timeout=PATIENCE_S)
    ray.kill(actor)
    actor = wait_for_controller(executor, run)
    new_id = ray.get(actor.ask.remote("stop"), timeout=PATIENCE_S)
    assert new_id != old_id
    assert exchanged(executor, run) == [Command(new_id, "stop")]


def test_a_run_whose_controller_died_is_not_taken_for_one_that_ended(
    start_reachable: Callable[..., RayExecutor], request: pytest.FixtureRequest
) -> None:
    executor, run = start_reachable(), f"{request.node.name}-0"
    wait_for_controller(executor, run)
    seen = Run(run)
    assert seen.view()[0] == {"run": run}
    ray.kill(controller(run))
    assert eventually(lambda: controller(run) is None)  # a dying actor may still answer
    with pytest.raises(RunGone, match="has died: it is made again") as caught:
        seen.view()
    assert not isinstance(caught.value, RunEnded)
    executor.close()
    with pytest.raises(RunEnded):
        seen.view()
    with pytest.raises(RunEnded):
        Run(run)


def test_a_controller_that_hangs_holds_nobody_up_and_is_replaced(ray_cluster: str) -> None:
    run = "hangs"
    link = Link(run, worker_env(), timeout_s=3.0)
    try:
        hanging = wait_for_controller(link, run)
        pid = ray.get(hanging.__ray_call__.remote(lambda _: os.getpid()), timeout=PATIENCE_S)
        os.kill(pid, signal.SIGSTOP)
        hanging.ask.remote("stop")
        assert all(link.exchange({"run": run}) == [] for _ in range(1000))
        assert eventually(lambda: link.exchange({"run": run}) == [] and not exists(pid))
        assert wait_for_controller(link, run) != hanging
    finally:
        link.close()
