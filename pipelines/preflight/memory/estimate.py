"""The memory of all workers of a recipe, and what its images take in the object store."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.preflight.memory.cards import Actor
from pipelines.preflight.memory.counts import image_bytes
from pipelines.preflight.memory.models import Models
from pipelines.preflight.memory.workers import policy_rank, reward_worker, rollout_worker
from pipelines.recipe.training import Recipe


@dataclass(frozen=True)
class Estimate:
    """All workers, and the bytes of the images in flight at most: of one image, and of all."""

    actors: tuple[Actor, ...]
    image_bytes: int
    bytes_in_flight: int

    def __getitem__(self, pool: str) -> Actor:
        return next(actor for actor in self.actors if actor.pool == pool)


def estimate(recipe: Recipe, models: Models) -> Estimate:
    """The memory of every worker."""
    rollout, policy, objective = recipe.rollout, recipe.policy, recipe.objective
    heldout = recipe.heldout if recipe.data.heldout else None
    shape = models.image.shape(policy.max_sequence_length)
    one = image_bytes(rollout, objective, shape)
    steps = 1 + recipe.loop.staleness
    groups = steps * rollout.prompts_per_step
    if recipe.loop.max_groups_in_flight is not None:
        groups = min(groups, recipe.loop.max_groups_in_flight)
    image = models.image.loaded(policy.max_sequence_length)
    actors = (
        policy_rank(rollout, policy, objective, image, shape),
        rollout_worker(rollout, policy.lora_targets, objective, heldout, image, shape),
        *(
            reward_worker(pool, reward, models.judges.get(pool), rollout, heldout, shape)
            for pool, reward in recipe.rewards.items()
        ),
    )
    return Estimate(actors, one, one * groups * rollout.group_size)
