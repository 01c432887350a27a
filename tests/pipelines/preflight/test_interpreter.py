"""A Python that cannot run the programs is told in a sentence, before anything is loaded that would break in it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from pipelines.preflight import interpreter
from pipelines.preflight.packages import ROOT

PROGRAMS = ("train", "doctor", "plan", "report", "submit")


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize(
    ("options", "variables", "said"),
    [
        (["-O"], {}, "started with -O or PYTHONOPTIMIZE"),
        (["-OO"], {}, "started with -O or PYTHONOPTIMIZE"),
        ([], {"PYTHONOPTIMIZE": "2"}, "started with -O or PYTHONOPTIMIZE"),
        (["-S"], {}, "does not find numpy, pydantic, rich; -S hides them"),
    ],
)
def test_an_odd_python_is_told_in_a_sentence(
    program: str, options: list[str], variables: dict[str, str], said: str
) -> None:
    command = [sys.executable, *options, "-m", f"pipelines.{program}", "recipes/toy.toml"]
    environment = {**os.environ, **variables}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error ")
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_an_old_python_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert interpreter.problem() is None
    monkeypatch.setattr(interpreter, "OLDEST", (4, 0))
    assert "is too old: EchoRay needs Python 4.0" in str(interpreter.problem())
