"""A run that is sent to a real cluster, which asks for a token: its driver is killed, and the next try ends as if nothing had been."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.faults_world import ROOT, overrides
from pipelines.run_folder import RunFolder
from pipelines.train import main
from tests.ray_head import Head, ray_head

RECIPE = "recipes/toy.toml"
SMALL = overrides(
    loop__steps=8,
    loop__checkpoint_every=2,
    data__mix="{}",
    rollout__prompts_per_step=2,
    rollout__groups_per_task=1,
    heldout__every=1000,
    heldout__images_per_category=2,
    heldout__base_guidance_scales="[1.0]",
    heldout__guidance_scales="[1.0]",
)


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with ray_head() as head:
        yield head


def submit(head: Head, out: Path, *options: str, **variables: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pipelines.submit", RECIPE, "--out", str(out), "--address", head.job_address]
    return subprocess.Popen(
        [*command, *SMALL, *options], cwd=ROOT, env={**head.env, **variables}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def kill_the_driver(head: Head, out: Path, step: int) -> None:
    """Once this step is trained and recorded."""
    give_up = time.monotonic() + 120
    while not (out / "metrics.jsonl").is_file() or len(RunFolder(out).read_metrics()) < step:
        assert time.monotonic() < give_up, "the job does not train"
        time.sleep(0.02)
    drivers = [process for process in head.processes() if f"pipelines.train {RECIPE}" in process.title]
    assert drivers
    for driver in drivers:
        driver.kill()


@pytest.fixture(scope="module")
def run(head: Head, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """A run whose first driver is killed: its folder, its log and what `submit` said."""
    out = tmp_path_factory.mktemp("submit") / "run"
    process = submit(head, out, "--run-id", "hurt")
    kill_the_driver(head, out, step=3)
    log, said = process.communicate(timeout=240)
    assert process.returncode == 0, said + log
    return out, log, said


def test_a_job_whose_driver_is_killed_is_sent_again_and_ends_with_the_digest_of_the_plain_run(
    run: tuple[Path, str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, log, said = run
    monkeypatch.chdir(ROOT)
    assert main([RECIPE, "--out", str(tmp_path / "plain"), "--executor", "local", *SMALL]) == 0
    assert RunFolder(out).read_summary()["digest"] == RunFolder(tmp_path / "plain").read_summary()["digest"]
    assert [event["step"] for event in RunFolder(out).read_events() if event["kind"] == "resumed"] == [2]
    assert "hurt-1 has failed (exit code 137)" in said
    assert "hurt-2 has succeeded" in said
    assert log.count("Running entrypoint for job hurt-") == 2
    assert "held out at step 8" in log


def test_the_cluster_knows_what_each_job_is(head: Head, run: tuple[Path, str, str]) -> None:
    known = head.jobs()
    for attempt in ("1", "2"):
        metadata = known[f"hurt-{attempt}"]["metadata"]
        assert metadata["run"] == "toy"
        assert metadata["recipe"] == RECIPE
        assert metadata["attempt"] == attempt
        assert metadata["out"] == str(run[0])
    assert known["hurt-1"]["runtime_env"]["working_dir"] == known["hurt-2"]["runtime_env"]["working_dir"]


def test_a_users_mistake_that_only_the_job_can_see_is_not_sent_again(head: Head, run: tuple[Path, str, str]) -> None:
    process = submit(head, run[0], "--run-id", "wrong", "--set", "run.seed=9")
    log, said = process.communicate(timeout=120)
    assert process.returncode == 2, said + log
    assert "seed" in log
    assert "wrong-2" not in head.jobs()


@pytest.mark.parametrize("variables", [{"RAY_AUTH_TOKEN": "wrong"}, {"RAY_AUTH_MODE": "disabled"}])
def test_a_wrong_token_and_none_are_refused_with_what_to_set(
    head: Head, tmp_path: Path, variables: dict[str, str]
) -> None:
    process = submit(head, tmp_path / "run", **variables)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "RAY_AUTH_MODE=token" in said


def test_a_clusters_status_is_read_with_its_token_alone(head: Head) -> None:
    env = {name: value for name, value in head.env.items() if name != "RAY_AUTH_MODE"}
    command = [sys.executable, "-m", "cluster", "status", "--once", "--address", head.gcs_address]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)
    assert "there is no run on the cluster" in done.stderr
