"""What must never stand in the tree: code of a model's own, unpickling, and packages of a name that is not ours."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
UNPICKLES = {
    "pickle.load",
    "torch.load",
    "joblib.load",
    "dill.load",
    "cloudpickle.load",
    "cloudpickle.loads",
    "numpy.load",
    "np.load",
}
OWN_BYTES = {"pickle.loads": {"cluster/executors/local.py"}}  # what the same process has pickled


def tracked(*patterns: str) -> list[Path]:
    listed = subprocess.run(["git", "ls-files", *patterns], cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / name for name in listed.stdout.splitlines()]


def calls() -> Iterator[tuple[str, ast.Call]]:
    """Every call in the code that ships, with its file."""
    for path in tracked("actors/*.py", "cluster/*.py", "pipelines/*.py", "toy/*.py", "bench/*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                yield path.relative_to(ROOT).as_posix(), node


def test_no_call_runs_a_models_own_code() -> None:
    assert not [
        (file, call.lineno)
        for file, call in calls()
        if any(keyword.arg == "trust_remote_code" for keyword in call.keywords)
    ]


def test_nothing_that_comes_from_outside_is_unpickled() -> None:
    found = [(file, ast.unparse(call.func)) for file, call in calls()]
    assert not [(file, name) for file, name in found if name in UNPICKLES]
    assert not [(file, name) for file, name in found if name in OWN_BYTES and file not in OWN_BYTES[name]]


def test_nobody_is_told_to_install_a_package_of_our_name_from_an_index() -> None:
    """Whoever takes the name there would be run."""
    found = [
        (path.name, line.strip())
        for path in tracked("*.md", "*.py", "*.toml", "*.yaml", "Makefile", "Dockerfile")
        for line in path.read_text().splitlines()
        if re.search(r"\b(pip|pipx|uv|uvx|conda|poetry)\b.{0,20}\b(install|add|run)\s+(-\S+\s+)*['\"]?echoray\b", line)
    ]
    assert found == []
