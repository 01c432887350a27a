"""Before the first row is scored: what the recipe names is looked at."""

from __future__ import annotations

from collections.abc import Sequence
from os.path import isfile, join
from pathlib import Path

from actors.models.folder import CHECKS
from actors.models.path import MARKERS, check_model
from pipelines.data.images import ImageRow, sha256_of
from pipelines.recipe.errors import UserError
from pipelines.recipe.programs.score import ScoreRecipe

IMAGES = "images.json"


def check_models(recipe: ScoreRecipe) -> None:
    """Raises UserError for a model that no worker could load."""
    for table in recipe.rewards.values():
        options = table.options
        for key, kind in options.models.items():
            model = getattr(options, key)
            try:
                check_model(model, MARKERS[kind])
                if isfile(join(model, MARKERS[kind])):
                    CHECKS[kind](Path(model))
            except ValueError as error:
                raise UserError(f"reward.{key} = {model!r}: {error}") from None


def inputs_of(rows: Sequence[ImageRow]) -> dict[str, str]:
    """What a run that goes on must find as it was."""
    return {"data.images": f"{len(rows)} rows with names and captions of sha256 {sha256_of(rows)[:16]}"}
