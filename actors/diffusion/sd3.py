"""Stable Diffusion 3 and 3.5: the MMDiT with two CLIP encoders and, where the folder has one, T5."""

from __future__ import annotations

from typing import ClassVar

from diffusers import StableDiffusion3Pipeline
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import calculate_shift
from torch import Tensor

from actors.diffusion.family import Conditions, Family, LoadOptions, cut_at_word, pipeline_parts

OPTIONAL_PARTS = ("text_encoder_3", "tokenizer_3", "image_encoder", "feature_extractor")


class StableDiffusion3(Family):
    """SD3 behind `Family`: timestep = 1000 sigma, velocity = noise - clean as predicted, no packing, plain guidance.

    Without T5 in the folder, diffusers' pipeline feeds `max_sequence_length` zero vectors in its place; so does this.
    Left out: skip-layer guidance and IP adapters.
    """

    lora_targets: ClassVar[dict[str, tuple[str, ...]]] = {
        "attention": ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
        "all": (
            *("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
            *("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2"),
        ),
    }

    encoder_parts = ("text_encoder", "text_encoder_2", "text_encoder_3")

    def __init__(self, model: str, options: LoadOptions) -> None:
        absent = pipeline_parts(model, OPTIONAL_PARTS, options.decoder)
        pipeline = StableDiffusion3Pipeline.from_pretrained(model, dtype=options.dtype, **absent)
        super().__init__(pipeline, options)

    def fit_caption(self, caption: str) -> str:
        """Cut to the encoder that reads most: T5 where there is one, else the first CLIP."""
        if self.pipeline.tokenizer_3 is not None:
            tokenizer, limit = self.pipeline.tokenizer_3, self.max_sequence_length
        else:
            tokenizer, limit = self.pipeline.tokenizer, self.pipeline.tokenizer_max_length
        return cut_at_word(caption, lambda text: len(tokenizer(text).input_ids) <= limit)

    def encode(self, captions: list[str]) -> Conditions:
        prompt_embeds, _, pooled, _ = self.pipeline.encode_prompt(
            prompt=captions,
            prompt_2=None,
            prompt_3=None,
            do_classifier_free_guidance=False,
            max_sequence_length=self.max_sequence_length,
            device=self.device,
        )
        return Conditions({"prompt_embeds": prompt_embeds, "pooled_prompt_embeds": pooled})

    def velocity(self, latents_BCHW: Tensor, sigma_B: Tensor, conditions: Conditions) -> Tensor:
        return self.transformer(
            hidden_states=latents_BCHW.to(self.dtype),
            timestep=sigma_B * 1000.0,
            encoder_hidden_states=conditions.tensors["prompt_embeds"],
            pooled_projections=conditions.tensors["pooled_prompt_embeds"],
            return_dict=False,
        )[0].float()

    def sigmas(self, num_steps: int, height: int, width: int) -> Tensor:
        scheduler = self.pipeline.scheduler
        config = scheduler.config
        extra = {}
        if config.get("use_dynamic_shifting"):
            _, rows, columns = self.latent_shape(height, width)
            tokens = (rows // self.pipeline.patch_size) * (columns // self.pipeline.patch_size)
            extra["mu"] = calculate_shift(
                tokens,
                config["base_image_seq_len"],
                config["max_image_seq_len"],
                config["base_shift"],
                config["max_shift"],
            )
        scheduler.set_timesteps(num_steps, **extra)
        return scheduler.sigmas.clone()

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        unit = self.pipeline.vae_scale_factor * self.pipeline.patch_size
        if height % unit or width % unit:
            raise ValueError(
                f"an image of {height}x{width} pixels: this model draws multiples of {unit} in each direction"
            )
        scale = self.pipeline.vae_scale_factor
        return int(self.pipeline.transformer.config.in_channels), height // scale, width // scale

    def picture(self, latents_BCHW: Tensor) -> Tensor:
        vae = self.pipeline.vae
        latents = latents_BCHW / vae.config.scaling_factor + (vae.config.get("shift_factor") or 0.0)
        return vae.decode(latents.to(vae.dtype), return_dict=False)[0]
