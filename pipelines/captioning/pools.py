"""Which workers `caption` needs: readers and writers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from actors.messages import WriteTrial
from actors.writer.actor import WriterActor
from cluster.tasks import PoolSpec
from pipelines.data.images import ImageRow
from pipelines.recipe.programs.caption import CaptionRecipe
from pipelines.recipe.programs.writer import WRITER
from pipelines.running.reading import first_size, reader_pool
from pipelines.running.workers import pool_of

MakePools = Callable[[CaptionRecipe, Sequence[ImageRow]], list[PoolSpec]]


def pool_specs(recipe: CaptionRecipe, rows: Sequence[ImageRow]) -> list[PoolSpec]:
    """The pools. Every writer describes a grey image of the set's size when it starts."""
    size = first_size(rows)
    trial = WriteTrial(*size, query=recipe.captions.query) if size else None
    said = {"options": recipe.writer.options, "trial": trial, "pool": WRITER}
    return [reader_pool(recipe.reader), pool_of(WRITER, WriterActor, recipe.run, recipe.writer, said)]
