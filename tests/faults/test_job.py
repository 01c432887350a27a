"""The miniature job on a real cluster with authentication: submitted, watched, scaled, hurt, kept in S3; always the same digest."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import requests

from bench.faults_world import ROOT, Process, overrides
from pipelines.run_folder import RunFolder
from pipelines.train import main
from tests.ray_head import Head, add_node, ray_head

RECIPE = "recipes/toy.toml"
# the recipe of `make train`, shorter
SHORT = {
    "loop__steps": 12,
    "loop__checkpoint_every": 3,
    "heldout__every": 1000,
    "heldout__images_per_category": 5,
    "heldout__base_guidance_scales": "[1.0]",
    "heldout__guidance_scales": "[1.0]",
}
PATIENCE_S = 240.0

T = TypeVar("T")


@pytest.fixture(scope="module")
def head(s3: str) -> Iterator[Head]:
    """A cluster of one node whose processes know the S3 server."""
    with ray_head(num_cpus=4) as head:
        yield head


@pytest.fixture(scope="module")
def digest(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of the job in this process, where nothing can fail."""
    return digest_here(tmp_path_factory.mktemp("reference") / "run")


def digest_here(out: Path, **settings: object) -> str:
    assert main([RECIPE, "--out", str(out), "--executor", "local", *overrides(**{**SHORT, **settings})]) == 0
    return RunFolder(out).read_summary()["digest"]


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


def submit(head: Head, job_id: str, out: str, **settings: object) -> None:
    """What docs/cluster.md tells a user to type."""
    train = ["python", "-m", "pipelines.train", RECIPE, "--out", out, *overrides(**{**SHORT, **settings}), "--resume"]
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


def workers(head: Head, name: str) -> list[Process]:
    """The processes of a pool's workers, those that Ray has given a class."""
    nodes = [head, *head.nodes]
    return [it for node in nodes for it in node.processes() if it.title.startswith(f"ray::{name}")]


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


def test_a_job_is_submitted_watched_scaled_and_hurt(head: Head, digest: str, tmp_path: Path) -> None:
    out = tmp_path / "whole"
    submit(head, "whole", str(out), rollout__min=1, reward__max=3)
    reach(out, 2, head, "whole")
    assert "2 workers" in said_by(head, "cluster", "scale", "reward", "2")
    reach(out, 4, head, "whole")
    workers(head, "RolloutActor")[0].kill()
    metrics = until(lambda: metrics_after(head, "whole", 5), head, "whole")
    assert metrics["ray_echoray_steps_planned"] == 12
    assert 0 < metrics["ray_echoray_reward_mean"] < 1
    until(lambda: ended_well(head, "whole"), head, "whole")
    folder = RunFolder(out)
    assert folder.read_summary()["digest"] == digest
    kinds = [event["kind"] for event in folder.read_events()]
    assert "scaled" in kinds
    assert folder.read_metrics()[-1]["workers"]["reward"] == 2
    log = job(head, "logs", "whole")
    assert all(f"step {step:>4}/12" in log for step in range(1, 13))


def test_everything_in_s3_and_the_driver_killed(head: Head, s3: str, tmp_path: Path) -> None:
    lines = Path("toy/data/train.jsonl").read_text().splitlines()
    rows = [{key: record.get(key) for key in ("id", "caption", "category")} for record in map(json.loads, lines)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet", row_group_size=100)
    system = fsspec.filesystem("s3")
    system.put_file(str(tmp_path / "train.parquet"), f"{s3}/prompts/train.parquet")
    out = f"{s3}/job"
    from_s3 = {
        "data__train": f"{s3}/prompts/train.parquet",
        "data__mix": "{ single = 1, colours = 1, counting = 1, position = 1 }",
        "samples__every": 6,
        "rollout__prompts_per_step": 4,
        "rollout__groups_per_task": 2,
    }
    submit(head, "in-s3", out, **from_s3)

    def checkpoints() -> list[str]:
        system.invalidate_cache()
        return system.glob(f"{out}/checkpoints/*/manifest.json")

    until(checkpoints, head, "in-s3")
    trainings = [it for it in head.processes() if "-m pipelines.train" in it.title and out in it.title]
    (driver,) = [it for it in trainings if "/bin/sh" not in it.title]
    driver.kill()
    until(lambda: head.jobs()["in-s3"]["status"] == "FAILED", head, "in-s3")
    submit(head, "in-s3-again", out, **from_s3)
    until(lambda: ended_well(head, "in-s3-again"), head, "in-s3-again")

    system.invalidate_cache()
    summary = json.loads(system.cat_file(f"{out}/summary.json"))
    here = {**from_s3, "data__train": str(tmp_path / "train.parquet")}
    assert summary["digest"] == digest_here(tmp_path / "run", **here)
    events = [json.loads(line) for line in system.cat_file(f"{out}/events.jsonl").splitlines()]
    (resumed,) = [event for event in events if event["kind"] == "resumed"]
    assert resumed["checkpoint"].startswith(f"{out}/checkpoints/")
    assert system.exists(f"{out}/report.html")
    assert len(system.glob(f"{out}/samples/**/*.parquet")) == 2


def test_two_nodes_with_labels_one_lost_and_replaced(head: Head, digest: str, tmp_path: Path) -> None:
    out = tmp_path / "labels"
    easel = add_node(head, labels={"room": "easel"})
    bench = add_node(head, labels={"room": "bench"})
    placed = {
        "rollout__labels": '{room = "easel"}',
        "reward__labels": '{room = "bench"}',
        "policy__labels": '{room = "bench"}',
        "cluster__node_timeout_s": 60.0,
    }
    submit(head, "labels", str(out), **placed)
    reach(out, 2, head, "labels")

    def on(node: Head | None, name: str) -> bool:
        return any(it.title.startswith(f"ray::{name}") for it in node.processes())

    assert on(easel, "RolloutActor")
    assert on(bench, "RewardActor")
    assert on(bench, "PolicyActor")
    assert not any(on(head, name) for name in ("RolloutActor", "RewardActor", "PolicyActor"))
    easel.kill()
    another = add_node(head, labels={"room": "easel"})
    until(lambda: on(another, "RolloutActor") or ended_well(head, "labels"), head, "labels")
    until(lambda: ended_well(head, "labels"), head, "labels")
    assert RunFolder(out).read_summary()["digest"] == digest
    assert any(event["kind"] == "failure" for event in RunFolder(out).read_events())
