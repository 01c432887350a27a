"""How long the tasks of a recipe take: what any source of times gives, and the one that needs no run, from operations and a GPU's peak."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from actors.families.image import Shape
from pipelines.planning.flops import backwards_of_rank, draw_flops, score_flops, update_flops
from pipelines.planning.gpus import EFFICIENCY, JITTER, NETWORK_GB_PER_S, NODE_GB_PER_S, Gpu
from pipelines.preflight.memory.counts import image_bytes, on_gpu
from pipelines.preflight.memory.models import Models
from pipelines.recipe.tables import Policy, Rollout
from pipelines.recipe.training import Recipe


@dataclass(frozen=True)
class Duration:
    """Of a kind of task: mean seconds, and the relative standard deviation."""

    seconds: float
    jitter: float = 0.0


@dataclass(frozen=True)
class Times:
    """The durations of a recipe's tasks: a draw, a chunk's score by each pool, an update with its export; and the bytes of a chunk."""

    draw: Duration
    score: Mapping[str, Duration]
    update: Duration
    chunk_bytes: int


class Source(Protocol):
    """Where times come from. `note`: what they assume, for the reader of a plan."""

    note: str

    def times(self, recipe: Recipe) -> Times:
        """Of a recipe whose pools may have any sizes. Raises UserError where there are none."""


class Estimated:
    """Operations over an assumed share of a GPU's peak; a pass takes at least as long as reading the weights."""

    def __init__(self, models: Models, gpu_name: str, gpu: Gpu, per_node: int) -> None:
        self.models, self.gpu, self.per_node = models, gpu, per_node
        shares = ", ".join(f"{stage} {share:g}" for stage, share in EFFICIENCY.items())
        self.note = (
            f"An estimate, not a measurement: operations over the peak of {gpu_name} ({gpu.tflops:g} TFLOP/s), times assumed shares "
            f"({shares}), with {JITTER:.0%} jitter. Captions as long as they may be. Plan again with --measured after some steps."
        )

    def times(self, recipe: Recipe) -> Times:
        """See `Source`."""
        models, rollout, policy = self.models, recipe.rollout, recipe.policy
        shape = models.image.shape(policy.max_sequence_length)
        network, weights = models.image.network("attention"), models.image.transformer.numel
        draw = self._seconds("draw", draw_flops(rollout, recipe.objective, network, shape), weights, rollout.steps)
        flops = update_flops(rollout, policy, recipe.objective, network, shape)
        update = self._seconds("update", flops, weights, 2 * backwards_of_rank(rollout, policy))
        return Times(
            Duration(draw / max(1.0, rollout.num_gpus), JITTER),
            {pool: self._score(recipe, pool, shape) for pool in recipe.rewards},
            Duration(update + exchange_seconds(rollout, policy, models, self.per_node), JITTER),
            rollout.images_per_score * image_bytes(rollout, recipe.objective, shape),
        )

    def _score(self, recipe: Recipe, pool: str, shape: Shape) -> Duration:
        reward, judge = recipe.rewards[pool], self.models.judges.get(pool)
        flops = score_flops(recipe.rollout, reward, judge, shape)
        seconds = self._seconds("score", flops, judge.model.numel if judge else 0, 1)
        return Duration(seconds / max(1.0, reward.num_gpus), JITTER)

    def _seconds(self, stage: str, flops: float, weights: int, passes: int) -> float:
        computing = flops / (self.gpu.tflops * 1e12 * EFFICIENCY[stage])
        reading = 2 * weights * passes / (self.gpu.tb_per_s * 1e12)
        return max(computing, reading)


def exchange_seconds(rollout: Rollout, policy: Policy, models: Models, per_node: int) -> float:
    """What the ranks wait for each other's bytes in a step: the LoRA's gradient, and in stage 3 the base for every pass.

    A ring sends twice the gradient; from stage 2 on it does so for every micro-batch.
    """
    if policy.ranks == 1:
        return 0.0
    within = policy.ranks * math.ceil(policy.num_gpus) <= per_node
    bandwidth = 1e9 * (NODE_GB_PER_S if within else NETWORK_GB_PER_S)
    others, backwards = (policy.ranks - 1) / policy.ranks, backwards_of_rank(rollout, policy)
    part = models.image.transformer
    lora = 4 * policy.lora_rank * models.image.network(policy.lora_targets).lora
    sent = 2 * lora * (backwards if policy.zero_stage >= 2 else 1)
    if policy.zero_stage == 3:
        sent += (2 if on_gpu(policy) else 4) * part.numel * backwards * (2 + policy.activation_checkpointing)
    return others * sent / bandwidth


def value_of(recipe: Recipe, key: str) -> Any:
    """What a recipe has under a key such as `rollout.size` or `reward.NAME.size`; None for a key that a reward of another type has."""
    table, _, name = key.rpartition(".")
    return getattr(recipe.rewards.get(table) or getattr(recipe, table), name, None)
