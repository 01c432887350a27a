"""What is found wrong before any worker starts: a model that is not there, a checker that cannot be found."""

from __future__ import annotations

import importlib.util

from actors.model_path import check_model
from pipelines.config import Recipe, UserError


def check_models(recipe: Recipe) -> None:
    """Raises UserError for a model path without a model."""
    for key, model, marker in (
        ("policy.model", recipe.policy.model, "model_index.json"),
        ("reward.model", recipe.reward.model, "config.json"),
    ):
        try:
            check_model(model, marker)
        except ValueError as error:
            raise UserError(f"{key} = {model!r}: {error}") from None


def check_checker(recipe: Recipe) -> None:
    """Raises UserError if the recipe's checker cannot be found."""
    if recipe.heldout.checker:
        module, _, function = recipe.heldout.checker.partition(":")
        try:
            found = importlib.util.find_spec(module)
        except ModuleNotFoundError:
            found = None
        if not function or found is None:
            raise UserError(
                f'heldout.checker = {recipe.heldout.checker!r}: give "module:function", such as "toy.checker:check"'
            )
