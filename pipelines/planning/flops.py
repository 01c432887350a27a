"""How many operations a draw, a score and an update take, in short closed forms on the architecture: enough to plan with.

A transformer's block has, for each token, its attention's matrices and a feed-forward worth eight more, all as wide as the network.
Embedders, modulation and what only some blocks leave out are not counted: tests/bench/test_planned_flops.py holds the forms to 10 % of
the counted ones (bench/flops.py). A multiplication and an addition are two operations.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from actors.families.image import Network, Shape
from actors.families.vlm import Seen
from actors.reward.options import VlmOptions
from pipelines.preflight.memory.counts import rows_of_sample, samples_of_rank
from pipelines.preflight.memory.judge import TEMPLATE_TOKENS, feed_forward_width, seen
from pipelines.preflight.memory.models import Judge
from pipelines.recipe.errors import UserError
from pipelines.recipe.tables import Objective, Policy, Rollout

if TYPE_CHECKING:
    from pipelines.recipe.reward import Reward

FEED_FORWARD = 8  # square matrices: two of four times the width, or three gated ones of 8/3 of it
PER_STREAM = 4  # attention matrices of a token in one attention: query, key, value, output


@dataclass(frozen=True)
class Flops:
    """A forward pass: of the linear layers, and of attention."""

    linear: float
    attention: float

    @property
    def forward(self) -> float:
        """Both."""
        return self.linear + self.attention

    @property
    def training(self) -> float:
        """Forward, and a backward to the inputs alone, since the base is frozen: once the linear layers, twice the attention."""
        return self.forward + self.linear + 2 * self.attention


def transformer(network: Network, image: int, text: int) -> Flops:
    """An image model's transformer on one image of so many tokens with a caption; `network`: with a LoRA on attention alone."""
    linear = attention = 0.0
    for block in network.blocks:
        streams = [(image, block.image.adapters), (text, block.text.adapters)]
        tokens = sum(count for count, matrices in streams if matrices)
        linear += block.count * sum(count * (matrices + FEED_FORWARD) for count, matrices in streams if matrices)
        attention += block.count * (tokens**2 + (image**2 if block.image.adapters > PER_STREAM else 0))
    return Flops(2 * network.width**2 * linear, 4 * network.width * attention)


def language_model(config: Mapping[str, Any], tokens: int, predicted: int) -> Flops:
    """A causal transformer with gated feed-forward layers on a row of tokens, and its head on those that are predicted."""
    width, heads, layers = config["hidden_size"], config["num_attention_heads"], config["num_hidden_layers"]
    head = config.get("head_dim") or width // heads
    keys = config.get("num_key_value_heads") or heads
    weights = width * (head * (2 * heads + 2 * keys) + 3 * feed_forward_width(config))
    linear = layers * tokens * weights + predicted * width * config["vocab_size"]
    return Flops(2.0 * linear, 4.0 * layers * heads * head * tokens**2)


def judging(judge: Judge, image: Seen, caption: int, predicted: int) -> Flops:
    """One image and its caption through the VLM, and its head on some tokens.

    Patches look at those of their frame; windows of the vision tower are left out.
    """
    vision = judge.vision
    depth = vision.get("depth") or vision["num_hidden_layers"]
    width = vision.get("hidden_size") or vision["embed_dim"]
    full = vision.get("fullatt_block_indexes")  # of a tower with windows, whose feed-forward is gated
    matrices, attending = (2, depth) if full is None else (3, len(full))
    tower = 2.0 * image.patches * depth * width * (4 * width + matrices * vision["intermediate_size"])
    frame = (vision["image_size"] // vision["patch_size"]) ** 2 if "image_size" in vision else image.patches
    looked = 4.0 * width * attending * image.patches * frame
    read = language_model(judge.text, image.tokens + caption + TEMPLATE_TOKENS, predicted)
    return Flops(read.linear + tower, read.attention + looked)


def embedding(judge: Judge) -> Flops:
    """One image through the vision tower of CLIP or SigLIP; the caption, once for all images of a group, is left out."""
    vision = judge.vision
    patches, depth = (vision["image_size"] // vision["patch_size"]) ** 2, vision["num_hidden_layers"]
    width = vision["hidden_size"]
    linear = 2.0 * patches * depth * width * (4 * width + 2 * vision["intermediate_size"])
    return Flops(linear, 4.0 * width * depth * patches**2)


def draw_flops(rollout: Rollout, objective: Objective, network: Network, shape: Shape) -> float:
    """A draw: every step of the sampler, twice with guidance, and what is measured of the policy that drew."""
    forwards = rollout.steps * (2 if shape.doubles(rollout.guidance_scale) else 1)
    forwards += objective.measured_points
    return rollout.images_per_draw * forwards * _once(rollout, network, shape).forward


def update_flops(rollout: Rollout, policy: Policy, objective: Objective, network: Network, shape: Shape) -> float:
    """The samples of the busiest rank: the trained pass at every point, and one without gradient for each anchor.

    With activation checkpointing the forward is done twice.
    """
    once = _once(rollout, network, shape)
    passes = once.training + (objective.anchors + int(policy.activation_checkpointing)) * once.forward
    return samples_of_rank(rollout, policy.ranks) * rows_of_sample(objective, rollout.guidance_scale, shape) * passes


def score_flops(rollout: Rollout, reward: Reward, judge: Judge | None, shape: Shape) -> float:
    """A chunk. Captions are taken to be as long as they may be; what a reward does without a model counts nothing."""
    if judge is None:
        return 0.0
    if judge.kind == "dual_encoder":
        return rollout.images_per_score * embedding(judge).forward
    image, predicted = _seen(rollout, reward, judge), reward.predicted(shape.text)
    return rollout.images_per_score * judging(judge, image, shape.text, predicted).forward


def backwards_of_rank(rollout: Rollout, policy: Policy) -> int:
    """How many micro-batches a rank goes through in a step."""
    return math.ceil(samples_of_rank(rollout, policy.ranks) / policy.micro_batch)


def _once(rollout: Rollout, network: Network, shape: Shape) -> Flops:
    tokens = shape.image_tokens(rollout.height, rollout.width)
    return transformer(network, tokens, shape.padded(shape.text))


def _seen(rollout: Rollout, reward: Reward, judge: Judge) -> Seen:
    if not {"hidden_size", "embed_dim"} & judge.vision.keys():
        raise UserError(f"{reward.in_words()}: its operations are not known; plan with --measured RUNFOLDER")
    return seen(judge, rollout.height, rollout.width, cast("VlmOptions", reward).image_pixels)
