"""The figures of a run by which it is watched: one table for Ray's metrics, TensorBoard and Weights & Biases.

What each means, what is normal and what to do otherwise: docs/monitoring.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from actors.policy.objectives.registry import OBJECTIVES

Source = Literal["status", "step", "heldout"]


@dataclass(frozen=True)
class Metric:
    """One figure. Prometheus knows it as `ray_<name>`, a counter as `ray_<name>_total`.

    source, path: where it stands in which record (`Control.status`, a line of metrics.jsonl, one of heldout.jsonl). In a path
    `*` is any key and `a|b` one of two; `labels` names what these keys are. only: when there is such a figure, if not always.
    """

    group: Literal["Learning", "Throughput", "Pools", "Failures", "Memory"]
    name: str
    source: Source
    path: str
    description: str
    labels: tuple[str, ...] = ()
    kind: Literal["gauge", "counter"] = "gauge"  # the record holds a counter's total
    only: str = ""

    @property
    def tags(self) -> tuple[str, ...]:
        return ("run", *self.labels)


LOSS_TERMS = "|".join(
    dict.fromkeys(["loss", "loss_policy", *(term for one in OBJECTIVES.values() for term in one.terms)])
)
TABLE = (
    Metric("Learning", "echoray_step", "status", "step", "Steps trained"),
    Metric("Learning", "echoray_steps_planned", "status", "steps", "Steps that the recipe asks for"),
    Metric("Learning", "echoray_policy_version", "status", "policy_version", "Version of the policy that trains"),
    Metric("Learning", "echoray_reward_mean", "step", "reward_mean", "Mean reward of the step's images"),
    Metric("Learning", "echoray_reward_std", "step", "reward_std", "Standard deviation of the step's rewards"),
    Metric(
        "Learning", "echoray_reward_std_in_group", "step", "reward_std_in_group",
        "Standard deviation of the rewards within a group, mean over the step's groups",
    ),
    Metric(
        "Learning", "echoray_equal_groups", "step", "equal_groups", "Groups of the step whose images all score alike"
    ),
    Metric("Learning", "echoray_groups", "step", "groups", "Groups of the step"),
    Metric(
        "Learning", "echoray_reward_by_category", "step", "by_category.*", "Mean reward of the step's images of a category",
        labels=("category",),
    ),
    Metric(
        "Learning", "echoray_reward_by_name", "step", "rewards.*", "Mean of one of several rewards over the step's images",
        labels=("reward",), only="with several rewards",
    ),
    Metric(
        "Learning", "echoray_cut_captions", "step", "cut_captions", "Groups whose caption was cut to be drawn"
    ),
    Metric(
        "Learning", "echoray_adapter_effect", "step", "adapter_effect",
        "How far the adapter moves the model from its base, measured by the worker that drew",
    ),
    Metric(
        "Learning", "echoray_adapter_share", "step", "adapter_share",
        "How much of the adapter rounding left in the weights of the worker that drew",
    ),
    Metric("Learning", "echoray_loss", "step", LOSS_TERMS, "The loss and its terms", labels=("term",)),
    Metric(
        "Learning", "echoray_kl_reference", "step", "kl_reference", "Distance to the base model",
        only="unless objective.kl_reference is 0",
    ),
    Metric(
        "Learning", "echoray_clip_fraction", "step", "clip_fraction", "Share of samples outside of the clip range",
        only="with an objective that has ratios",
    ),
    Metric(
        "Learning", "echoray_ratio", "step", "ratio_p05|ratio_p50|ratio_p95", "Quantiles of the ratio", labels=("quantile",),
        only="with an objective that has ratios",
    ),
    Metric("Learning", "echoray_grad_norm", "step", "grad_norm", "Norm of the gradient before clipping"),
    Metric("Learning", "echoray_learning_rate", "step", "learning_rate", "Learning rate of the step"),
    Metric("Learning", "echoray_staleness_mean", "step", "staleness_mean", "Versions since the images were drawn, mean"),
    Metric("Learning", "echoray_staleness_max", "step", "staleness_max", "Versions since the images were drawn, most"),
    Metric("Learning", "echoray_heldout_reward", "heldout", "*.reward", "Held-out reward", labels=("guidance",)),
    Metric(
        "Learning", "echoray_heldout_reward_by_category", "heldout", "*.reward_by_category.*",
        "Held-out reward of a category", labels=("guidance", "category"),
    ),
    Metric(
        "Learning", "echoray_heldout_reward_by_name", "heldout", "*.rewards.*", "One of several rewards, held out",
        labels=("guidance", "reward"), only="with several rewards",
    ),
    Metric(
        "Learning", "echoray_heldout_check", "heldout", "*.checks.*",
        "A figure of the checker on held-out images, mean over categories", labels=("guidance", "figure"),
        only="with heldout.checker",
    ),
    Metric(
        "Learning", "echoray_heldout_check_by_category", "heldout", "*.checks_by_category.*.*",
        "A figure of the checker on held-out images of a category", labels=("guidance", "figure", "category"),
        only="with heldout.checker",
    ),
    Metric("Throughput", "echoray_images_per_s", "step", "images_per_s", "Images trained per second"),
    Metric("Throughput", "echoray_images", "status", "images", "Images trained", kind="counter"),
    Metric("Throughput", "echoray_step_seconds", "step", "seconds.step", "Seconds from step to step"),
    Metric(
        "Throughput", "echoray_task_seconds", "step", "train_tasks.*.mean", "Seconds of one training task, mean",
        labels=("stage",),
    ),
    Metric(
        "Throughput", "echoray_queue_seconds", "step", "queue_s.*",
        "How long a chunk waits to be scored, and a complete step to be trained, mean", labels=("stage",),
    ),
    Metric(
        "Throughput", "echoray_weight_sync_seconds", "step", "seconds.export|load",
        "Seconds in which the ranks hand over the new adapter, and a worker loads it (the longest)", labels=("part",),
    ),
    Metric("Throughput", "echoray_waiting", "status", "stages.*.waiting", "Chunks that wait for a worker", labels=("stage",)),
    Metric(
        "Throughput", "echoray_in_flight", "status", "stages.*.in_flight", "Chunks, or updates, at work", labels=("stage",)
    ),
    Metric("Pools", "echoray_pool_wanted", "status", "pools.*.wanted", "Workers wanted", labels=("pool",)),
    Metric("Pools", "echoray_pool_ready", "status", "pools.*.ready", "Workers ready, busy ones included", labels=("pool",)),
    Metric("Pools", "echoray_pool_busy", "status", "pools.*.busy", "Workers busy", labels=("pool",)),
    Metric(
        "Pools", "echoray_pool_restarts", "status", "pools.*.restarts", "Workers replaced since this start", labels=("pool",)
    ),
    Metric("Pools", "echoray_pool_busy_share", "step", "busy.*", "Share of the step that workers were busy", labels=("pool",)),
    Metric("Failures", "echoray_heartbeat_time", "status", "time", "Unix time of the driver's last turn"),
    Metric(
        "Failures", "echoray_ended_time", "status", "ended", "Unix time at which the driver said that the run is over",
        only="once the run is over",
    ),
    Metric(
        "Failures", "echoray_failures", "status", "retries.*", "Tasks that failed", labels=("cause",), kind="counter",
        only="once a task has failed",
    ),
    Metric("Failures", "echoray_quarantined_groups", "status", "quarantined", "Groups left out"),
    Metric("Failures", "echoray_policy_restarts", "status", "policy_restarts", "Times that the policy was lost"),
    Metric(
        "Failures", "echoray_checkpoint_age_seconds", "status", "checkpoint.age_s",
        "Seconds since the last whole checkpoint, or since this start",
    ),
    Metric(
        "Failures", "echoray_checkpoint_step", "status", "checkpoint.step", "Step of this start's last checkpoint",
        only="once there is a checkpoint",
    ),
    Metric(
        "Failures", "echoray_checkpoint_snapshot_seconds", "status", "checkpoint.snapshot_s",
        "Seconds that the last checkpoint held up the policy", only="once there is a checkpoint",
    ),
    Metric(
        "Failures", "echoray_checkpoint_write_seconds", "status", "checkpoint.write_s",
        "Seconds that the last checkpoint was written, beside the training", only="once there is a checkpoint",
    ),
    Metric(
        "Failures", "echoray_checkpoint_bytes", "status", "checkpoint.bytes", "Size of the last checkpoint",
        only="once there is a checkpoint",
    ),
    Metric("Memory", "echoray_bytes_in_flight", "status", "bytes_in_flight", "Bytes of images and latents in flight"),
    Metric("Memory", "echoray_groups_in_flight", "status", "groups_in_flight", "Groups begun and not yet trained"),
    Metric("Memory", "echoray_admission_paused", "status", "admission_paused", "1 while no new group may be begun"),
    Metric("Memory", "echoray_paused_seconds", "step", "paused_s", "Seconds of the step for which admission paused"),
)  # fmt: skip


def figures(source: Source, record: Mapping[str, Any]) -> Iterator[tuple[Metric, tuple[str, ...], float]]:
    """(metric, what its labels are, value) of every figure in a record; what is missing or no finite number is left out."""
    if source == "heldout":
        record = {f"{record['guidance']:g}": record}
    for metric in TABLE:
        if metric.source == source:
            for keys, value in _found(record, metric.path.split(".")):
                if isinstance(value, int | float) and math.isfinite(value):
                    yield metric, keys, float(value)


def scalars(source: Source, record: Mapping[str, Any]) -> dict[str, float]:
    """The figures of a record by the names under which TensorBoard and Weights & Biases show them: learning/loss/matching_error."""
    return {
        "/".join((metric.group.lower(), metric.name.removeprefix("echoray_"), *keys)): value
        for metric, keys, value in figures(source, record)
    }


def _found(record: Any, path: Sequence[str]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """(what the labels are, value) for every way that the path leads."""
    if not path:
        yield (), record
    elif isinstance(record, Mapping):
        head, *rest = path
        several = head == "*" or "|" in head
        for key in record if head == "*" else head.split("|"):
            if key in record:
                for keys, value in _found(record[key], rest):
                    yield ((str(key), *keys) if several else keys), value
