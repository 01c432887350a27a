"""The images of `score`, found before any worker starts."""

from __future__ import annotations

from pipelines.data.images import ImageRow, find_images
from pipelines.preflight.checks import check_judges
from pipelines.recipe.programs.score import ScoreRecipe
from pipelines.recipe.reward import by_pool


def rows_of(recipe: ScoreRecipe) -> list[ImageRow]:
    """The rows of the set. Raises UserError if they, or a reward's models, cannot be used."""
    check_judges(recipe, by_pool(recipe.reward))
    return find_images(recipe.data.images, recipe.data.caption)
