"""What a recipe may name is what is registered, and each of its keys reaches what it is for."""

from __future__ import annotations

import pytest

from actors.policy.objectives.awm_options import AwmOptions
from actors.policy.objectives.objective import load_objective
from actors.policy.objectives.registry import OBJECTIVES
from actors.reward.kinds.registry import REWARDS
from pipelines.recipe.reward import table_of
from pipelines.recipe.tables import Pool
from pipelines.recipe.training import Recipe

MODEL = {"model": "a/model", "head": "a/file.safetensors", "base_url": "http://127.0.0.1:8000/v1"}


@pytest.mark.parametrize("name", sorted(REWARDS))
def test_a_recipe_can_name_every_reward_and_its_worker_is_told_all_but_the_pools_keys(name: str):
    options = REWARDS[name]
    given = {"type": name, "size": 3, **{key: MODEL[key] for key in MODEL if key in options.model_fields}}
    table = table_of(options).model_validate(given)
    assert (table.size, table.options.type) == (3, name)
    assert type(table.options) is options
    assert set(type(table).model_fields) == {*Pool.model_fields, *options.model_fields}
    assert options.model_fields["type"].default == name


def test_a_recipe_can_name_every_objective():
    for name, options in OBJECTIVES.items():
        assert options().type == name
        assert load_objective(options()).drawn_by in {"trained", "ema"}
    assert load_objective(AwmOptions(kl_ema=0.5)).ema_used
    assert Recipe.model_fields["objective"].default == AwmOptions()


def test_every_objective_and_reward_has_a_page(request):
    docs = request.config.rootpath / "docs"
    assert {path.stem for path in (docs / "objectives").glob("*.md")} - {"README"} == set(OBJECTIVES)
    assert {path.stem for path in (docs / "rewards").glob("*.md")} - {"README"} == set(REWARDS)


@pytest.mark.parametrize("registry", [OBJECTIVES, REWARDS])
def test_every_key_says_what_it_does(registry: dict):
    silent = [f"{name}.{key}" for name, options in registry.items() for key, field in options.model_fields.items()
              if not field.description and key != "type"]  # fmt: skip
    assert silent == []
