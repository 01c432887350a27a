"""What is said where no Ray can be joined or started, and what workers find in their environment."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from cluster import connect
from cluster.connect import ROOT, worker_env
from cluster.executors.on_ray import PoolSpec, RayExecutor, Task
from cluster.joining.address import CannotJoin, check_address, lets_in
from cluster.joining.machine import CannotStart
from cluster.joining.token import MODE, PATH, VALUE
from tests.cluster.helpers import run
from tests.cluster.plain_actors import Plain
from tests.support.faults_world import without_ray
from tests.support.plain_run import main as train


def test_workers_import_from_the_repository_first() -> None:
    env = worker_env({"PYTHONPATH": os.pathsep.join(["/elsewhere", str(ROOT), ""])})
    assert env["PYTHONPATH"] == os.pathsep.join([str(ROOT), "/elsewhere"])
    assert worker_env({})["PYTHONPATH"] == str(ROOT)
    assert (ROOT / "cluster" / "connect.py").exists()


def test_the_number_of_threads_is_one_unless_the_user_says_otherwise() -> None:
    assert worker_env({})["OMP_NUM_THREADS"] == "1"
    assert worker_env({"OMP_NUM_THREADS": "4"})["OMP_NUM_THREADS"] == "4"


def test_torch_fills_the_gaps_of_a_gpus_memory_unless_the_user_says_otherwise() -> None:
    assert worker_env({})["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"
    assert worker_env({"PYTORCH_ALLOC_CONF": "backend:native"})["PYTORCH_ALLOC_CONF"] == "backend:native"


def test_ray_is_to_start_no_workers_ahead_unless_the_user_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    ahead = "RAY_prestart_worker_first_driver"
    monkeypatch.setenv(ahead, "1")
    connect.set_defaults()
    assert os.environ[ahead] == "1"
    monkeypatch.delenv(ahead)
    connect.set_defaults()
    assert os.environ[ahead] == "0"


def test_a_worker_that_asks_for_no_gpu_sees_none_and_one_that_asks_sees_its_own(
    ray_cluster: str, unreachable: None
) -> None:
    pools = [PoolSpec("none", Plain, num_cpus=0), PoolSpec("one", Plain, size=2, num_cpus=0, num_gpus=1)]
    executor = RayExecutor(pools, run="gpus")
    try:
        executor.start()
        seen = run(executor, *(Task(pool, "gpus", number) for number, pool in enumerate(["none", "one", "one"])))
        assert sorted(outcome.value for outcome in seen) == ["", "0", "1"]
    finally:
        executor.close()


@pytest.mark.parametrize(
    ("address", "advice"),
    [
        ("127.0.0.1:1", "check that its head runs"),
        ("no-such-host.invalid:6379", "no-such-host.invalid is not known here"),
        ("http://127.0.0.1:8265", "python -m pipelines.submit --address http://127.0.0.1:8265"),
        ("garbage", "give HOST:PORT"),
        ("127.0.0.1:99999", "give HOST:PORT"),
        (":6379", "give HOST:PORT"),
        ("ray://", "give HOST:PORT"),
        ("file:///run", "give HOST:PORT"),
    ],
)
def test_an_address_at_which_no_cluster_can_be_is_refused_with_what_to_do(address: str, advice: str) -> None:
    with pytest.raises(CannotJoin, match="RAY_ADDRESS") as refused:
        check_address(address, "RAY_ADDRESS")
    assert address in str(refused.value)
    assert advice in str(refused.value)


def test_what_listens_and_is_no_cluster_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.joining.address.ASK_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        check_address(address, "RAY_ADDRESS")
        with pytest.raises(CannotJoin, match=f"something answers at {address} .RAY_ADDRESS.*no Ray cluster"):
            lets_in(address, "RAY_ADDRESS")


def test_a_cluster_of_another_ray_is_not_joined(ray_cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    token = Path(os.environ["RAY_AUTH_TOKEN_PATH"]).read_text()
    assert lets_in(ray_cluster, "RAY_ADDRESS", token)
    assert not lets_in(ray_cluster, "RAY_ADDRESS", "another")
    assert not lets_in(ray_cluster, "RAY_ADDRESS")
    monkeypatch.setattr("ray.__version__", "2.0.0")
    with pytest.raises(CannotJoin, match=r"runs Ray 2\.60.* but here is Ray 2\.0\.0"):
        lets_in(ray_cluster, "RAY_ADDRESS", token)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("TMPDIR", f"/tmp/{'slurm' * 16}", "RAY_TMPDIR"),
        ("RAY_ADDRESS", "127.0.0.1:1", "RAY_ADDRESS"),
        ("RAY_ADDRESS", "http://127.0.0.1:18265", "pipelines.submit"),
    ],
)
def test_a_run_that_cannot_have_a_ray_ends_at_once_as_a_users_mistake(
    plain_world: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    value: str,
    said: str,
) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: False)  # as in a process that has joined none
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv(name, value)
    assert train([str(plain_world), "--out", str(tmp_path / "run")]) == 2
    assert said in capsys.readouterr().err


def test_so_does_one_in_a_process_that_may_open_few_files(plain_world: Path, tmp_path: Path) -> None:
    train = f"{sys.executable} -m tests.support.plain_run {plain_world} --out {tmp_path / 'run'}"
    done = subprocess.run(
        ["bash", "-c", f"ulimit -n 256; {train}"], cwd=ROOT, env=without_ray(), capture_output=True, text=True
    )
    assert done.returncode == 2, done.stderr
    assert "ulimit -n" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("name", "said"), [("absent", "cannot be read"), ("empty", "is empty")])
def test_a_token_file_that_gives_none_is_told_before_ray_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, said: str
) -> None:
    (tmp_path / "empty").touch()
    monkeypatch.delenv(VALUE, raising=False)
    monkeypatch.setenv(MODE, "token")
    monkeypatch.setenv(PATH, str(tmp_path / name))
    with pytest.raises(CannotStart, match=said):
        connect._guard(None)
