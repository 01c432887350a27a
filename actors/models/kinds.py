"""The registries: which models EchoRay reads, where the family of each is, and what parts a pipeline of a class must have. No torch."""

from __future__ import annotations

from typing import Literal

Kind = Literal["pipeline", "vlm", "dual_encoder"]
"""Kinds of model folders: an image model's pipeline of diffusers; of transformers a vision-language model, and a CLIP or SigLIP."""

FAMILIES: dict[str, str] = {
    "FluxPipeline": "actors.diffusion.families.flux:Flux",
    "QwenImagePipeline": "actors.diffusion.families.qwen_image:QwenImage",
    "StableDiffusion3Pipeline": "actors.diffusion.families.sd3:StableDiffusion3",
    "ZImagePipeline": "actors.diffusion.families.z_image:ZImage",
}
"""Image models, by the pipeline's class that model_index.json names."""

_ONE_ENCODER = ("scheduler", "text_encoder", "tokenizer", "transformer", "vae")
_TWO_ENCODERS = (*_ONE_ENCODER, "text_encoder_2", "tokenizer_2")
PARTS: dict[str, tuple[str, ...]] = {
    "FluxPipeline": _TWO_ENCODERS,
    "QwenImagePipeline": _ONE_ENCODER,
    "StableDiffusion3Pipeline": _TWO_ENCODERS,
    "ZImagePipeline": _ONE_ENCODER,
}
"""The parts without which a pipeline of a class does not draw."""

NETWORKS: dict[str, str] = {
    "FluxPipeline": "FluxTransformer2DModel",
    "QwenImagePipeline": "QwenImageTransformer2DModel",
    "StableDiffusion3Pipeline": "SD3Transformer2DModel",
    "ZImagePipeline": "ZImageTransformer2DModel",
}
"""The class of the transformer in a pipeline of a class."""

VLMS: dict[str, str] = {
    "idefics3": "actors.vlm.idefics3:Idefics3",
    "llava": "actors.vlm.llava:Llava",
    "qwen2_5_vl": "actors.vlm.qwen_vl:QwenVl",
    "qwen3_vl": "actors.vlm.qwen_vl:QwenVl",
    "qwen3_vl_moe": "actors.vlm.qwen_vl:QwenVl",
    "smolvlm": "actors.vlm.idefics3:Idefics3",
}
"""Vision-language models, by the model_type of their config."""

DUAL_ENCODERS: tuple[str, ...] = ("clip", "siglip")
"""Models that embed images and texts, by the model_type of their config."""
