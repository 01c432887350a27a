"""Stable Diffusion 3 and 3.5: the MMDiT with two CLIP encoders and, where the folder has one, T5."""

from __future__ import annotations

from typing import ClassVar

from diffusers import StableDiffusion3Pipeline
from torch import Tensor

from actors.diffusion.families.conditions import Conditions
from actors.diffusion.family import Family, LoadOptions, pipeline_parts, vae_config
from actors.diffusion.limits import JOINT_ATTENTION
from actors.diffusion.schedule import shifted_sigmas
from actors.families.sd3 import LONGEST_T5, T5, WITHOUT_T5
from actors.mistake import Mistake

OPTIONAL_PARTS = (T5, "tokenizer_3", "image_encoder", "feature_extractor")


class StableDiffusion3(Family):
    """SD3 behind `Family`: timestep = 1000 sigma, velocity = noise - clean as predicted, no packing, plain guidance.

    Without T5 in the folder, diffusers' pipeline feeds `max_sequence_length` zero vectors in its place; so does this. A T5 that the
    folder has is left out where `max_sequence_length` is 0: WITHOUT_T5 zero vectors stand for it, and captions are CLIP's.
    Left out: skip-layer guidance and IP adapters.
    """

    lora_targets: ClassVar[dict[str, tuple[str, ...]]] = {
        "attention": JOINT_ATTENTION,
        "all": (*JOINT_ATTENTION, "ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2"),
    }

    encoder_parts = ("text_encoder", "text_encoder_2", T5)

    def __init__(self, model: str, options: LoadOptions) -> None:
        absent = pipeline_parts(model, OPTIONAL_PARTS, options.decoder)
        self.zeros = options.max_sequence_length
        if self.zeros == 0 and T5 not in absent:
            absent |= {T5: None, "tokenizer_3": None}
            self.zeros = WITHOUT_T5
        pipeline = StableDiffusion3Pipeline.from_pretrained(model, dtype=options.dtypes, **absent)
        super().__init__(pipeline, options, longest_sequence=LONGEST_T5)
        self.channels = pipeline.transformer.config.in_channels
        self.scale = 2 ** (len(vae_config(model)["block_out_channels"]) - 1)
        self.patch = pipeline.transformer.config.patch_size
        self.largest = pipeline.transformer.config.pos_embed_max_size * self.patch * self.scale

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        shape = super().latent_shape(height, width)
        if max(height, width) > self.largest:
            raise Mistake(
                f"rollout.height = {height}, rollout.width = {width}: this model draws at most {self.largest} pixels in each direction"
            )
        return shape

    def fits(self, caption: str) -> bool:
        """Counted by the encoder that reads most: T5 where there is one, else the first CLIP."""
        if self.pipeline.tokenizer_3 is not None:
            return len(self.pipeline.tokenizer_3(caption).input_ids) <= self.max_sequence_length
        return len(self.pipeline.tokenizer(caption).input_ids) <= self.pipeline.tokenizer_max_length

    def encode(self, captions: list[str]) -> Conditions:
        prompt_embeds, _, pooled, _ = self.pipeline.encode_prompt(
            prompt=captions,
            prompt_2=None,
            prompt_3=None,
            do_classifier_free_guidance=False,
            max_sequence_length=self.max_sequence_length or self.zeros,
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
        """As `Family.sigmas`, from the scheduler's own sigmas, which end lower than those of the other pipelines."""
        return shifted_sigmas(self.pipeline.scheduler, num_steps, self.tokens(height, width))
