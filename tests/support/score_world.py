"""`score` without models: a small set of pictures, and the program with judges in plain numpy."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from cluster.tasks import PoolSpec
from pipelines.data.images import ImageRow
from pipelines.recipe.programs.score import READER, ScoreRecipe
from pipelines.score import program
from pipelines.scoring.pools import pool_specs
from tests.support.plain_world import PlainReward

ROWS = 23
MISSING, BROKEN, GREEN = 5, 11, 3  # rows without a file, with half of one, and with a word that the judge does not know
RECIPE = """
[data]
images = "{folder}/pictures"
[reward]
model = "plain/deaf-to-green"
[scores]
tokens = true
shard_rows = 4
in_flight = 8
"""


def make_score_world(folder: Path) -> Path:
    """Pictures with captions, three of which cannot be scored, and a recipe; returns the recipe's path."""
    pictures = folder / "pictures"
    pictures.mkdir()
    lines = []
    for row in range(ROWS):
        caption = f"a {'green' if row == GREEN else 'red'} square number {row}"
        lines.append({"file_name": f"{row}.png", "caption": caption})
        if row != MISSING:
            Image.fromarray(np.full((8, 8, 3), 9 * row, np.uint8)).save(pictures / f"{row}.png")
    broken = pictures / f"{BROKEN}.png"
    broken.write_bytes(broken.read_bytes()[:40])
    (pictures / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    recipe = folder / "recipe.toml"
    recipe.write_text(RECIPE.format(folder=folder))
    return recipe


def plain_pools(recipe: ScoreRecipe, rows: Sequence[ImageRow]) -> list[PoolSpec]:
    """The pools of a run with plain judges; places, sizes and limits are the recipe's."""
    judge = {"model": recipe.reward.judge}
    return [
        spec if spec.name == READER else replace(spec, actor=PlainReward, kwargs=judge)
        for spec in pool_specs(recipe, rows)
    ]


main = program(plain_pools)
