"""FLUX.1: dev, which is told the guidance scale, and schnell, which knows none. Encoders: CLIP for the whole caption, T5 for its words."""

from __future__ import annotations

from typing import ClassVar

import torch
from diffusers import FluxPipeline
from torch import Tensor

from actors.diffusion.families.conditions import Conditions
from actors.diffusion.families.packing import pack, unpack
from actors.diffusion.family import Family, LoadOptions, pipeline_parts, vae_config
from actors.diffusion.limits import JOINT_ATTENTION
from actors.families.sd3 import LONGEST_T5


class Flux(Family):
    """FLUX.1 behind `Family`: timestep = sigma, velocity = noise - clean as predicted, tokens of 2 x 2 latents.

    dev was distilled to be told `guidance_scale`, at any value: there is no unconditional half. For schnell the scale is without
    effect. T5's tokens are padded to `max_sequence_length` and the network attends to all of them, as in diffusers' pipeline.
    `all` reaches the last layer of the network too, because it bears the name of a layer in every block, `proj_out`.
    Left out: guidance by a negative prompt (the pipeline's `true_cfg_scale`) and IP adapters.
    """

    lora_targets: ClassVar[dict[str, tuple[str, ...]]] = {
        "attention": JOINT_ATTENTION,
        "all": (
            *JOINT_ATTENTION,
            *("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2", "proj_mlp", "proj_out"),
        ),
    }

    encoder_parts = ("text_encoder", "text_encoder_2")
    ignored_weights = (r"^text_projection\.weight$",)  # CLIP is read below its projection

    def __init__(self, model: str, options: LoadOptions) -> None:
        pipeline = FluxPipeline.from_pretrained(
            model, dtype=options.dtypes, **pipeline_parts(model, (), options.decoder)
        )
        super().__init__(pipeline, options, longest_sequence=LONGEST_T5)
        self.channels = pipeline.transformer.config.in_channels // 4
        self.scale = 2 ** (len(vae_config(model)["block_out_channels"]) - 1)
        self.is_told_guidance: bool = pipeline.transformer.config.guidance_embeds

    def fits(self, caption: str) -> bool:
        """Counted by T5. CLIP reads the first 77 tokens of whatever it is given."""
        return len(self.pipeline.tokenizer_2(caption).input_ids) <= self.max_sequence_length

    def encode(self, captions: list[str]) -> Conditions:
        prompt_embeds, pooled, _ = self.pipeline.encode_prompt(
            captions, device=self.device, max_sequence_length=self.max_sequence_length
        )
        return Conditions({"prompt_embeds": prompt_embeds, "pooled_prompt_embeds": pooled})

    def needs_unconditional(self, guidance_scale: float) -> bool:
        """Never."""
        return False

    def tell_guidance(self, conditions: Conditions, guidance_scale: float) -> Conditions:
        """The conditions with the scale as float32 [B] for dev; unchanged for schnell."""
        if not self.is_told_guidance:
            return conditions
        pooled = conditions.tensors["pooled_prompt_embeds"]
        guidance_B = torch.full(pooled.shape[:1], guidance_scale, dtype=torch.float32, device=pooled.device)
        return Conditions({**conditions.tensors, "guidance": guidance_B})

    def velocity(self, latents_BCHW: Tensor, sigma_B: Tensor, conditions: Conditions) -> Tensor:
        height, width = latents_BCHW.shape[2:]
        prompt_embeds = conditions.tensors["prompt_embeds"]
        predicted_BND = self.transformer(
            hidden_states=pack(latents_BCHW).to(self.dtype),
            timestep=sigma_B,
            guidance=conditions.tensors.get("guidance"),
            encoder_hidden_states=prompt_embeds,
            pooled_projections=conditions.tensors["pooled_prompt_embeds"],
            txt_ids=torch.zeros(prompt_embeds.shape[1], 3, device=latents_BCHW.device),
            img_ids=token_positions(height // 2, width // 2, latents_BCHW.device),
            return_dict=False,
        )[0]
        return unpack(predicted_BND.float(), height, width)


def token_positions(rows: int, columns: int, device: torch.device) -> Tensor:
    """(0, row, column) of each token, row by row: float32 [rows * columns, 3]."""
    row, column = torch.meshgrid(torch.arange(rows, device=device), torch.arange(columns, device=device), indexing="ij")
    return torch.stack([torch.zeros_like(row), row, column], dim=-1).flatten(0, 1).float()
