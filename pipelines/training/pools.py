"""Which actors a recipe needs, and on which executor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from actors.diffusion.options import ImageModelOptions
from actors.messages import DrawTrial, Prompt, ScoreTrial
from actors.mistake import Mistake
from actors.policy.actor import PolicyActor
from actors.policy.options import LearnerOptions, LearnerSettings
from actors.process import Process
from actors.reward.actor import RewardActor
from actors.rollout.actor import RolloutActor
from actors.rollout.options import GeneratorSettings
from actors.shards.actor import ShardsActor
from cluster import speaking
from cluster.joining.token import FILE_NAME as TOKEN
from cluster.storage.documents import Storage
from cluster.tasks import Executor, PoolSpec
from pipelines.monitoring.start_line import Starting
from pipelines.preflight.checks import init_adapter
from pipelines.recipe.tables import Cluster, Pool, Run, Worker
from pipelines.recipe.training import Recipe

MakePools = Callable[[Recipe, Prompt | None], list[PoolSpec]]
"""The pools that a recipe needs; the prompt is a held-out one, as for `pool_specs`."""


def pool_specs(recipe: Recipe, example: Prompt | None = None) -> list[PoolSpec]:
    """The pools: rollout and reward workers, the policy's gang, and beside the driver those that store checkpoints and pack images.

    `example`: a held-out prompt, with which a worker tries the checker when it starts.
    """
    run, rollout, reward, policy = recipe.run, recipe.rollout, recipe.reward, recipe.policy
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
    generator = GeneratorSettings(policy.model, recipe.objective, held, policy.max_sequence_length)
    drawn = DrawTrial(
        policy.model, rollout.height, rollout.width, (rollout.steps, recipe.heldout.steps), rollout.guidance_scale
    )
    judge = {
        "options": reward.options,
        "checker": recipe.heldout.checker,
        "trial": ScoreTrial(rollout.height, rollout.width, example),
    }
    return [
        pool_of("rollout", RolloutActor, run, rollout, {"settings": generator, "trial": drawn}),
        pool_of("reward", RewardActor, run, reward, judge),
        PoolSpec(
            "policy",
            PolicyActor,
            {"process": _process(run, policy), "settings": learner},
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

    A Ray that is started for the run keeps its token in `folder`. Raises `cluster.errors.UserError` where no Ray can be joined or started.
    """
    if kind == "local":
        from cluster.executors.local import LocalExecutor

        return LocalExecutor([in_one_process(spec) for spec in specs])
    from cluster.connect import connect
    from cluster.executors.on_ray import RayExecutor
    from cluster.placement.demand_table import show_demand
    from cluster.placement.nodes import nodes_here

    megabytes = limits.object_store_mb
    who = connect(
        object_store_bytes=megabytes and megabytes * 2**20,
        dashboard=limits.dashboard,
        token_file=folder / TOKEN,
    )
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
    process = spec.kwargs.get("process")
    if not isinstance(process, Process) or not 0 < (process.gpu_share or 0) < 1:
        return spec
    return replace(spec, kwargs={**spec.kwargs, "process": replace(process, gpu_share=1.0)})


def pool_of(name: str, actor: type, run: Run, table: Pool, kwargs: Mapping[str, Any]) -> PoolSpec:
    """A pool of workers that compute: its table says where and how many."""
    kwargs = {"process": _process(run, table), **kwargs}
    return PoolSpec(name, actor, kwargs, table.size, min_size=table.min, max_size=table.max, **_resources(table))


def _process(run: Run, table: Worker) -> Process:
    return Process(run.threads, table.num_gpus, run.deterministic)


def _resources(table: Worker) -> dict[str, Any]:
    return {
        "mistakes": (Mistake,),
        "num_cpus": table.num_cpus,
        "num_gpus": table.num_gpus,
        "resources": table.resources,
        "labels": table.labels,
    }
