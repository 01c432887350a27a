"""What the tests of faults ask of a run: its digest, whether its checkpoints are whole, and what it left behind."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import ray

from pipelines.run_folder.folder import Record, RunFolder
from tests.support.faults_world import Process, Run, go_on, workers

CLEAN_UP_S = 30.0  # Ray ends the actors of a driver that died by itself, but not at once
# words of the command line: who resumes a run matters to no checkpoint, and one process starts at a quarter of the price
LOCAL = ("--executor", "local")
PLAIN = "tests.support.plain_run"  # the program that runs the plain world
RAYS_OWN = re.compile(r"ray::(IDLE|Dashboard|RuntimeEnv)")
# no evaluation but the first and the last, and these small: the faults are to land in training
QUICK: dict[str, object] = {
    "heldout__every": 1000,
    "heldout__images_per_category": 2,
    "heldout__base_guidance_scales": "[1.0]",
    "loop__staleness": 1,
}


def digest_of(run: Run) -> str:
    """The digest of a run that must end well."""
    assert run.end() == 0, run.output()
    return digest_in(run.folder)


def digest_in(folder: RunFolder) -> str:
    """The digest of a run that has ended well."""
    summary = folder.read_summary()
    assert summary["status"] == "done"
    recorded = [record.step for record in folder.read_metrics()]
    assert recorded == list(range(1, summary["steps"] + 1)), "each step is recorded once, replayed or not"
    return summary["digest"]


def failures(run: Run, cause: str) -> list[Record]:
    """Draws and scores that failed in this way."""
    return [event for event in run.events("failure") if event["cause"] == cause]


def complete_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints that have a manifest, oldest first."""
    return sorted(path.parent for path in folder.glob("step-??????/manifest.json"))


def is_whole(checkpoint: Path) -> bool:
    """Whether every file that the manifest names is there with its hash."""
    files = json.loads((checkpoint / "manifest.json").read_text())["files"]
    return bool(files) and all(
        hashlib.sha256((checkpoint / name).read_bytes()).hexdigest() == sha256 for name, sha256 in files.items()
    )


def left_on_the_cluster() -> list[str]:
    """Actors, placement groups and processes of actors on the cluster that this process is joined to."""
    actors = [f"actor {actor['name']}" for actor in ray.util.list_named_actors(all_namespaces=True)]
    groups = ray.util.placement_group_table().items()
    placements = [f"placement group {name}" for name, group in groups if group["state"] != "REMOVED"]
    return actors + placements + [worker.title for worker in workers("") if not RAYS_OWN.match(worker.title)]


def still_alive(processes: list[Process]) -> list[str]:
    """Those of the processes that have not ended."""
    return [process.title for process in processes if process.alive]


def eventually_nothing(left: Callable[[], list[str]], seconds: float = CLEAN_UP_S) -> list[str]:
    """What is left once nothing is, or once Ray had time enough."""
    give_up = time.monotonic() + seconds
    while (found := left()) and time.monotonic() < give_up:
        time.sleep(0.1)
    return found


def kill_then_hang(run: Run, policy: str, after: tuple[int, int], noticed_by: str, every: int) -> str:
    """A rank is killed during an update, and later one is stopped in one: both are replaced. Returns the run's digest.

    The steps since a checkpoint are replayed, each to the digest that it had: with what the ranks hold, which the next step
    depends on.

    policy: the ranks' class. after: the steps after which that happens. noticed_by: a word of what is said of the one that hangs.
    every: the steps between two checkpoints, from one of which the ranks begin anew each time.
    """
    victims: list[Process] = []
    recorded: list[list[str]] = []
    for step in after:
        run.reach(step)
        victims.append(catch_ahead(run, f"{policy}.update", every))
        recorded.append(digests(run.folder))
        if not victims[1:]:
            victims[0].kill()
    digest = digest_of(run)
    assert eventually_nothing(lambda: still_alive(victims)) == []
    lost, restarted = run.events("policy_lost"), run.events("policy_restarted")
    assert len(lost) == len(restarted) == run.folder.read_summary()["policy_restarts"] == 2
    for number, step in enumerate(after):
        assert lost[number]["step"] > step
        assert restarted[number]["step"] in range(every, lost[number]["step"], every)
        assert digests(run.folder)[: len(recorded[number])] == recorded[number]
    assert [noticed_by in f"{event['cause']}: {event['message']}" for event in lost] == [False, True]
    return digest


def catch_ahead(run: Run, method: str, every: int) -> Process:
    """A worker stopped in a method, when steps since the last checkpoint are lost with it."""
    while True:
        working = run.catch(method)
        if run.steps() % every:
            return working
        go_on(working)


def digests(folder: RunFolder) -> list[str]:
    """The digest of each step so far."""
    return [record.digest for record in folder.read_metrics()]
