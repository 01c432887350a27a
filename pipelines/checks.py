"""What is found wrong before any worker starts: a model that is not there, held-out prompts that are trained on, no checker."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

from actors.messages import Prompt
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


def check_heldout(train: Sequence[Prompt], heldout: Sequence[Prompt], recipe: Recipe) -> None:
    """Raises UserError if a held-out caption is also trained on, or if the checker cannot be found."""
    trained = {prompt.caption for prompt in train}
    shared = [prompt.caption for prompt in heldout if prompt.caption in trained]
    if shared:
        raise UserError(
            f"{len(shared)} captions of data.heldout are also in data.train, the first is {shared[0][:80]!r}: "
            "they would not be held out; remove them from one of the files"
        )
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
