"""Qwen-Image, of August and of December 2025 (2512): an MMDiT that reads captions through Qwen2.5-VL."""

from __future__ import annotations

from typing import ClassVar

import torch
from diffusers import QwenImagePipeline
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from actors.device import to_device
from actors.diffusion.families.conditions import Conditions
from actors.diffusion.families.packing import pack, unpack
from actors.diffusion.family import Family, LoadOptions, pipeline_parts, vae_config
from actors.diffusion.limits import JOINT_ATTENTION
from actors.families.qwen_image import LONGEST


class QwenImage(Family):
    """Qwen-Image behind `Family`: timestep = sigma, velocity = noise - clean as predicted, tokens of 2 x 2 latents.

    `guidance_scale` is the pipeline's `true_cfg_scale` with the negative prompt " ", which its makers name for want of another; of
    itself the pipeline has none and does not guide.
    Captions have different lengths: of `prompt_embeds` [B, L, D] the first `prompt_lengths` [B] tokens are real, and `prompt_mask`
    [B, L] says so on the device. The lengths stay on the CPU, so that reading them waits for no device.
    Left out: editing, layers, and a distilled model that is told the guidance.
    """

    lora_targets: ClassVar[dict[str, tuple[str, ...]]] = {
        "attention": JOINT_ATTENTION,
        "all": (*JOINT_ATTENTION, "img_mlp.net.0.proj", "img_mlp.net.2", "txt_mlp.net.0.proj", "txt_mlp.net.2"),
    }

    encoder_parts = ("text_encoder",)
    empty_caption = " "

    def __init__(self, model: str, options: LoadOptions) -> None:
        pipeline = QwenImagePipeline.from_pretrained(
            model, dtype=options.dtypes, **pipeline_parts(model, (), options.decoder)
        )
        super().__init__(pipeline, options, longest_sequence=LONGEST)
        self.channels = pipeline.transformer.config.in_channels // 4
        self.scale = 2 ** len(vae_config(model)["temperal_downsample"])

    def fits(self, caption: str) -> bool:
        """Counted with the end of the chat template, without its beginning, which the network is not shown."""
        tokens = len(self.pipeline.tokenizer(self.pipeline.prompt_template_encode.format(caption)).input_ids)
        return tokens - self.pipeline.prompt_template_encode_start_idx <= self.max_sequence_length

    def encode(self, captions: list[str]) -> Conditions:
        prompt_embeds, mask = self.pipeline.encode_prompt(
            captions, device=self.device, max_sequence_length=self.max_sequence_length
        )
        if mask is None:  # nothing is padded
            mask = torch.ones(prompt_embeds.shape[:2], device=self.device)
        return Conditions(
            {"prompt_embeds": prompt_embeds, "prompt_mask": mask.bool(), "prompt_lengths": mask.sum(dim=1).long().cpu()}
        )

    def velocity(self, latents_BCHW: Tensor, sigma_B: Tensor, conditions: Conditions) -> Tensor:
        rows, _, height, width = latents_BCHW.shape
        lengths_B = conditions.tensors["prompt_lengths"]
        longest = int(lengths_B.max())
        padded = bool((lengths_B < longest).any())
        predicted_BND = self.transformer(
            hidden_states=pack(latents_BCHW).to(self.dtype),
            timestep=sigma_B,
            encoder_hidden_states=conditions.tensors["prompt_embeds"][:, :longest],
            encoder_hidden_states_mask=conditions.tensors["prompt_mask"][:, :longest] if padded else None,
            img_shapes=[[(1, height // 2, width // 2)]] * rows,
            return_dict=False,
        )[0]
        return unpack(predicted_BND.float(), height, width)

    def guide(self, unconditional_BCHW: Tensor, conditional_BCHW: Tensor, guidance_scale: float) -> Tensor:
        """w |c| / |w| with w = u + g (c - u), token by token: guidance turns a token's velocity and leaves its length."""
        guided = super().guide(unconditional_BCHW, conditional_BCHW, guidance_scale)
        conditional_BDHW, guided_BDHW = pixel_unshuffle(conditional_BCHW, 2), pixel_unshuffle(guided, 2)
        length = conditional_BDHW.norm(dim=1, keepdim=True) / guided_BDHW.norm(dim=1, keepdim=True)
        return pixel_shuffle(guided_BDHW * length, 2)

    def picture(self, latents_BCHW: Tensor) -> Tensor:
        """The VAE is one of videos, with one frame here; its latents were normalised channel by channel."""
        vae = self.pipeline.vae
        mean, std = (
            to_device(torch.tensor(vae.config[name]), latents_BCHW.device).view(-1, 1, 1)
            for name in ("latents_mean", "latents_std")
        )
        latents_BCFHW = (latents_BCHW * std + mean).unsqueeze(2)
        return vae.decode(latents_BCFHW.to(vae.dtype), return_dict=False)[0][:, :, 0]
