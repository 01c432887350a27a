"""What else the doctor tells: what cannot start, and what runs but disappoints; and that sound recipes hear nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from actors.messages import Prompt
from pipelines.preflight.memory.models import Models, models_to_estimate
from pipelines.preflight.verdicts import gpus_not_asked_for, obstacles, warnings
from pipelines.recipe.load import load_recipe
from pipelines.recipe.training import Recipe

RECIPES = Path(__file__).resolve().parents[3] / "recipes"
PROMPTS = (Prompt("1", "a red circle"), Prompt("2", " ".join(["word"] * 300)))
SCHNELL = {"guidance_embeds": False}


def load(name: str, *changes: str) -> tuple[Recipe, Models]:
    recipe = load_recipe(RECIPES / f"{name}.toml", changes)
    return recipe, models_to_estimate(recipe.policy, recipe.rewards)


def tables_of(recipe: Recipe) -> tuple:
    return recipe.policy, recipe.rollout, recipe.rewards


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        ("sd35m_8gpu", "policy.max_sequence_length=600", "policy.max_sequence_length = 600: this model reads at most 512"),
        ("z_image_qwen3vl32b_64gpu", "policy.max_sequence_length=1505", "at most 1504"),
        ("sd35m_8gpu", "rollout.height=500", "rollout.height = 500: this model draws multiples of 16, such as 496"),
        ("sd35m_8gpu", "rollout.width=4", "multiples of 16, such as 16"),
        ("sd35m_8gpu", "reward={model='Qwen/Qwen3-VL-8B-Instruct', device='cuda'}", "reward.num_gpus = 0: Ray shows no GPU"),
        ("sd35m_8gpu", "policy.num_gpus=0.5", "two ranks on one GPU"),
    ],
)  # fmt: skip
def test_what_cannot_start(name: str, change: str, told: str) -> None:
    recipe, models = load(name, change)
    [found] = [*obstacles(*tables_of(recipe), models), *gpus_not_asked_for(*tables_of(recipe))]
    assert told in found


@pytest.mark.parametrize(
    ("name", "changes", "told"),
    [
        ("sd35m_8gpu", ["rollout.guidance_scale=4.5"], "awm trains the velocity without it"),
        ("z_image_qwen3vl32b_64gpu", ["rollout.guidance_scale=0.5"], "guidance_scale = 0 draws without"),
        ("sd35m_8gpu", ["rollout.guidance_scale=4.5", "objective={type='flow_grpo'}"], "collapse"),
        ("flux_dev_8gpu", ["rollout.guidance_scale=1.0"], "distilled for scales around 3.5"),
        ("sd35m_8gpu", ["rollout.chunk=24", "rollout.prompts_per_step=8"], "rollout.size = 3 workers share 8 tasks"),
        ("sd35m_8gpu", ["reward.image_pixels=1000000"], "reward.image_pixels = 1000000 is without effect"),
        ("sd35m_8gpu", ["reward.num_gpus=2.0"], "a worker uses one GPU"),
        ("sd35m_8gpu", ["rollout.num_gpus=0.0"], "rollout.num_gpus = 0: 2.5 billion parameters would run on a CPU"),
    ],
)
def test_what_runs_but_disappoints(name: str, changes: list[str], told: str) -> None:
    [found] = warnings(*load(name, *changes), PROMPTS[:1])
    assert told in found


def test_captions_that_are_certainly_cut() -> None:
    """300 words are 300 tokens at least: more than 256, and less than 512."""
    [found] = warnings(*load("sd35m_8gpu"), PROMPTS)
    assert found.startswith("1 of 2 captions have more words than policy.max_sequence_length = 256 tokens")
    assert warnings(*load("sd35m_8gpu", "policy.max_sequence_length=512"), PROMPTS) == []


def test_a_model_that_knows_no_guidance() -> None:
    recipe, models = load("flux_dev_8gpu")
    transformer = replace(models.image.transformer, config={**models.image.transformer.config, **SCHNELL})
    schnell = replace(models, image=replace(models.image, transformer=transformer))
    assert warnings(recipe, schnell, ()) == [
        "rollout.guidance_scale = 3.5 is without effect: this model knows no guidance"
    ]


def test_flow_grpo_trains_with_guidance_and_awm_may_draw_without() -> None:
    assert warnings(*load("sd35m_8gpu", "rollout.guidance_scale=3.0", "objective={type='flow_grpo'}"), ()) == []
    assert warnings(*load("sd35m_8gpu", "rollout.guidance_scale=1.0"), ()) == []


@pytest.mark.parametrize("path", [*RECIPES.glob("*gpu.toml"), RECIPES / "toy.toml"], ids=lambda path: path.stem)
def test_the_recipes_of_this_repository_hear_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(RECIPES.parent)
    recipe, models = load(path.stem)
    assert obstacles(*tables_of(recipe), models) == []
    assert warnings(recipe, models, PROMPTS[:1]) == []
