"""Recipes: what is wrong is found, named, and answered with what is right."""

import subprocess
import sys
import tomllib

import pytest

from pipelines.config import UserError, dump_recipe, load_recipe, parse_recipe

SMALLEST = """
[loop]
steps = 2
[data]
train = "prompts.jsonl"
[rollout]
[reward]
model = "judge"
[policy]
model = "image"
"""


@pytest.fixture
def recipe_file(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text(SMALLEST)
    return path


def test_overrides_reach_any_key(recipe_file):
    recipe = load_recipe(
        recipe_file,
        [
            "rollout.size=2",
            "loop.order=ready",
            "run.seed=7",
            "data.mix={a = 3, b = 5}",
            "heldout.guidance_scales=[1, 2.5]",
        ],
    )
    assert (recipe.rollout.size, recipe.loop.order, recipe.run.seed) == (2, "ready", 7)
    assert recipe.data.mix == {"a": 3, "b": 5}
    assert recipe.heldout.guidance_scales == (1.0, 2.5)


def test_the_resolved_recipe_reads_back_the_same(recipe_file):
    recipe = load_recipe(recipe_file, ['run.notes=["a \\"quoted\\" line\\nand another"]', "data.mix={a = 8}"])
    assert parse_recipe(tomllib.loads(dump_recipe(recipe)), "dump") == recipe


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("rollout.chunck=2", "rollout.chunck: no such key; did you mean chunk?"),
        ("rollouts.size=2", "rollouts: no such key; did you mean rollout?"),
        ("objective.zzz=1", "objective.zzz: no such key; allowed are advantage_std, "),
        ("objective.clip_rang=1.0", "objective.clip_rang: no such key; did you mean clip_range?"),
        ("objective={type = 'nft', bet = 1.0}", "objective.bet: no such key; did you mean beta?"),
        ("objective={type = 'grpo'}", "objective.type = 'grpo': allowed are 'awm', 'flow_grpo', 'nft'"),
        ("objective={type = 'nft', beta = 0.0}", "objective.beta = 0.0: Input should be greater than 0"),
        (
            "objective={type = 'flow_grpo', window = 10}",
            "objective.window = 10 steps are to be trained, but rollout.steps = 10",
        ),
        ("policy.lora_rank=many", "policy.lora_rank = 'many': Input should be a valid integer"),
        ("rollout.group_size=1", "rollout.group_size = 1: Input should be greater than or equal to 2"),
        ("rollout.group_size=8.0", "valid integer"),
        ("rollout.noise=group", 'objective.type = "awm": all images of a group would be the same'),
        ("loop.order=random", "'strict' or 'ready'"),
        ("rollout.chunk=3", "rollout.chunk = 3 does not divide rollout.group_size = 8: choose one of [1, 2, 4, 8]"),
        ("data.mix={a = 3}", "data.mix takes 3 prompts a step but rollout.prompts_per_step = 8"),
        ("objective.timesteps_per_sample=12", "lower the first or raise rollout.steps"),
        ("reward={model = 'm', transform = 'exp', reduction = 'sum'}", 'use reward.reduction = "mean"'),
        ("heldout.guidance_scales=[]", "at least 1 item"),
        ("run.seed", "give key=value"),
        ("run.seed.deep=1", "seed is a value, not a table"),
    ],
)
def test_a_mistake_is_named(recipe_file, override, message):
    recipe_file.write_text(SMALLEST.replace("[loop]", "[run]\nseed = 1\n[loop]"))
    with pytest.raises(UserError) as error:
        load_recipe(recipe_file, [override])
    assert message in str(error.value)


def test_missing_keys_are_all_named(recipe_file):
    recipe_file.write_text("[loop]\n[data]\n[rollout]\n[reward]\n[policy]\n")
    with pytest.raises(UserError) as error:
        load_recipe(recipe_file)
    for key in ("loop.steps", "data.train", "reward.model", "policy.model"):
        assert f"{key}: missing" in str(error.value)


def test_a_missing_file_and_bad_toml(tmp_path):
    with pytest.raises(UserError, match="no recipe at"):
        load_recipe(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("[loop\n")
    with pytest.raises(UserError, match="is not TOML"):
        load_recipe(tmp_path / "bad.toml")


def test_reading_a_recipe_loads_neither_torch_nor_ray():
    code = "import pipelines.config, sys; assert not {'torch', 'ray', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
