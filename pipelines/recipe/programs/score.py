"""The recipe of `score`: its tables."""

from __future__ import annotations

from typing import Annotated

from actors.options import Change, Count, Table
from pipelines.recipe.programs.mapping import READER, MapRecipe
from pipelines.recipe.reward import Rewards, apart_from, by_pool
from pipelines.recipe.tables import Pool, Source

COLUMNS = ("row", "file_name", "caption", "reason")  # of scores/*.parquet, beside those of the rewards


class Images(Table):
    """The images that are scored, with their captions (docs/scoring.md)."""

    images: Annotated[Source, Change.BY_CONTENT]
    """A folder, a glob, Parquet, or a metadata.jsonl with `file_name` and `caption`, at a path or a URL."""
    caption: Annotated[str, Change.FREE] = ""
    """The field that holds the caption; empty: `caption`, or another common name."""


class Scores(Table):
    """What is kept of each image."""

    tokens: bool = False
    """Whether to keep how likely each token of the caption is, from rewards that can say it."""
    shard_rows: Count = 256
    """Rows of a Parquet file; what is in a whole file is never scored again."""
    in_flight: Annotated[Count, Change.FREE] = 1024
    """Images that are held at a time, if there is room; a task has a 32nd of them, and 32 at most."""


class ScoreRecipe(MapRecipe):
    """One run of `score`, whole."""

    data: Images
    reader: Pool = Pool()
    reward: Annotated[Rewards, apart_from(COLUMNS)]
    scores: Scores = Scores()

    @property
    def pools(self) -> dict[str, Pool]:
        """By name: those of the readers, and of the rewards."""
        return {READER: self.reader, **by_pool(self.reward)}
