"""What `make lint` cannot see: which heavy packages are loaded when a driver starts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ACTORS = sorted(".".join(path.relative_to(ROOT).with_suffix("").parts) for path in ROOT.glob("actors/*/actor.py"))


def loaded(module: str, *watched: str) -> set[str]:
    """Which of the `watched` packages a fresh process has loaded after it imported `module`."""
    code = f"import {module}, sys; print(*(set(sys.modules) & {set(watched)!r}))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(run.stdout.split())


@pytest.mark.parametrize(
    "module",
    [
        "pipelines.config",
        "pipelines.loop",
        "pipelines.report",
        "pipelines.display",
        "pipelines.doctor",
        "pipelines.plan",
    ],
)
def test_recipes_the_loop_and_the_report_load_neither_torch_nor_ray(module: str) -> None:
    assert loaded(module, "torch", "ray", "transformers", "diffusers") == set()


@pytest.mark.parametrize("module", ["pipelines.train", "cluster.executor", "cluster.local", *ACTORS])
def test_a_driver_loads_no_torch(module: str) -> None:
    """Nor with the classes of the actors, which it names when it starts workers: a room is loaded when one is made."""
    assert loaded(module, "torch", "transformers", "diffusers") == set()


def test_a_judge_loads_no_diffusers() -> None:
    assert loaded("actors.model_weights", "transformers", "diffusers") == {"transformers"}


def test_the_actors_are_found() -> None:
    assert {"actors.policy.actor", "actors.reward.actor", "actors.rollout.actor"} <= set(ACTORS)
