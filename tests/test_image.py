"""The Dockerfile agrees with the manifest and pyproject.toml, and copies what a job needs."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import yaml

from pipelines.manifest.entrypoint import IN_IMAGE

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
