"""How long the tasks of a recipe take: what any source of times gives, and the one that needs no run, from operations and a GPU's peak."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

from pipelines.planning.flops import backwards_of_rank, draw_flops, score_flops, update_flops
from pipelines.planning.gpus import EFFICIENCY, JITTER, NETWORK_GB_PER_S, NODE_GB_PER_S, Gpu
from pipelines.preflight.memory.counts import image_bytes, on_gpu
from pipelines.preflight.memory.models import Models
from pipelines.recipe.reward import POOL
from pipelines.recipe.training import Recipe


@dataclass(frozen=True)
class Duration:
    """Of a kind of task: mean seconds, and the relative standard deviation."""

    seconds: float
    jitter: float = 0.0


@dataclass(frozen=True)
class Times:
    """The durations of a recipe's tasks: a draw and a score of a chunk, an update with its export; and the bytes of a chunk."""

    draw: Duration
    score: Duration
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
        models, shape = self.models, self.models.image.shape(recipe.policy.max_sequence_length)
        network, judge = models.image.network("attention"), models.judges.get("reward")
        weights = models.image.transformer.numel
        draw = self._seconds("draw", draw_flops(recipe, network, shape), weights, recipe.rollout.steps)
        score = self._seconds("score", score_flops(recipe, judge, shape), judge.model.numel if judge else 0, 1)
        backwards = backwards_of_rank(recipe)
        update = self._seconds("update", update_flops(recipe, network, shape), weights, 2 * backwards)
        return Times(
            Duration(draw / max(1.0, recipe.rollout.num_gpus), JITTER),
            Duration(score / max(1.0, recipe.rewards[POOL].num_gpus), JITTER),
            Duration(update + exchange_seconds(recipe, models, self.per_node), JITTER),
            recipe.chunk * image_bytes(recipe, shape),
        )

    def _seconds(self, stage: str, flops: float, weights: int, passes: int) -> float:
        computing = flops / (self.gpu.tflops * 1e12 * EFFICIENCY[stage])
        reading = 2 * weights * passes / (self.gpu.tb_per_s * 1e12)
        return max(computing, reading)


def exchange_seconds(recipe: Recipe, models: Models, per_node: int) -> float:
    """What the ranks wait for each other's bytes in a step: the LoRA's gradient, and in stage 3 the base for every pass.

    A ring sends twice the gradient; from stage 2 on it does so for every micro-batch.
    """
    policy = recipe.policy
    if policy.ranks == 1:
        return 0.0
    within = policy.ranks * math.ceil(policy.num_gpus) <= per_node
    bandwidth = 1e9 * (NODE_GB_PER_S if within else NETWORK_GB_PER_S)
    others, backwards = (policy.ranks - 1) / policy.ranks, backwards_of_rank(recipe)
    part = models.image.transformer
    lora = 4 * policy.lora_rank * models.image.network(policy.lora_targets).lora
    sent = 2 * lora * (backwards if policy.zero_stage >= 2 else 1)
    if policy.zero_stage == 3:
        sent += (2 if on_gpu(policy) else 4) * part.numel * backwards * (2 + policy.activation_checkpointing)
    return others * sent / bandwidth


def value_of(recipe: Recipe, key: str) -> Any:
    """What a recipe has under a key such as `rollout.size`; None for a key that a reward of another type has."""
    table, name = key.split(".")
    return getattr(getattr(recipe, table), name, None)
