"""What the estimate must know of image families that otherwise only their code knows: latents, tokens, captions, guidance.

tests/pipelines/preflight/memory/test_families.py holds it against the families themselves (actors/diffusion), which torch
is needed to import.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from actors.diffusion.limits import LONGEST_QWEN, LONGEST_T5, T5_OF_SD3, WITHOUT_T5
from pipelines.preflight.memory.models import ImageModel

Z_IMAGE_BLOCK = 32


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


def shape_of(model: ImageModel, max_sequence_length: int) -> Shape:
    """Raises KeyError for a pipeline that is not in SHAPES."""
    return SHAPES[model.pipeline](model, max_sequence_length)


def loaded(model: ImageModel, max_sequence_length: int) -> ImageModel:
    """The model without what its family leaves out: SD3's T5 where it is asked for no tokens."""
    if model.pipeline != "StableDiffusion3Pipeline" or max_sequence_length:
        return model
    return replace(model, encoders={name: part for name, part in model.encoders.items() if name != T5_OF_SD3})


def _sd3(model: ImageModel, max_sequence_length: int) -> Shape:
    config, clip = model.transformer.config, model.encoders["text_encoder"].config
    unread = WITHOUT_T5 if max_sequence_length == 0 and T5_OF_SD3 in model.encoders else 0
    return Shape(
        channels=config["in_channels"],
        scale=_scale_of_autoencoder(model),
        patch=config.get("patch_size", 2),
        text=clip.get("max_position_embeddings", 77) + max_sequence_length + unread,
        caption_width=config["joint_attention_dim"],
        longest=LONGEST_T5,
        unread=unread,
    )


def _flux(model: ImageModel, max_sequence_length: int) -> Shape:
    config = model.transformer.config
    return Shape(
        channels=config["in_channels"] // 4,
        scale=_scale_of_autoencoder(model),
        text=max_sequence_length,
        caption_width=config["joint_attention_dim"],
        longest=LONGEST_T5,
        guidance="told" if config.get("guidance_embeds") else "none",
    )


def _qwen_image(model: ImageModel, max_sequence_length: int) -> Shape:
    config = model.transformer.config
    return Shape(
        channels=config["in_channels"] // 4,
        scale=2 ** len(model.vae.config["temperal_downsample"]),
        text=max_sequence_length,
        caption_width=config["joint_attention_dim"],
        longest=LONGEST_QWEN,
    )


def _z_image(model: ImageModel, max_sequence_length: int) -> Shape:
    config = model.transformer.config
    return Shape(
        channels=config["in_channels"],
        scale=_scale_of_autoencoder(model),
        text=max_sequence_length,
        caption_width=config["cap_feat_dim"],
        longest=(config["axes_lens"][0] - 2) // Z_IMAGE_BLOCK * Z_IMAGE_BLOCK,
        block=Z_IMAGE_BLOCK,
        unguided=0.0,
    )


def _scale_of_autoencoder(model: ImageModel) -> int:
    return 2 ** (len(model.vae.config["block_out_channels"]) - 1)


SHAPES: dict[str, Callable[[ImageModel, int], Shape]] = {
    "FluxPipeline": _flux,
    "QwenImagePipeline": _qwen_image,
    "StableDiffusion3Pipeline": _sd3,
    "ZImagePipeline": _z_image,
}
