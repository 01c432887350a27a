"""The recipe of `evaluate`: its tables."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from actors.diffusion.options import ImageModelOptions
from actors.families.registry import ImageFamily
from actors.options import Change, Count, Table
from pipelines.recipe.programs.mapping import MapRecipe
from pipelines.recipe.reward import Rewards, apart_from, by_pool
from pipelines.recipe.tables import EACH_ONCE, HeldoutDraws, Pool, Source, SourceOrNone

CHECKER = "checker"
COLUMNS = (
    *("row", "model", "guidance", "height", "width", "seed", "sample", "prompt_id", "category", "caption"),
    *("checks", "reason"),
)  # of judged/*.parquet, beside those of the rewards


def _word(name: str) -> str:
    if not re.fullmatch(r"\w[\w.+-]*", name):
        raise PydanticCustomError(
            "word", "a model's name has letters, digits and . _ + - alone, and begins with none of the last"
        )
    return name


Models = Annotated[dict[Annotated[str, AfterValidator(_word)], Source], Field(min_length=1)]


class Prompts(Table):
    """The held-out prompts (docs/data.md)."""

    heldout: Annotated[Source, Change.BY_CONTENT]
    """A file or a folder of Parquet files, at a path or a URL."""
    caption: Annotated[str, Change.FREE] = ""
    """The field that holds the caption; empty: `caption`, or another common name."""


class Drawing(Pool, ImageModelOptions):
    """The workers that draw: a pool of this size for each base."""

    base: SourceOrNone = ""
    """The model that LoRAs and checkpoints are put on; empty: the one that each names."""
    family: ImageFamily | None = None
    """A family of your own that reads every base, as `package.module:Name`; none: that of the run, or of its pipeline."""
    max_sequence_length: Annotated[int, Field(ge=0)] | None = None
    """Tokens of a caption that are read; none given: as many as the runs were trained with, else 256."""


class Evaluation(HeldoutDraws):
    """What every model draws, and how often."""

    seeds: Annotated[tuple[int, ...], Field(min_length=1), EACH_ONCE] = (0,)
    """Of starting noise; each draws all the images once more. A run's own evaluations have its run.seed."""
    sizes: Annotated[tuple[tuple[Count, Count], ...], Field(min_length=1), EACH_ONCE] = ((512, 512),)
    """Height and width in pixels."""
    shard_images: Count = 64
    """Images of a Parquet file, in whole groups; what is in a whole file is never drawn or judged again."""
    in_flight: Annotated[Count, Change.FREE] = 64
    """Groups that are held at a time."""


class EvaluateRecipe(MapRecipe):
    """One run of `evaluate`, whole."""

    models: Models
    data: Prompts
    rollout: Drawing = Drawing()
    reward: Annotated[Rewards, apart_from(COLUMNS)]
    checker: Pool = Pool()
    heldout: Evaluation = Evaluation()

    @property
    def judges(self) -> dict[str, Pool]:
        """The pools that look at every image, by name: one for each reward, and that of the checker if there is one."""
        return {**by_pool(self.reward), **({CHECKER: self.checker} if self.heldout.checker else {})}
