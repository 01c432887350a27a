"""The first thing to change: every refusal names a key that saves what it says, and following the advice ends in a recipe that fits."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.preflight.advice import Change, changed_by, first_change, least_need
from pipelines.preflight.memory.cards import GIB, card_needed
from pipelines.preflight.memory.estimate import estimate
from pipelines.preflight.memory.models import Models, models_to_estimate
from pipelines.recipe.load import load_recipe
from pipelines.recipe.training import Recipe

RECIPES = Path(__file__).resolve().parents[3] / "recipes"

# A recipe, what is set in it, GiB of a GPU, and what should be changed first.
REFUSALS = {
    "a whole step in one backward": ("sd35m_8gpu", ["policy.micro_batch=24"], 79, "policy.micro_batch = 4"),
    "encoders that stay": (
        "flux_dev_8gpu", ["policy.text_encoders=keep", "policy.micro_batch=1", "policy.max_sequence_length=64"], 36,
        'policy.text_encoders = "park"',
    ),
    "all activations kept": (
        "qwen_image_2512_qwen3vl32b_64gpu", ["policy.activation_checkpointing=false", "policy.micro_batch=1"], 79,
        "policy.activation_checkpointing = true",
    ),
    "a chunk too large to draw": (
        "sd35m_8gpu", ["rollout.group_size=96", "rollout.chunk=96", "rollout.height=1024", "rollout.width=1024",
                       "policy.activation_checkpointing=true", "policy.micro_batch=1", "policy.text_encoders=park",
                       "rollout.text_encoders=park"], 30,
        "rollout.chunk = 48",
    ),
    "a held-out chunk too large to draw": ("sd35m_8gpu", ["heldout.chunk=512"], 79, "heldout.chunk = 256"),
    "a base beside long activations": (
        "qwen_image_2512_qwen3vl32b_64gpu", ["rollout.height=2048", "rollout.width=2048", "policy.micro_batch=1"], 79,
        "policy.zero_stage = 3",
    ),
    "shares that are not what the workers need": (
        "sd35m_qwen25vl7b_1gpu", ["rollout.num_gpus=0.3", "reward.num_gpus=0.3", "policy.num_gpus=0.4"], 78.8,
        "policy.num_gpus = 0.5, rollout.num_gpus = 0.25, reward.num_gpus = 0.25",
    ),
    "two judges that may meet": ("z_image_qwen3vl32b_64gpu", ["reward.num_gpus=0.5"], 79, "reward.num_gpus = 1.0"),
    "more points than a GPU holds": (
        "z_image_qwen3vl32b_64gpu", ["policy.micro_batch=1", "objective.timesteps=uniform", "objective.timesteps_per_sample=96",
                                     "policy.text_encoders=park", "rollout.text_encoders=park"], 66,
        "objective.timesteps_per_sample = 48",
    ),
    "a window longer than a GPU holds": (
        "flux_dev_8gpu", ["objective={type='flow_grpo', window=60}", "rollout.steps=80", "policy.micro_batch=1",
                          "policy.text_encoders=park", "rollout.text_encoders=park"], 52,
        "objective.window = 30",
    ),
}  # fmt: skip


def load(name: str, changes: list[str]) -> tuple[Recipe, Models]:
    recipe = load_recipe(RECIPES / f"{name}.toml", changes)
    return recipe, models_to_estimate(recipe.policy, recipe.rewards)


def need(recipe: Recipe, models: Models) -> int:
    return card_needed(estimate(recipe, models).actors)


@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS)
def test_a_refusal_names_the_right_first_change_and_it_saves_what_it_says(refusal: tuple) -> None:
    name, changes, gib, expected = refusal
    recipe, models = load(name, changes)
    room = round(gib * GIB)
    assert need(recipe, models) > room
    change = first_change(recipe, models, room)
    assert str(change) == expected
    assert isinstance(change, Change)
    changed = changed_by(recipe, change.settings)
    assert changed is not None
    assert need(recipe, models) - need(changed, models) == change.saved
    assert change.fits == (need(changed, models) <= room)


@pytest.mark.parametrize("gib", [20, 24, 32, 40, 48, 64, 79])
@pytest.mark.parametrize("name", sorted(path.stem for path in RECIPES.glob("*gpu.toml")))
def test_following_the_advice_ends_where_it_fits_or_where_nothing_helps(name: str, gib: int) -> None:
    """From the most wasteful form of each recipe down."""
    recipe, models = load(
        name,
        [
            "policy.micro_batch=24",
            "policy.text_encoders=keep",
            "rollout.text_encoders=keep",
            "policy.activation_checkpointing=false",
        ],
    )
    room, changes = gib * GIB, 0
    while need(recipe, models) > room:
        change = first_change(recipe, models, room)
        if change is None:
            assert least_need(recipe, models) > room
            return
        changed = changed_by(recipe, change.settings)
        assert changed is not None
        assert need(changed, models) < need(recipe, models)
        recipe, changes = changed, changes + 1
        assert changes < 20
    assert first_change(recipe, models, room - 1) is not None or least_need(recipe, models) >= room


def test_what_no_key_can_mend_gives_no_advice() -> None:
    recipe, models = load("z_image_qwen3vl32b_64gpu", [])
    assert first_change(recipe, models, 60 * GIB) is None
    assert 62 * GIB < least_need(recipe, models) < 65 * GIB


def test_a_change_that_the_recipe_forbids_is_none() -> None:
    recipe, _ = load("sd35m_8gpu", [])
    assert changed_by(recipe, {"rollout.chunk": 5}) is None
    assert changed_by(recipe, {"rollout.chunk": 6}) is not None
