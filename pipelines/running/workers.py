"""Workers of a recipe's tables: what each needs, and the executor that starts them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from actors.mistake import Mistake
from actors.process import Process
from cluster import speaking
from cluster.joining.token import FILE_NAME as TOKEN
from cluster.tasks import Executor, PoolSpec
from pipelines.monitoring.start_line import Starting
from pipelines.recipe.tables import Cluster, Pool, Run, Worker


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
    kwargs = {"process": process_of(run, table), **kwargs}
    return PoolSpec(name, actor, kwargs, table.size, min_size=table.min, max_size=table.max, **resources_of(table))


def process_of(run: Run, table: Worker) -> Process:
    """How a worker's process is set up."""
    return Process(run.threads, table.num_gpus, run.deterministic)


def resources_of(table: Worker) -> dict[str, Any]:
    """What a worker needs of a node, as `PoolSpec` has it."""
    return {
        "mistakes": (Mistake,),
        "num_cpus": table.num_cpus,
        "num_gpus": table.num_gpus,
        "resources": table.resources,
        "labels": table.labels,
    }
