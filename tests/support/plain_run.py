"""The main job with the workers of the plain world in the place of models: the same command line, driver, cluster and storage."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial

from actors.messages import Prompt
from cluster.tasks import PoolSpec
from pipelines.recipe.training import Recipe
from pipelines.train import program
from pipelines.training.pools import pool_specs
from tests.support.plain_world import PlainPolicy, PlainReward, PlainRollout

PAUSE_S = 0.02  # of each task and each draw of four sampling steps, about what the tiny models take


def plain_pools(recipe: Recipe, example: Prompt | None = None, pause_s: float = PAUSE_S) -> list[PoolSpec]:
    """The pools of a run with other actors in those that compute; their places, sizes and limits are the recipe's."""

    def plain(spec: PoolSpec) -> PoolSpec:
        match spec.name:
            case "rollout":
                return replace(spec, actor=PlainRollout, kwargs={"pause_s": pause_s / 4})
            case pool if pool in recipe.rewards:
                judge = {"model": recipe.rewards[pool].judge, "checker": spec.kwargs["checker"]}
                return replace(spec, actor=PlainReward, kwargs={**judge, "pause_s": pause_s})
            case "policy":
                return replace(
                    spec, actor=PlainPolicy, kwargs={"settings": spec.kwargs["settings"], "pause_s": pause_s}
                )
        return spec

    return [plain(spec) for spec in pool_specs(recipe, example)]


pools_in_no_time = partial(plain_pools, pause_s=0.0)
main = program(plain_pools)
in_no_time = program(pools_in_no_time)

if __name__ == "__main__":
    sys.exit(main())
