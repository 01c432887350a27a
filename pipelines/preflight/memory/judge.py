"""What a VLM's forward pass over a group of images needs, as the reward worker runs it: in passes that hold a budget of tokens.

The multiples of a layer's width were counted in the forward passes of transformers 5 in bfloat16
(tests/pipelines/preflight/memory/test_judge.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from actors.families.vlm import Seen
from actors.vlm.limits import CPU_CHUNK_TOKENS, LOGITS_AT_ONCE, PATCHES_PER_TOKEN, TOKENS_AT_ONCE
from pipelines.preflight.memory.models import Judge

TEMPLATE_TOKENS = 64  # of the chat around image, query and caption
VISION_WIDTHS = 21  # of a patch: queries and keys are rotated in float32
TEXT_WIDTHS, TEXT_INNER = 4, 3  # of a token: the residual stream, and the inside of a gated feed-forward


@dataclass(frozen=True)
class Scoring:
    """One task: images of a size in pixels, tokens of the caption and those predicted, bytes of a number, the chunk of rows of logits."""

    images: int
    height: int
    width: int
    caption: int
    predicted: int
    element: int
    gpu: bool
    chunk_tokens: int
    image_pixels: int | None = None


def seen(judge: Judge, height: int, width: int, image_pixels: int | None) -> Seen:
    """Tokens and patches of an image; `image_pixels` is the budget to which it is shrunk."""
    assert judge.family
    return judge.family.seen(judge.model.config, judge.settings, height, width, image_pixels)


def rows_at_once(tokens: int, patches: int, rows: int, gpu: bool) -> int:
    """How many of the rows go through the VLM in one pass, as even as can be."""
    counted = tokens + patches // PATCHES_PER_TOKEN
    passes = math.ceil(rows / max(1, TOKENS_AT_ONCE[_device(gpu)] // counted))
    return math.ceil(rows / passes)


def pass_bytes(judge: Judge, task: Scoring) -> int:
    """The peak of a group's forward passes beside the weights: the pixels of all, and the widest layer over one pass."""
    image, text, vision = seen(judge, task.height, task.width, task.image_pixels), judge.text, judge.vision
    length = image.tokens + task.caption + TEMPLATE_TOKENS
    rows = rows_at_once(length, image.patches, task.images, task.gpu)
    values = 3 * vision.get("temporal_patch_size", 1) * vision["patch_size"] ** 2
    pixels = task.images * image.patches * values * (1 + 2 * task.element + 4)  # bytes, looked up twice, as int32
    tower = rows * image.patches * VISION_WIDTHS * _vision_width(judge) * task.element
    chosen = text.get("num_experts_per_tok", 0)  # of a mixture: each token goes to so many experts, as a copy to each
    inner, width = feed_forward_width(text), text["hidden_size"]
    language = rows * length * (TEXT_INNER * inner + (TEXT_WIDTHS + 2 * chosen) * width) * task.element
    return pixels + max(tower, language)


def feed_forward_width(text: Mapping[str, Any]) -> int:
    """The inside of a language model's feed-forward that a token meets: of a mixture, that of the experts it goes to."""
    if "moe_intermediate_size" in text:
        return text["num_experts_per_tok"] * text["moe_intermediate_size"]
    return text["intermediate_size"]


def logits_bytes(judge: Judge, task: Scoring) -> int:
    """The peak of the log-probabilities beside the weights: states, a block of logits, and that block of the head in float32."""
    width, vocabulary = judge.text["hidden_size"], judge.text["vocab_size"]
    states = task.images * task.predicted * width * task.element
    chunk = task.chunk_tokens if task.gpu else min(task.chunk_tokens, CPU_CHUNK_TOKENS)
    rows = min(task.images * task.predicted, chunk)
    block = min(vocabulary, max(1, LOGITS_AT_ONCE[_device(task.gpu)] // rows))
    return states + 4 * (rows * width * 3 + block * width + block * rows)


def _device(gpu: bool) -> str:
    return "cuda" if gpu else "cpu"


def _vision_width(judge: Judge) -> int:
    return judge.vision.get("hidden_size") or judge.vision["embed_dim"]
