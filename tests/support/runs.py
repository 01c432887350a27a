"""Whole runs as tests ask for them, with actors of their own where need be, and the records that runs leave."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from actors.messages import Prompt
from cluster.tasks import PoolSpec
from pipelines.recipe.training import Recipe
from pipelines.train import main, program
from pipelines.training.pools import MakePools, pool_specs


def overrides(**values: object) -> list[str]:
    """`--set` for each value; two underscores in a name stand for a dot."""
    return [word for key, value in values.items() for word in ("--set", f"{key.replace('__', '.')}={value}")]


def main_with(pool: str, actor: type, pools: MakePools = pool_specs) -> Callable[..., int]:
    """The main job with another actor in one of its pools."""

    def changed(recipe: Recipe, example: Prompt | None) -> list[PoolSpec]:
        return [replace(spec, actor=actor) if spec.name == pool else spec for spec in pools(recipe, example)]

    return program(changed)


def train(
    recipe: Path, out: Path, *options: str, code: int = 0, program: Callable[[list[str]], int] = main
) -> dict[str, Any]:
    """A run that ends with this exit code; its summary if that is 0. `program`: what runs it in the main job's place."""
    assert program([str(recipe), "--out", str(out), "--executor", "local", *options]) == code
    return json.loads((out / "summary.json").read_text()) if code == 0 else {}


def lines_of(path: Path) -> list[dict[str, Any]]:
    """The records of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text().splitlines()]
