"""The recipe of `caption`: its tables."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from actors.options import Change, Count, Share, Table
from pipelines.recipe.programs.mapping import READER, MapRecipe
from pipelines.recipe.programs.writer import WRITER, Writer
from pipelines.recipe.tables import Pool, Source, SourceOrNone

QUERY = "Describe this image in detail."


class Pictures(Table):
    """The images that get captions (docs/captioning.md)."""

    images: Annotated[Source, Change.BY_CONTENT]
    """A folder, a glob, Parquet, or a metadata.jsonl with `file_name`, at a path or a URL."""


class Captions(Table):
    """What a caption is to be, and where it goes."""

    query: str = QUERY
    """What the writer is asked of each image. Train with the same `reward.query`."""
    min_words: Annotated[int, Field(ge=0)] = 1
    """A caption with fewer words is none: the image is listed with this reason."""
    max_words: Count = 200
    """A longer caption is cut after so many words."""
    heldout_share: Share = 0.1
    """The share of captions that are held out, chosen by a hash of each."""
    apart_from: Annotated[SourceOrNone, Change.FREE] = ""
    """A prompt file whose captions are left out of the prompt set, such as that of a benchmark."""
    shard_rows: Count = 256
    """Rows of a Parquet file; what is in a whole file is never captioned again."""
    in_flight: Annotated[Count, Change.FREE] = 1024
    """Images that are held at a time, if there is room; a task has a 32nd of them, and 32 at most."""

    @model_validator(mode="after")
    def check(self) -> Self:
        """Raises ValueError for limits that no caption could keep."""
        if self.min_words > self.max_words:
            raise ValueError(
                f"captions.min_words = {self.min_words} is above captions.max_words = {self.max_words}: no caption is both"
            )
        return self


class CaptionRecipe(MapRecipe):
    """One run of `caption`, whole."""

    data: Pictures
    reader: Pool = Pool()
    writer: Writer
    captions: Captions = Captions()

    @property
    def pools(self) -> dict[str, Pool]:
        """By name: those of the readers, and of the writers."""
        return {READER: self.reader, WRITER: self.writer}
