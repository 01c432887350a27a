"""Which workers `score` needs: readers, and a pool for each reward."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from actors.messages import ScoreTrial
from actors.reward.actor import RewardActor
from cluster.storage.files import StorageError
from cluster.tasks import PoolSpec
from pipelines.data.image_files import read_image
from pipelines.data.images import ImageRow
from pipelines.recipe.programs.score import READER, ScoreRecipe
from pipelines.recipe.reward import by_pool
from pipelines.running.workers import pool_of, resources_of
from pipelines.scoring.reader import ImageReader

MakePools = Callable[[ScoreRecipe, Sequence[ImageRow]], list[PoolSpec]]
TRIED = 20  # rows, of which the first that can be read tells the size of the others


def pool_specs(recipe: ScoreRecipe, rows: Sequence[ImageRow]) -> list[PoolSpec]:
    """The pools. Every reward scores a grey image of the set's size when it starts."""
    reader, trial = recipe.reader, trial_of(rows)
    readers = PoolSpec(
        READER, ImageReader, {}, reader.size, min_size=reader.min, max_size=reader.max, **resources_of(reader)
    )
    rewards = [
        pool_of(pool, RewardActor, recipe.run, table, {"options": table.options, "trial": trial, "pool": pool})
        for pool, table in by_pool(recipe.reward).items()
    ]
    return [readers, *rewards]


def trial_of(rows: Sequence[ImageRow]) -> ScoreTrial | None:
    """An image of the size of the first one that can be read; None if none of the first ones can."""
    for row in rows[:TRIED]:
        try:
            height, width, _ = read_image(row).shape
        except (ValueError, StorageError):
            continue
        return ScoreTrial(height, width)
    return None
