"""What `make lint` cannot see: which heavy packages are loaded when a driver starts, and how the house is kept."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from pipelines.__main__ import PROGRAMS

ROOT = Path(__file__).resolve().parents[1]
ACTORS = sorted(".".join(path.relative_to(ROOT).with_suffix("").parts) for path in ROOT.glob("actors/*/actor.py"))


LOADED = """
import importlib, sys
for module in {modules!r}:
    importlib.import_module(module)
    if found := set(sys.modules) & {watched!r}:
        print(module, *found)
        break
"""


def loaded(modules: Iterable[str], *watched: str) -> list[str]:
    """What a fresh process, which imports one of the modules after the other, has first of the `watched` packages: (module, them)."""
    code = LOADED.format(modules=list(modules), watched=set(watched))
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return run.stdout.split()


def test_recipes_the_loop_and_the_report_load_neither_torch_nor_ray() -> None:
    modules = ("recipe.load", "engine.loop", "report", "monitoring.terminal", "doctor", "plan", "compare")
    assert loaded([f"pipelines.{name}" for name in modules], "torch", "ray", "transformers", "diffusers") == []


def test_a_driver_loads_no_torch() -> None:
    """Nor with the classes of the actors, which it names when it starts workers: a room is loaded when one is made."""
    modules = ["cluster.executors.local", "cluster.executors.on_ray", "pipelines.train", *ACTORS]
    assert loaded(modules, "torch", "transformers", "diffusers") == []


def test_a_judge_loads_no_diffusers() -> None:
    assert loaded(["actors.models.weights"], "transformers", "diffusers") == ["actors.models.weights", "transformers"]


def test_the_actors_are_found() -> None:
    assert {"actors.policy.actor", "actors.reward.actor", "actors.rollout.actor"} <= set(ACTORS)


ROOMS = sorted({path.parent for top in ("pipelines", "cluster", "actors") for path in (ROOT / top).rglob("*.py")})
MOST_MODULES = 14
OF_BENCH = {
    "tests/simcuda/device_benches.py",
    "tests/simcuda/device_ranks.py",
}  # runs the benchmarks on the simulated device


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.relative_to(ROOT).as_posix())
def test_a_room_can_be_overlooked(room: Path) -> None:
    assert len(list(room.glob("*.py"))) <= MOST_MODULES


def test_the_top_of_pipelines_holds_programs_and_nothing_else() -> None:
    modules = {f"pipelines.{path.stem}" for path in (ROOT / "pipelines").glob("*.py") if not path.stem.startswith("__")}
    assert modules == {module for module, _ in PROGRAMS.values() if module.startswith("pipelines.")}


def imported(top: str) -> Iterator[tuple[str, str]]:
    """Every import below a folder of the repository: the file, and the module that is imported."""
    for path in (ROOT / top).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            for name in names:
                yield (
                    path.relative_to(ROOT).as_posix(),
                    f"{node.module}.{name}" if isinstance(node, ast.ImportFrom) else name,
                )


def test_tests_and_benchmarks_share_tests_support_alone() -> None:
    """Neither stands on the other."""
    foreign = [found for found in imported("bench") if found[1].startswith("tests.")]
    assert [found for found in foreign if not found[1].startswith("tests.support.")] == []
    of_bench = [file for file, module in imported("tests") if module.startswith("bench.")]
    assert [file for file in of_bench if not file.startswith("tests/bench/") and file not in OF_BENCH] == []


@pytest.mark.parametrize("file", sorted((ROOT / "pipelines/engine").glob("*.py")), ids=lambda file: file.name)
def test_the_engine_knows_no_program(file: Path) -> None:
    """What is peculiar to one is its `Work`: the engine has none of its words, nor imports any of its actors."""
    text = file.read_text().lower()
    assert [word for word in ("reward", "image", "latents", "caption") if word in text] == []
    assert "from actors" not in text


@pytest.mark.parametrize("program", sorted((ROOT / "pipelines").glob("*.py")), ids=lambda path: path.stem)
def test_a_program_can_be_read_at_once(program: Path) -> None:
    assert len(program.read_text().splitlines()) <= 200


def test_the_driver_can_be_read_at_once() -> None:
    assert len((ROOT / "pipelines/engine/driver.py").read_text().splitlines()) <= 220
