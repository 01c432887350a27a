"""What decides the bytes of a chunk: seeds that depend on the sample and on nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from actors.messages import Prompt
from pipelines.engine.messages import GroupKey
from pipelines.recipe.load import load_recipe
from pipelines.training.groups import Group, noise_seeds, training_seeds

RECIPE = Path("recipes/toy_flow_grpo.toml")
GROUP = Group(GroupKey("train", 3, 1), Prompt("p", "a red circle"), version=2, epoch=1)


def test_seeds_name_the_sample_and_not_the_step_or_the_chunk():
    recipe = load_recipe(RECIPE)
    seeds = noise_seeds(recipe.run.seed, recipe.rollout.noise, GROUP, range(8))
    assert len(set(seeds)) == 8
    assert seeds[4:] == noise_seeds(recipe.run.seed, recipe.rollout.noise, GROUP, range(4, 8))
    later = replace(GROUP, key=GroupKey("train", 9, 0), version=8)
    assert noise_seeds(recipe.run.seed, recipe.rollout.noise, later, range(8)) == seeds
    assert set(noise_seeds(recipe.run.seed, recipe.rollout.noise, replace(GROUP, epoch=2), range(8))).isdisjoint(seeds)
    assert set(noise_seeds(1, recipe.rollout.noise, GROUP, range(8))).isdisjoint(seeds)
    assert set(training_seeds(recipe.run.seed, GROUP, range(8))).isdisjoint(seeds)


def test_a_group_may_share_its_starting_noise_but_not_the_noise_on_the_way():
    recipe = load_recipe(RECIPE, ["rollout.noise=group"])
    seed, noise = recipe.run.seed, recipe.rollout.noise
    assert len(set(noise_seeds(seed, noise, GROUP, range(8)))) == 1
    assert noise_seeds(seed, noise, GROUP, range(4, 8)) == noise_seeds(
        recipe.run.seed, recipe.rollout.noise, GROUP, range(4)
    )
    assert len(set(training_seeds(seed, GROUP, range(8)))) == 8
    heldout = replace(GROUP, key=GroupKey("heldout", 3, 1))
    assert len(set(noise_seeds(seed, noise, heldout, range(8)))) == 8
