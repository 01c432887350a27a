"""A run that is sent to a real cluster, which asks for a token: its driver is killed, and the next try ends as if nothing had been.

Everything of it lies in S3: its prompts, its folder, its checkpoints and the images that it keeps.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.run_folder.folder import RunFolder
from pipelines.train import main
from tests.faults.harness import LOCAL, digest_in
from tests.support.faults_world import ROOT, overrides
from tests.support.ray_head import Head, ray_head

RECIPE = "recipes/toy.toml"
SMALL: dict[str, object] = {
    "loop__steps": 8,
    "loop__checkpoint_every": 2,
    "data__mix": "{ single = 1, colours = 1, counting = 1, position = 1 }",
    "rollout__prompts_per_step": 4,
    "rollout__groups_per_task": 2,
    "samples__every": 4,
    "heldout__every": 1000,
    "heldout__images_per_category": 2,
    "heldout__base_guidance_scales": "[1.0]",
    "heldout__guidance_scales": "[1.0]",
}


@dataclass(frozen=True)
class Hurt:
    """A run whose first driver was killed: its place in S3, its prompts here and there, its log and what `submit` said."""

    out: str
    prompts_here: Path
    prompts: str
    log: str
    said: str

    def read(self, name: str) -> str:
        """A file of the run."""
        return fsspec.filesystem("s3").cat_file(f"{self.out}/{name}").decode()

    def events(self, kind: str) -> list[dict]:
        """The events of a kind."""
        return [event for event in map(json.loads, self.read("events.jsonl").splitlines()) if event["kind"] == kind]


@pytest.fixture(scope="module")
def head(s3: str) -> Iterator[Head]:
    """A cluster of one node whose processes know the S3 server."""
    with ray_head() as head:
        yield head


def submit(head: Head, out: str, *options: str, **variables: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pipelines.submit", RECIPE, "--out", out, "--address", head.job_address]
    return subprocess.Popen(
        [*command, *overrides(**SMALL), *options], cwd=ROOT, env={**head.env, **variables}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def kill_the_driver(head: Head, out: str) -> None:
    """Once there is a checkpoint."""
    system, give_up = fsspec.filesystem("s3"), time.monotonic() + 300
    while not system.glob(f"{out}/checkpoints/*/manifest.json"):
        assert time.monotonic() < give_up, "the job makes no checkpoint"
        time.sleep(0.3)
        system.invalidate_cache()
    trainings = [it for it in head.processes() if "-m pipelines.train" in it.title and out in it.title]
    (driver,) = [it for it in trainings if "/bin/sh" not in it.title]
    driver.kill()


def write_prompts(path: Path) -> None:
    """The recipe's training prompts as a Parquet file."""
    lines = (ROOT / "toy" / "data" / "train.jsonl").read_text().splitlines()
    rows = [{key: record.get(key) for key in ("id", "caption", "category")} for record in map(json.loads, lines)]
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=100)


@pytest.fixture(scope="module")
def run(head: Head, s3: str, tmp_path_factory: pytest.TempPathFactory) -> Hurt:
    here, there, out = tmp_path_factory.mktemp("submit") / "train.parquet", f"{s3}/prompts/train.parquet", f"{s3}/job"
    write_prompts(here)
    fsspec.filesystem("s3").put_file(str(here), there)
    process = submit(head, out, *overrides(data__train=there), "--run-id", "hurt")
    kill_the_driver(head, out)
    log, said = process.communicate(timeout=360)
    assert process.returncode == 0, said + log
    fsspec.filesystem("s3").invalidate_cache()
    return Hurt(out, here, there, log, said)


def test_a_job_in_s3_whose_driver_is_killed_is_sent_again_and_ends_with_the_digest_of_the_plain_run(
    run: Hurt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    plain, options = tmp_path / "plain", overrides(**SMALL, data__train=run.prompts_here)
    assert main([RECIPE, "--out", str(plain), *LOCAL, *options]) == 0
    assert json.loads(run.read("summary.json"))["digest"] == digest_in(RunFolder(plain))
    (resumed,) = run.events("resumed")
    assert resumed["step"] >= 2
    assert resumed["checkpoint"].startswith(f"{run.out}/checkpoints/")
    system = fsspec.filesystem("s3")
    assert system.exists(f"{run.out}/report.html")
    assert len(system.glob(f"{run.out}/samples/**/*.parquet")) == 2
    assert "hurt-1 has failed (exit code 137)" in run.said
    assert "hurt-2 has succeeded" in run.said
    assert run.log.count("Running entrypoint for job hurt-") == 2
    assert "held out at step 8" in run.log


def test_the_cluster_knows_what_each_job_is(head: Head, run: Hurt) -> None:
    known = head.jobs()
    for attempt in ("1", "2"):
        metadata = known[f"hurt-{attempt}"]["metadata"]
        assert metadata["run"] == "toy"
        assert metadata["recipe"] == RECIPE
        assert metadata["attempt"] == attempt
        assert metadata["out"] == run.out
    assert known["hurt-1"]["runtime_env"]["working_dir"] == known["hurt-2"]["runtime_env"]["working_dir"]


def test_a_users_mistake_that_only_the_job_can_see_is_not_sent_again(head: Head, run: Hurt) -> None:
    process = submit(head, run.out, *overrides(data__train=run.prompts, run__seed=9), "--run-id", "wrong")
    log, said = process.communicate(timeout=120)
    assert process.returncode == 2, said + log
    assert "seed" in log
    assert "wrong-2" not in head.jobs()


@pytest.mark.parametrize("variables", [{"RAY_AUTH_TOKEN": "wrong"}, {"RAY_AUTH_MODE": "disabled"}])
def test_a_wrong_token_and_none_are_refused_with_what_to_set(
    head: Head, tmp_path: Path, variables: dict[str, str]
) -> None:
    process = submit(head, str(tmp_path / "run"), **variables)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "RAY_AUTH_MODE=token" in said


def test_a_clusters_status_is_read_with_its_token_alone(head: Head) -> None:
    env = {name: value for name, value in head.env.items() if name != "RAY_AUTH_MODE"}
    command = [sys.executable, "-m", "cluster", "status", "--once", "--address", head.gcs_address]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)
    assert "there is no run on the cluster" in done.stderr
