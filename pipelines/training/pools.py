"""Which actors a recipe needs, and on which executor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from actors.messages import DrawTrial, Prompt, ScoreTrial
from actors.mistake import Mistake
from actors.policy.actor import PolicyActor
from actors.reward.actor import RewardActor
from actors.rollout.actor import RolloutActor
from actors.shards.actor import ShardsActor
from cluster import speaking
from cluster.joining.token import FILE_NAME as TOKEN
from cluster.storage.documents import Storage
from cluster.tasks import Executor, PoolSpec
from pipelines.monitoring.start_line import Starting
from pipelines.preflight.checks import init_adapter
from pipelines.recipe.errors import UserError
from pipelines.recipe.tables import Cluster, Policy, Pool, Run
from pipelines.recipe.training import Recipe

MakePools = Callable[[Recipe, Prompt | None], list[PoolSpec]]
"""The pools that a recipe needs; the prompt is a held-out one, as for `pool_specs`."""


def pool_specs(recipe: Recipe, example: Prompt | None = None) -> list[PoolSpec]:
    """The pools: rollout and reward workers, the policy's gang, and beside the driver those that store checkpoints and pack images.

    `example`: a held-out prompt, with which a worker tries the checker when it starts.
    """
    run, rollout, reward, policy = recipe.run, recipe.rollout, recipe.reward, recipe.policy
    reward_settings = reward.model_dump(exclude=set(Pool.model_fields))
    begin = init_adapter(recipe)
    learner = {
        "policy": policy.model_dump(),
        "objective": recipe.objective,
        "num_steps": rollout.steps,
        "guidance_scale": rollout.guidance_scale,
        "height": rollout.height,
        "width": rollout.width,
        "seed": run.seed,
        "total_steps": recipe.loop.steps,
        "init_adapter": begin and (begin.path, begin.sha256),
    }
    generator = {
        "model": policy.model,
        "device": rollout.device,
        "dtype": rollout.dtype,
        "max_sequence_length": policy.max_sequence_length,
        "text_encoders": rollout.text_encoders,
        "compile": rollout.compile,
        "objective": recipe.objective,
        "trial": DrawTrial(
            policy.model, rollout.height, rollout.width, (rollout.steps, recipe.heldout.steps), rollout.guidance_scale
        ),
    }
    return [
        PoolSpec("rollout", RolloutActor, {**_process(run, rollout), **generator}, rollout.size, **_elastic(rollout)),
        PoolSpec(
            "reward",
            RewardActor,
            {
                **_process(run, reward),
                "settings": reward_settings,
                "checker": recipe.heldout.checker,
                "trial": ScoreTrial(rollout.height, rollout.width, example),
            },
            reward.size,
            **_elastic(reward),
        ),
        PoolSpec(
            "policy",
            PolicyActor,
            {**_process(run, policy), "settings": learner},
            policy.ranks,
            gang=True,
            **_resources(policy),
        ),
        PoolSpec("storage", Storage, num_cpus=0, beside_driver=True),
        *([PoolSpec("samples", ShardsActor, num_cpus=0, beside_driver=True)] if recipe.samples.every else []),
    ]


def make_executor(
    specs: Sequence[PoolSpec], limits: Cluster, kind: str, run: str, folder: Path, starting: Starting
) -> Executor:
    """The executor of a run, not started. On Ray: joins the cluster, and shows what is asked of it and what it has.

    A Ray that is started for the run keeps its token in `folder`. Raises UserError where no Ray can be joined or started.
    """
    if kind == "local":
        from cluster.executors.local import LocalExecutor

        return LocalExecutor([in_one_process(spec) for spec in specs])
    from cluster.connect import connect
    from cluster.executors.on_ray import RayExecutor
    from cluster.joining.address import CannotJoin
    from cluster.joining.machine import CannotStart
    from cluster.placement.demand_table import show_demand
    from cluster.placement.nodes import nodes_here

    megabytes = limits.object_store_mb
    try:
        who = connect(
            object_store_bytes=megabytes and megabytes * 2**20,
            dashboard=limits.dashboard,
            token_file=folder / TOKEN,
        )
    except (CannotJoin, CannotStart, PermissionError) as error:
        raise UserError(str(error)) from error
    speaking.say(starting.console, who)
    starting.console.print(show_demand(specs, nodes_here()))
    return RayExecutor(
        specs,
        run=run,
        start_timeout_s=limits.start_timeout_s,
        heartbeat_s=limits.heartbeat_s,
        heartbeat_timeout_s=limits.heartbeat_timeout_s,
        node_timeout_s=limits.node_timeout_s,
        say=starting,
    )


def in_one_process(spec: PoolSpec) -> PoolSpec:
    """The pool for an executor whose workers are all one process: there a limit to one's share of a GPU would be one to all."""
    shared = 0 < spec.kwargs.get("gpu_share", 0.0) < 1
    return replace(spec, kwargs={**spec.kwargs, "gpu_share": 1.0}) if shared else spec


def _process(run: Run, table: Pool | Policy) -> dict[str, Any]:
    return {"num_threads": run.threads, "gpu_share": table.num_gpus, "deterministic": run.deterministic}


def _elastic(table: Pool) -> dict[str, Any]:
    return {**_resources(table), "min_size": table.min, "max_size": table.max}


def _resources(table: Pool | Policy) -> dict[str, Any]:
    return {
        "mistakes": (Mistake,),
        "num_cpus": table.num_cpus,
        "num_gpus": table.num_gpus,
        "resources": table.resources,
        "labels": table.labels,
    }
