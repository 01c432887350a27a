"""Which workers `score` needs: readers, and a pool for each reward."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from actors.messages import ScoreTrial
from actors.reward.actor import RewardActor
from cluster.tasks import PoolSpec
from pipelines.data.images import ImageRow
from pipelines.recipe.programs.score import ScoreRecipe
from pipelines.recipe.reward import by_pool
from pipelines.running.reading import first_size, reader_pool
from pipelines.running.workers import pool_of

MakePools = Callable[[ScoreRecipe, Sequence[ImageRow]], list[PoolSpec]]


def pool_specs(recipe: ScoreRecipe, rows: Sequence[ImageRow]) -> list[PoolSpec]:
    """The pools. Every reward scores a grey image of the set's size when it starts."""
    size = first_size(rows)
    trial = ScoreTrial(*size) if size else None
    rewards = [
        pool_of(pool, RewardActor, recipe.run, table, {"options": table.options, "trial": trial, "pool": pool})
        for pool, table in by_pool(recipe.reward).items()
    ]
    return [reader_pool(recipe.reader), *rewards]
