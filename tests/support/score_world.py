"""`score` without models: a small set of pictures, and the program with judges in plain numpy."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from actors.messages import Prompt, Verdict
from cluster.tasks import PoolSpec
from pipelines.data.images import ImageRow
from pipelines.recipe.programs.mapping import READER
from pipelines.recipe.programs.score import ScoreRecipe
from pipelines.recipe.reward import by_pool
from pipelines.score import program
from pipelines.scoring.pools import pool_specs
from tests.support.plain_world import PlainReward

ROWS = 23
MISSING, BROKEN, GREEN = 5, 11, 3  # rows without a file, with half of one, and with a word that the judge does not know
ONE = """[reward]
model = "plain/deaf-to-green"
"""
RECIPE = """
[data]
images = "{folder}/pictures"
{rewards}
[scores]
tokens = true
shard_rows = 4
in_flight = 64
"""


def make_score_world(folder: Path, rewards: str = ONE) -> Path:
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
    recipe.write_text(RECIPE.format(folder=folder, rewards=rewards))
    return recipe


@dataclass
class NotingReward(PlainReward):
    """Notes the caption of each image that it judges in the file `log`, a line each."""

    log: Path = Path()

    def judge(self, prompt: Prompt, image_KHWC: np.ndarray, tokens: bool) -> Verdict:
        with self.log.open("a") as file:
            file.write(f"{prompt.caption}\n")
        return super().judge(prompt, image_KHWC, tokens)


def main_with(judge: type[PlainReward], **more: object) -> Callable[..., int]:
    """The program with such judges; places, sizes and limits are the recipe's."""

    def pools(recipe: ScoreRecipe, rows: Sequence[ImageRow]) -> list[PoolSpec]:
        judged = {pool: {"model": table.judge, **more} for pool, table in by_pool(recipe.reward).items()}
        specs = pool_specs(recipe, rows)
        return [spec if spec.name == READER else replace(spec, actor=judge, kwargs=judged[spec.name]) for spec in specs]

    return program(pools)


main = main_with(PlainReward)
