"""What is found wrong before any worker starts: a model or LoRA that is not there, a checker that cannot be found."""

from __future__ import annotations

import importlib.util

from actors.diffusion.adapter_file import AdapterFile, find_adapter
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


def init_adapter(recipe: Recipe) -> AdapterFile | None:
    """The LoRA that policy.init_adapter names. Raises UserError if there is none, or if it says itself that it does not fit."""
    policy = recipe.policy
    if not policy.init_adapter:
        return None
    key = f"policy.init_adapter = {policy.init_adapter!r}"
    try:
        found = find_adapter(policy.init_adapter)
    except ValueError as error:
        raise UserError(f"{key}: {error}") from None
    wanted = {"policy.lora_rank": (found.rank, policy.lora_rank), "policy.lora_alpha": (found.alpha, policy.lora_alpha)}
    wrong = [f"{name} = {its}" for name, (its, ours) in wanted.items() if its not in (None, ours)]
    if wrong:
        raise UserError(f"{key}: {found.path} does not fit the recipe: set {', '.join(wrong)}")
    return found


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
