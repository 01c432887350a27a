"""Which actors a recipe needs, on which executor, and how the policy's first version comes to be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from actors.policy.actor import PolicyActor
from actors.reward.actor import RewardActor
from actors.rollout.actor import RolloutActor
from cluster.tasks import Executor, Outcome, PoolSpec, Task
from pipelines.checkpoints import Manifest
from pipelines.config import Policy, Pool, Recipe
from pipelines.driver import RunFailed, Start


def pool_specs(recipe: Recipe) -> list[PoolSpec]:
    """The three pools: rollout and reward workers, and the policy's gang."""
    run, rollout, reward, policy = recipe.run, recipe.rollout, recipe.reward, recipe.policy
    reward_settings = reward.model_dump(exclude=set(Pool.model_fields))
    learner = {
        "policy": policy.model_dump(),
        "objective": recipe.objective.model_dump(),
        "num_steps": rollout.steps,
        "height": rollout.height,
        "width": rollout.width,
        "seed": run.seed,
        "total_steps": recipe.loop.steps,
    }
    generator = {
        "model": policy.model,
        "device": rollout.device,
        "dtype": rollout.dtype,
        "max_sequence_length": policy.max_sequence_length,
        "objective": recipe.objective.model_dump(),
    }
    return [
        PoolSpec(
            "rollout", RolloutActor, {"num_threads": run.threads, **generator}, rollout.size, **_resources(rollout)
        ),
        PoolSpec(
            "reward",
            RewardActor,
            {"settings": reward_settings, "checker": recipe.heldout.checker, "num_threads": run.threads},
            reward.size,
            **_resources(reward),
        ),
        PoolSpec(
            "policy", PolicyActor, {"num_threads": run.threads, "settings": learner}, 1, gang=True, **_resources(policy)
        ),
    ]


def make_executor(recipe: Recipe, kind: str, run: str) -> Executor:
    """The executor of a run, not started. On Ray: joins the cluster, and raises PlacementError if the workers do not fit it."""
    specs = pool_specs(recipe)
    if kind == "local":
        from cluster.local import LocalExecutor

        return LocalExecutor(specs)
    import ray

    from cluster.connect import connect
    from cluster.executor import RayExecutor
    from cluster.placement import preflight

    megabytes = recipe.cluster.object_store_mb
    connect(object_store_bytes=megabytes and megabytes * 2**20, dashboard=recipe.cluster.dashboard)
    preflight(specs, ray.cluster_resources())
    return RayExecutor(specs, run=run, start_timeout_s=recipe.cluster.start_timeout_s)


def first_version(executor: Executor) -> Start:
    """Version 0: the LoRA as it is initialised, exported by the policy."""
    outcome = call_policy(executor, "export", 0, returns=2)
    return Start({0: (outcome.value["sha256"], outcome.payloads[0])})


def load_checkpoint(executor: Executor, folder: Path, manifest: Manifest) -> Start:
    """Restores the policy, and the adapters that work after the checkpoint may need."""
    place = str(folder.absolute())
    call_policy(executor, "load", place)
    adapters = {}
    for version, sha256 in manifest.adapters.items():
        outcome = call_policy(executor, "load_adapter", place, int(version), returns=2)
        if outcome.value["sha256"] != sha256:
            raise RunFailed(f"{folder}: adapter {version} does not have the hash that the manifest gives")
        adapters[int(version)] = (sha256, outcome.payloads[0])
    return Start(adapters, manifest.step, manifest.digest, manifest.images, manifest.seconds, tuple(manifest.evaluated))


def call_policy(executor: Executor, method: str, *args: Any, returns: int = 1) -> Outcome:
    """One call of every policy rank before the loop begins. Raises RunFailed with the rank's own error."""
    executor.submit(Task("policy", method, (method, args), args, returns=returns))
    outcomes: list[Outcome] = []
    while not outcomes:
        outcomes = executor.wait(timeout_s=10.0)
    if outcomes[0].failure:
        raise RunFailed(f"the policy could not {method}: {outcomes[0].failure.message}")
    return outcomes[0]


def _resources(table: Pool | Policy) -> dict[str, Any]:
    return {"num_cpus": table.num_cpus, "num_gpus": table.num_gpus, "resources": table.resources}
