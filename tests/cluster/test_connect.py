"""What workers find in their environment."""

from __future__ import annotations

import os

from cluster.connect import ROOT, worker_env


def test_workers_import_from_the_repository_first() -> None:
    env = worker_env({"PYTHONPATH": os.pathsep.join(["/elsewhere", str(ROOT), ""])})
    assert env["PYTHONPATH"] == os.pathsep.join([str(ROOT), "/elsewhere"])
    assert worker_env({})["PYTHONPATH"] == str(ROOT)
    assert (ROOT / "cluster" / "connect.py").exists()


def test_the_number_of_threads_is_one_unless_the_user_says_otherwise() -> None:
    assert worker_env({})["OMP_NUM_THREADS"] == "1"
    assert worker_env({"OMP_NUM_THREADS": "4"})["OMP_NUM_THREADS"] == "4"
