"""Which actors `train` needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from actors.diffusion.options import ImageModelOptions
from actors.messages import DrawTrial, Prompt, ScoreTrial
from actors.policy.actor import PolicyActor
from actors.policy.options import LearnerOptions, LearnerSettings
from actors.reward.actor import RewardActor
from actors.rollout.actor import RolloutActor
from actors.rollout.options import GeneratorSettings
from actors.shards.actor import ShardsActor
from cluster.storage.documents import Storage
from cluster.tasks import PoolSpec
from pipelines.preflight.checks import init_adapter
from pipelines.recipe.tables import Run
from pipelines.recipe.training import Recipe
from pipelines.running.workers import pool_of, process_of, resources_of

if TYPE_CHECKING:
    from pipelines.recipe.reward import Reward

MakePools = Callable[[Recipe, Prompt | None], list[PoolSpec]]
"""The pools that a recipe needs; the prompt is a held-out one, as for `pool_specs`."""


def pool_specs(recipe: Recipe, example: Prompt | None = None) -> list[PoolSpec]:
    """The pools: rollout and reward workers, the policy's gang, and beside the driver those that store checkpoints and pack images.

    `example`: a held-out prompt, with which a worker tries the checker when it starts.
    """
    run, rollout, policy = recipe.run, recipe.rollout, recipe.policy
    begin = init_adapter(policy)
    learner = LearnerSettings(
        policy.part(LearnerOptions),
        recipe.objective,
        num_steps=rollout.steps,
        guidance_scale=rollout.guidance_scale,
        height=rollout.height,
        width=rollout.width,
        seed=run.seed,
        total_steps=recipe.loop.steps,
        init_adapter=(begin.path, begin.sha256) if begin else None,
    )
    held = rollout.part(ImageModelOptions)
    generator = GeneratorSettings(policy.model, recipe.objective, held, policy.max_sequence_length, policy.family)
    drawn = DrawTrial(
        policy.model, rollout.height, rollout.width, (rollout.steps, recipe.heldout.steps), rollout.guidance_scale
    )
    return [
        pool_of("rollout", RolloutActor, run, rollout, {"settings": generator, "trial": drawn}),
        *_judges(run, recipe.rewards, ScoreTrial(rollout.height, rollout.width, example), recipe.heldout.checker),
        PoolSpec(
            "policy",
            PolicyActor,
            {"process": process_of(run, policy), "settings": learner},
            policy.ranks,
            gang=True,
            **resources_of(policy),
        ),
        PoolSpec("storage", Storage, num_cpus=0, beside_driver=True),
        *([PoolSpec("samples", ShardsActor, num_cpus=0, beside_driver=True)] if recipe.samples.every else []),
    ]


def _judges(run: Run, rewards: Mapping[str, Reward], trial: ScoreTrial, checker: str | None) -> Iterator[PoolSpec]:
    """A pool for each reward. The first one's workers have the checker."""
    for pool, reward in rewards.items():
        judge = {"options": reward.options, "checker": checker, "trial": trial, "pool": pool}
        yield pool_of(pool, RewardActor, run, reward, judge)
        checker = None
