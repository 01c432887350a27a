"""What a recipe may name is what is registered, and each of its keys reaches what it is for."""

from __future__ import annotations

import inspect
import pkgutil
from typing import get_args

from actors.policy.objectives.awm_options import AwmOptions
from actors.policy.objectives.objective import load_objective
from actors.policy.objectives.registry import OBJECTIVES
from actors.reward.reward import REWARDS
from pipelines.recipe.tables import Pool, Reward
from pipelines.recipe.training import Recipe


def types_of(table) -> set[str]:
    return set(get_args(table.model_fields["type"].annotation))


def test_a_recipe_can_name_every_reward_and_no_other():
    assert types_of(Reward) == set(REWARDS)
    for name, path in REWARDS.items():
        parameters = set(inspect.signature(pkgutil.resolve_name(path)).parameters)
        assert parameters | {"type"} == set(Reward.model_fields) - set(Pool.model_fields), name


def test_a_recipe_can_name_every_objective_and_no_other():
    for name, options in OBJECTIVES.items():
        assert types_of(options) == {name}
        assert load_objective(options()).drawn_by in {"trained", "ema"}
    assert load_objective(AwmOptions(kl_ema=0.5)).ema_used


def test_every_objective_and_reward_has_a_page(request):
    docs = request.config.rootpath / "docs"
    assert {path.stem for path in (docs / "objectives").glob("*.md")} - {"README"} == set(OBJECTIVES)
    assert {path.stem for path in (docs / "rewards").glob("*.md")} == set(REWARDS)


def test_defaults_of_a_reward_are_the_recipes():
    fields = {
        name: field.default
        for name, field in Reward.model_fields.items()
        if name not in {"type", "model", *Pool.model_fields}
    }
    parameters = inspect.signature(pkgutil.resolve_name(REWARDS["promptecho"])).parameters
    assert fields == {name: parameter.default for name, parameter in parameters.items() if name != "model"}
    assert Recipe.model_fields["objective"].default == AwmOptions()
