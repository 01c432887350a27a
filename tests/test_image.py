"""The Dockerfile agrees with the manifest and pyproject.toml, and copies what a job needs."""

from __future__ import annotations

import ast
import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from pipelines.submitting.manifest.entrypoint import IN_IMAGE
from pipelines.submitting.package import list_files

ROOT = Path(__file__).resolve().parents[1]
MANIFEST = yaml.safe_load((ROOT / "ray_job.yaml").read_text())


def test_versions_agree_in_all_places() -> None:
    image = re.search(r"^FROM rayproject/ray:([0-9.]+)-py311-gpu", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert image
    assert image[1] == version("ray") == MANIFEST["spec"]["rayClusterSpec"]["rayVersion"]
    [pinned] = [
        line
        for line in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
        if line.startswith("ray")
    ]
    major, minor, _ = image[1].split(".")
    assert f">={major}.{minor}," in pinned


def test_the_image_holds_what_a_job_needs() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    copied = [word for line in lines if line.startswith("COPY ") for word in line.split()[1:-1]]
    assert all((ROOT / name).exists() for name in copied)
    assert {name for name in copied if (ROOT / name).is_dir()} == set(IN_IMAGE)
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert let_in == set(copied)


def test_what_measures_a_gpu_travels_with_all_that_it_imports() -> None:
    """In the image and in a job's working folder: there are the GPUs."""
    imported = {
        name.partition(".")[0]
        for file in (ROOT / "bench").glob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        for name in _modules(node)
    }
    own = {name for name in imported if (ROOT / name).is_dir()}
    assert {"actors", "bench"} <= own <= set(IN_IMAGE)
    assert own <= {file.partition("/")[0] for file in list_files()}


def _modules(node: ast.AST) -> list[str]:
    if isinstance(node, ast.ImportFrom):
        return [node.module or ""]
    return [alias.name for alias in node.names] if isinstance(node, ast.Import) else []


def test_every_dependency_has_its_exact_version_within_the_range_that_may_be_installed() -> None:
    """Names and versions only: where they come from is the machine's matter."""
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pins = {canonicalize_name(Requirement(line).name): Requirement(line) for line in lines}
    assert all(re.fullmatch(r"[\w.-]+==[\w.!]+", line) for line in lines)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = map(Requirement, [*project["dependencies"], *project["optional-dependencies"]["dev"]])
    outside = [
        one for one in wanted if not one.specifier.contains(str(pins[canonicalize_name(one.name)].specifier)[2:])
    ]
    assert outside == []
