"""A job of the plain world on a real cluster with authentication: submitted, watched, scaled and hurt, to the same digest.

test_submit.py has the miniature job, whose driver is killed, and of which everything lies in S3.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
import requests

from pipelines.run_folder.folder import RunFolder
from tests.faults.harness import LOCAL, PLAIN, QUICK, digest_in
from tests.support.faults_world import ROOT, Process, overrides, stop
from tests.support.plain_run import in_no_time
from tests.support.ray_head import Head, Node, add_node, ray_head

STEPS = 24
# draws are slow, so that the run goes on while this process looks
SETTINGS: dict[str, object] = {**QUICK, "loop__steps": STEPS, "loop__checkpoint_every": 3, "rollout__steps": 30}
PATIENCE_S = 240.0

T = TypeVar("T")


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with ray_head(num_cpus=4) as head:
        yield head


def digest_here(recipe: Path, out: Path) -> str:
    """Of the job in this process, where nothing can fail."""
    assert in_no_time([str(recipe), "--out", str(out), *LOCAL, *overrides(**SETTINGS)]) == 0
    return digest_in(RunFolder(out))


def said_by(head: Head, *words: str) -> str:
    """What a command says on a machine that may reach the cluster."""
    environment = {**head.env, "RAY_ADDRESS": head.gcs_address}
    done = subprocess.run([sys.executable, "-m", *words], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def job(head: Head, *words: str) -> str:
    """`ray job ...` on that machine."""
    action, *others = words
    return said_by(head, "ray.scripts.scripts", "job", action, "--address", head.job_address, *others)


def submit(head: Head, job_id: str, recipe: Path, out: str, **settings: object) -> None:
    """What docs/cluster.md tells a user to type, with the plain world's program."""
    options = overrides(**{**SETTINGS, **settings})
    train = ["python", "-m", PLAIN, str(recipe), "--out", out, *options, "--resume"]
    job(head, "submit", "--no-wait", "--submission-id", job_id, "--working-dir", ".", "--", *train)


def until(condition: Callable[[], T | None], head: Head, job_id: str) -> T:
    """Waits until the condition gives something; if it does not, or the job fails first, fails with the job's log."""
    give_up = time.monotonic() + PATIENCE_S
    while True:
        failed = head.jobs()[job_id]["status"] == "FAILED"
        if found := condition():
            return found
        if failed or time.monotonic() > give_up:
            pytest.fail(job(head, "logs", job_id))
        time.sleep(0.1)


def reach(out: Path, step: int, head: Head, job_id: str) -> None:
    until(lambda: len(RunFolder(out).read_metrics()) >= step, head, job_id)


def on(node: Node, name: str) -> list[Process]:
    """The processes of a pool's workers on a node, those that Ray has given a class."""
    return [it for it in node.processes() if it.title.startswith(f"ray::{name}")]


def ended_well(head: Head, job_id: str) -> bool:
    return head.jobs()[job_id]["status"] == "SUCCEEDED"


def metrics_of(head: Head, run: str) -> dict[str, float]:
    """What the head's metrics port says of a run, by name; of metrics with further tags the last one."""
    lines = requests.get(f"http://{head.ip}:{head.metrics_port}/metrics", timeout=10).text.splitlines()
    ours = [line for line in lines if line.startswith("ray_echoray_") and f'run="{run}"' in line]
    return {line.partition("{")[0]: float(line.rpartition(" ")[2]) for line in ours}


def metrics_after(head: Head, run: str, step: int) -> dict[str, float] | None:
    """None for as long as Ray, which collects every few seconds, has those of an earlier step, or not yet all."""
    metrics = metrics_of(head, run)
    whole = metrics.keys() >= {"ray_echoray_step", "ray_echoray_steps_planned", "ray_echoray_reward_mean"}
    return metrics if whole and metrics["ray_echoray_step"] >= step else None


def test_a_job_on_two_nodes_with_labels_is_submitted_watched_scaled_and_hurt_and_one_node_replaced(
    head: Head, plain_world: Path, tmp_path: Path
) -> None:
    out = tmp_path / "whole"
    easel = add_node(head, labels={"room": "easel"})
    bench = add_node(head, labels={"room": "bench"})
    placed = {
        "rollout__labels": '{room = "easel"}',
        "reward__labels": '{room = "bench"}',
        "policy__labels": '{room = "bench"}',
        "cluster__node_timeout_s": 60.0,
    }
    submit(head, "whole", plain_world, str(out), rollout__min=1, reward__max=3, **placed)
    reach(out, 2, head, "whole")
    assert on(easel, "PlainRollout")
    assert on(bench, "PlainReward")
    assert on(bench, "PlainPolicy")
    assert not any(on(head, name) for name in ("PlainRollout", "PlainReward", "PlainPolicy"))

    (drawing,) = on(easel, "PlainRollout")
    assert stop(drawing), "the run does not end while the command starts"
    assert "2 workers" in said_by(head, "cluster", "scale", "reward", "2")
    drawing.kill()
    folder = RunFolder(out)
    drawn_anew = len(folder.read_metrics()) + 3  # one step was drawn ahead, one was being trained
    reach(out, drawn_anew, head, "whole")

    easel.kill()  # nothing is drawn any more: the run stands still before its end
    metrics = until(lambda: metrics_after(head, "whole", drawn_anew), head, "whole")
    assert metrics["ray_echoray_steps_planned"] == STEPS
    assert metrics["ray_echoray_reward_mean"] < 0
    assert len(folder.read_metrics()) < STEPS
    another = add_node(head, labels={"room": "easel"})
    until(lambda: on(another, "PlainRollout"), head, "whole")
    until(lambda: ended_well(head, "whole"), head, "whole")
    assert digest_in(folder) == digest_here(plain_world, tmp_path / "here")
    assert {line.kind for line in folder.read_events()} >= {"scaled", "failure"}
    assert folder.read_metrics()[-1].workers["reward"] == 2
    log = job(head, "logs", "whole")
    assert all(f"step {step:>4}/{STEPS}" in log for step in range(1, STEPS + 1))
