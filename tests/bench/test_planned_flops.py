"""The short forms of operations against the exact ones, which are held to torch's count (tests/bench/test_flops.py)."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.flops import TRANSFORMERS, vlm
from pipelines.planning.flops import backwards_of_rank, draw_flops, judging, score_flops, transformer, update_flops
from pipelines.preflight.memory.judge import TEMPLATE_TOKENS, seen
from pipelines.preflight.memory.models import JUDGES, KNOWN, image_model, judge
from pipelines.recipe.load import load_recipe

RECIPE = Path("recipes/sd35m_8gpu.toml")
RANKS = load_recipe(RECIPE).policy.ranks


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize(("image", "text"), [(1024, 256), (1024, 333), (4096, 512)])
def test_a_transformer_takes_about_what_is_counted(name: str, image: int, text: int) -> None:
    model = image_model(name)
    part = model.transformer
    said, counted = (
        transformer(model.network("attention"), image, text),
        TRANSFORMERS[part.kind](part.config, image, text),
    )
    assert said.forward == pytest.approx(counted.forward, rel=0.1)
    assert said.training == pytest.approx(counted.training(0.0), rel=0.1)


@pytest.mark.parametrize("name", [name for name in JUDGES if name.startswith("Qwen/")])
@pytest.mark.parametrize("size", [512, 1024])
def test_a_judge_takes_about_what_is_counted(name: str, size: int) -> None:
    model = judge(name)
    image, caption = seen(model, size, size, None), 300
    side = round(image.patches**0.5)
    counted = vlm(model.model.config, (side, side), image.tokens + caption + TEMPLATE_TOKENS, caption)
    assert judging(model, image, caption, caption).forward == pytest.approx(counted.forward, rel=0.1)


def of_recipe(*overrides: str) -> tuple[float, float, float]:
    """Operations of a draw, a score and an update."""
    recipe = load_recipe(RECIPE, overrides)
    image = image_model(recipe.policy.model)
    shape = image.shape(recipe.policy.max_sequence_length)
    network = image.network("attention")
    return (
        draw_flops(recipe.rollout, recipe.objective, network, shape),
        score_flops(recipe.rollout, recipe.reward, judge(recipe.reward.model), shape),
        update_flops(recipe.rollout, recipe.policy, recipe.objective, network, shape),
    )


def test_a_draw_grows_with_images_steps_and_guidance() -> None:
    draw, score, update = of_recipe()
    assert of_recipe("rollout.chunk=6") == pytest.approx((draw / 2, score / 2, update))
    assert of_recipe("rollout.steps=28")[0] == pytest.approx(2 * draw)
    assert of_recipe("rollout.guidance_scale=4.5")[0] == pytest.approx(2 * draw)
    assert of_recipe("objective.behaviour=measured")[0] == pytest.approx(draw * (14 + 6) / 14)


def test_an_update_is_shared_by_the_ranks_and_grows_with_points_and_anchors() -> None:
    once, per_point = of_recipe()[2], of_recipe("objective.timesteps_per_sample=1")[2]
    assert once == pytest.approx(6 * per_point)
    assert of_recipe(f"policy.ranks={2 * RANKS}")[2] == pytest.approx(once / 2)
    anchored, free = once, of_recipe("objective.kl_reference=0.0", "objective.kl_ema=0.0")[2]
    forward = of_recipe()[0] / (12 * 14)  # of one image at one point
    assert anchored - free == pytest.approx(72 * 24 / RANKS * 6 * 2 * forward)
    checkpointed = of_recipe("policy.activation_checkpointing=true")[2]
    assert checkpointed - once == pytest.approx(72 * 24 / RANKS * 6 * forward)


def test_micro_batches_cover_the_samples_of_a_rank() -> None:
    small, large = load_recipe(RECIPE), load_recipe(RECIPE, ["policy.micro_batch=1000"])
    assert backwards_of_rank(small.rollout, small.policy) == 72 * 24 / RANKS / 3
    assert backwards_of_rank(large.rollout, large.policy) == 1
