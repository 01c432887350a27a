"""Sending a run: what is refused before anything is sent, and what is done about jobs that fail, at a job server with a script."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines import submit
from pipelines.preflight.packages import ROOT
from pipelines.submitting import job_server as jobs
from pipelines.submitting import supervise
from tests.support.job_server import LOG, JobServer, job_server

RECIPE = "recipes/toy.toml"


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """As at the command line, with no cluster named and no pauses."""
    monkeypatch.chdir(ROOT)
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(supervise, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(jobs, "AGAIN_S", 0.01)


@pytest.fixture
def server() -> Iterator[JobServer]:
    with job_server() as server:
        yield server


def send(server: JobServer, *options: str) -> int:
    return submit.main([RECIPE, "--out", "/data/run", "--address", server.address, *options])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([RECIPE, "--out", "runs/one"], "--out runs/one: a job works in a folder that Ray removes"),
        ([RECIPE, "--out", "/data/run"], "no address of a cluster is given"),
        ([RECIPE, "--out", "/data/run", "--address", "10.0.0.1:6379"], "is none of a job server"),
        ([RECIPE, "--out", "/data/run", "--address", "http://127.0.0.1:1"], "no job server of Ray answers"),
        ([RECIPE, "--out", "/data/run", "--set", "loop.stepz=2"], "did you mean steps?"),
        ([RECIPE, "--out", "/data/run", "--retries", "-1"], "--retries -1"),
        ([RECIPE, "--out", "/data/run", "--run-id", "a b/c"], "--run-id 'a b/c'"),
        ([RECIPE, "--out", "/data/run", "--set", "data.train=nowhere.jsonl"], "there is no such file"),
        (
            [RECIPE, "--out", "/data/run", "--set", "data.train=toy/checker.py"],
            "what kind of file is it? Give it a name",
        ),
        ([RECIPE, "--out", "/data/run", "--set", "data.mix={nothing = 12}"], "data.mix names categories that"),
        (["recipes/none.toml", "--out", "/data/run"], "no recipe at recipes/none.toml"),
    ],
)
def test_a_users_mistake_ends_with_2_before_anything_is_sent(
    capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert submit.main(words) == 2
    assert message in capsys.readouterr().err


def test_a_recipe_outside_of_the_repository_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "toy.toml"
    recipe.write_text((ROOT / RECIPE).read_text())
    assert submit.main([str(recipe), "--out", "/data/run"]) == 2
    assert "lies outside of" in capsys.readouterr().err


def test_a_server_that_takes_the_call_and_says_nothing_is_given_up_soon(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(jobs, "CALL_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert submit.main([RECIPE, "--out", "/data/run", "--address", address]) == 2
    assert "no job server of Ray answers" in capsys.readouterr().err


def test_another_version_of_ray_is_refused(server: JobServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.ray_version = "2.40.0"
    assert send(server) == 2
    assert "runs ray 2.40.0, but this repository ray" in capsys.readouterr().err
    assert not server.jobs


def test_the_job_is_the_main_job_with_resume_and_says_what_it_is(server: JobServer) -> None:
    server.ends = [("SUCCEEDED", 0)]
    assert send(server, "--set", "data.mix={}", "--set", "run.name=my run") == 0
    [job] = server.jobs.values()
    assert job["entrypoint"] == (
        f"python -m pipelines.train {RECIPE} --out /data/run --set 'data.mix={{}}' --set 'run.name=my run' --resume"
    )
    assert {**job["metadata"], "git_revision": ""} == {
        "job_name": "my run", "run": "my run", "recipe": RECIPE, "out": "/data/run", "attempt": "1", "git_revision": "",
    }  # fmt: skip
    assert job["submission_id"].startswith("my-run-")
    assert job["submission_id"].endswith("-1")


def test_the_log_is_printed_once_though_its_connection_drops(
    server: JobServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.ends, server.drops = [("SUCCEEDED", 0)], 1
    assert send(server) == 0
    assert capsys.readouterr().out == LOG
    assert server.drops == 0


def test_a_connection_that_falls_silent_is_left_when_the_job_has_ended(
    server: JobServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(jobs, "LOOK_S", 0.1)
    server.ends, server.falls_silent = [("SUCCEEDED", 0)], True
    assert send(server) == 0
    assert capsys.readouterr().out == LOG


@pytest.mark.parametrize(
    ("ends", "code"),
    [
        ([("FAILED", None), ("FAILED", -9), ("FAILED", 1), ("SUCCEEDED", 0)], 0),
        ([("FAILED", -9), ("FAILED", 2)], 2),
        ([("FAILED", 130)], 130),
        ([("STOPPED", None)], 130),
        ([("FAILED", 1), ("FAILED", 1), ("FAILED", 1), ("FAILED", -9)], 137),
    ],
)
def test_a_failed_job_is_sent_again_unless_the_user_is_wrong_or_stopped_it(
    server: JobServer, ends: list[tuple[str, int | None]], code: int
) -> None:
    server.ends = ends
    assert send(server, "--run-id", "it") == code
    assert list(server.jobs) == [f"it-{number}" for number in range(1, len(ends) + 1)]
    assert [job["metadata"]["attempt"] for job in server.jobs.values()] == [name[3:] for name in server.jobs]


def test_a_cluster_that_has_forgotten_the_job_is_given_it_again(
    server: JobServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.ends, server.forgets = [("SUCCEEDED", 0)] * 2, True
    assert send(server, "--retries", "1") == 1
    assert len(server.jobs) == 2
    assert "must have been restarted" in capsys.readouterr().err


def test_a_server_that_breaks_for_a_while_is_waited_for(server: JobServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.ends, server.breaks = [("SUCCEEDED", 0)], 3
    assert send(server) == 0
    assert "the cluster answers again" in capsys.readouterr().err


def test_a_server_that_stays_broken_is_given_up_with_advice(
    server: JobServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(jobs, "LOST_S", 0.1)
    server.breaks = 10**9
    assert send(server) == 1
    assert "has not answered" in capsys.readouterr().err


def test_a_job_that_is_not_waited_for_is_sent_once(server: JobServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.ends = [("FAILED", 1)]
    assert send(server, "--no-wait", "--run-id", "it") == 0
    assert list(server.jobs) == ["it-1"]
    assert f"ray job logs --follow it-1 --address {server.address}" in capsys.readouterr().err


def test_ctrl_c_only_ends_the_following(server: JobServer) -> None:
    server.ends, server.falls_silent = [("RUNNING", None)], True
    command = [sys.executable, "-m", "pipelines.submit", RECIPE, "--out", "/data/run", "--run-id", "it"]
    process = subprocess.Popen(
        [*command, "--address", server.address], env=dict(os.environ), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == LOG[:4]
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "the job goes on" in said
    assert f"ray job stop it-1 --address {server.address}" in said
    assert list(server.jobs) == ["it-1"]


def test_two_jobs_never_write_to_one_place(server: JobServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.ends = [("RUNNING", None)]
    assert send(server, "--no-wait", "--run-id", "first") == 0
    assert submit.main([RECIPE, "--out", "/data/run/", "--address", server.address]) == 2
    assert "the job first-1 has not ended and writes to /data/run too" in capsys.readouterr().err


def test_an_id_is_given_once(server: JobServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.ends = [("SUCCEEDED", 0)]
    assert send(server, "--run-id", "it") == 0
    assert send(server, "--run-id", "it") == 2
    assert "there already was a job it-1" in capsys.readouterr().err
