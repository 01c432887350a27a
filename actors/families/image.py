"""Facts of a family of image models, known before one is loaded: parts, latents, tokens, guidance, and the network's sizes.

Driver, doctor and planner read it, so that it loads no torch. The family itself, which workers load, is a `Family`
(actors/diffusion/family.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

Config = Mapping[str, Any]
Configs = Mapping[str, Config]
"""The configs of a pipeline's parts, by the names that model_index.json has for them."""

ONE_ENCODER = ("scheduler", "text_encoder", "tokenizer", "transformer", "vae")
TWO_ENCODERS = (*ONE_ENCODER, "text_encoder_2", "tokenizer_2")


@dataclass(frozen=True)
class Shape:
    """What a family makes of an image and a caption.

    channels: of the latents; scale: pixels per latent, patch: latents per token, in each direction; text: a caption's tokens at
    most; caption_width: numbers of such a token; longest: the largest policy.max_sequence_length; block: to whole multiples of
    this the network pads tokens; guidance: how a scale is used, "mixed" above `unguided`, or "told" to the network; unread: how many
    of a caption's tokens are zeros that stand for an encoder left out.
    """

    channels: int
    scale: int
    text: int
    caption_width: int
    longest: int
    patch: int = 2
    block: int = 1
    guidance: str = "mixed"
    unguided: float = 1.0
    unread: int = 0

    @property
    def unit(self) -> int:
        """Heights and widths of images are multiples of it."""
        return self.scale * self.patch

    def latents(self, height: int, width: int) -> int:
        """Numbers in the latents of an image of this size in pixels."""
        return self.channels * math.ceil(height / self.scale) * math.ceil(width / self.scale)

    def image_tokens(self, height: int, width: int) -> int:
        """Tokens of an image of this size in pixels."""
        return self.padded(math.ceil(height / self.unit) * math.ceil(width / self.unit))

    def padded(self, tokens: int) -> int:
        """Whole blocks."""
        return math.ceil(tokens / self.block) * self.block

    def doubles(self, guidance_scale: float) -> bool:
        """Whether guidance at this scale needs the velocity of the empty caption beside that of the caption."""
        return self.guidance == "mixed" and guidance_scale > self.unguided


@dataclass(frozen=True)
class Saved:
    """What one token leaves behind in one block: numbers in the model's type and float32 copies, in widths; outputs of LoRA's A."""

    own: float = 0
    float32: float = 0
    adapters: int = 0


@dataclass(frozen=True)
class Block:
    """`count` blocks that are alike, and what an image's token and a caption's token leave in each."""

    count: int
    image: Saved
    text: Saved


@dataclass(frozen=True)
class Network:
    """A transformer of this width. `lora`: how many numbers a LoRA of rank 1 has."""

    width: int
    blocks: tuple[Block, ...]
    lora: int


class ImageFacts:
    """Facts of one family. The class is used as it is, never made.

    What a token leaves behind was read off the forward passes of diffusers 0.42 with LoRA by peft, in bfloat16, and agrees with what
    torch's hooks for saved tensors count (tests/pipelines/preflight/memory/test_estimate.py). Attention is assumed to keep its
    inputs and output, as fused kernels do. Left out: torch.compile, which keeps less.
    """

    family: ClassVar[str]
    """The `Family` that workers load, as `module:Name`."""
    parts: ClassVar[tuple[str, ...]]
    """The parts without which a pipeline does not draw."""
    transformer: ClassVar[str]
    """The class of diffusers of the transformer."""

    @staticmethod
    def shape(configs: Configs, max_sequence_length: int) -> Shape:
        """Of a model with these configs, which is given so many tokens of a caption."""
        raise NotImplementedError

    @staticmethod
    def network(config: Config, everything: bool) -> Network:
        """The transformer of this config, with a LoRA on attention or on everything (`policy.lora_targets`)."""
        raise NotImplementedError

    @staticmethod
    def left_out(max_sequence_length: int) -> tuple[str, ...]:
        """Parts that the folder may have and workers do not load."""
        return ()


def scale_of_autoencoder(configs: Configs) -> int:
    """Pixels per latent in each direction, of diffusers' AutoencoderKL."""
    return 2 ** (len(configs["vae"]["block_out_channels"]) - 1)
