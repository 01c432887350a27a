"""The start-up check: this repository's packages are found, and an intruder is named."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.config import UserError
from pipelines.startup import ROOT, check_packages


def test_the_packages_of_the_repository_pass() -> None:
    assert (ROOT / "pyproject.toml").is_file()
    check_packages()


def test_an_intruder_is_named(tmp_path: Path) -> None:
    intruder = tmp_path / "elsewhere" / "actors"
    intruder.mkdir(parents=True)
    (intruder / "__init__.py").write_text("")
    code = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
import pipelines.startup
sys.path.insert(0, {str(intruder.parent)!r})
pipelines.startup.check_packages()
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 1
    error = result.stderr.splitlines()[-1]
    assert str(intruder) in error
    assert f"own is {ROOT / 'actors'}" in error
    assert f"take {intruder.parent} out of PYTHONPATH" in error


def test_a_package_that_is_not_found_says_where_to_start() -> None:
    with pytest.raises(UserError, match=r"'no_such_package' is not found. Start EchoRay from its root"):
        check_packages(packages=["no_such_package"])


def test_a_module_of_the_same_name_is_an_intruder() -> None:
    with pytest.raises(UserError, match="'json' is found at"):
        check_packages(packages=["json"])
