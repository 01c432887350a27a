"""The start-up check: this repository's packages are found, and an intruder is named before anything of it is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.preflight.packages import ROOT, problem


def test_the_packages_of_the_repository_pass() -> None:
    assert (ROOT / "pyproject.toml").is_file()
    assert problem() is None


@pytest.mark.parametrize("name", ["actors", "cluster"])
def test_an_intruder_is_named(tmp_path: Path, name: str) -> None:
    intruder = tmp_path / "elsewhere" / name
    intruder.mkdir(parents=True)
    (intruder / "__init__.py").write_text("")
    code = f"import sys; sys.path[1:1] = [{str(intruder.parent)!r}]; sys.path.append({str(ROOT)!r}); import pipelines.train"
    environment = {**os.environ, "PYTHONPATH": ""}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 2
    (said,) = done.stderr.splitlines()
    assert said.startswith(f"error The package {name!r} is found at {intruder}, but EchoRay's own is {ROOT / name}.")
    assert said.endswith(f"take {intruder.parent} out of PYTHONPATH or uninstall it")


def test_a_package_that_is_not_found_says_where_to_start() -> None:
    assert "'no_such_package' is not found. Start EchoRay from its root" in str(problem(packages=["no_such_package"]))


def test_a_module_of_the_same_name_is_an_intruder() -> None:
    assert "'json' is found at" in str(problem(packages=["json"]))
