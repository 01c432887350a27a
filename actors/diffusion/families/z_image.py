"""Z-Image and Z-Image-Turbo: one stream of image and caption tokens, with Qwen3 as the text encoder."""

from __future__ import annotations

from typing import ClassVar

import torch
from diffusers import ZImagePipeline
from diffusers.models.transformers.transformer_z_image import SEQ_MULTI_OF
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from actors.diffusion.families.conditions import Conditions
from actors.diffusion.family import Family, LoadOptions, pipeline_parts, vae_config

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")


class ZImage(Family):
    """Z-Image behind `Family`: timestep = 1 - sigma, velocity = minus what the network predicts; the network packs by itself.

    Guidance is c + g (c - u) and begins above 0, so that `guidance_scale` 1 here is 2 elsewhere, and 0 is none. Captions have
    different lengths: of `prompt_embeds` [B, L, D] the first `prompt_lengths` [B] tokens are real. The network wants them as a list
    without padding; the lengths stay on the CPU, so that cutting it waits for no device.
    Left out: the pipeline's `cfg_normalization` and `cfg_truncation`, which are off by default.
    """

    lora_targets: ClassVar[dict[str, tuple[str, ...]]] = {
        "attention": ATTENTION,
        "all": (*ATTENTION, "feed_forward.w1", "feed_forward.w2", "feed_forward.w3"),
    }

    encoder_parts = ("text_encoder",)
    ignored_weights = (r"^lm_head\.",)  # the encoder is read below its head

    def __init__(self, model: str, options: LoadOptions) -> None:
        pipeline = ZImagePipeline.from_pretrained(
            model, dtype=options.dtypes, **pipeline_parts(model, (), options.decoder)
        )
        # The image's place on the first axis of positions is behind the caption, which is padded to whole blocks.
        places = pipeline.transformer.config.axes_lens[0]
        super().__init__(pipeline, options, longest_sequence=(places - 2) // SEQ_MULTI_OF * SEQ_MULTI_OF)
        self.channels = pipeline.transformer.config.in_channels
        self.scale = 2 ** (len(vae_config(model)["block_out_channels"]) - 1)

    def fits(self, caption: str) -> bool:
        """Counted with the chat template."""
        text = self.pipeline.tokenizer.apply_chat_template(
            [{"role": "user", "content": caption}], tokenize=False, add_generation_prompt=True, enable_thinking=True
        )
        return len(self.pipeline.tokenizer(text).input_ids) <= self.max_sequence_length

    def encode(self, captions: list[str]) -> Conditions:
        prompt_embeds, _ = self.pipeline.encode_prompt(
            list(captions),  # a copy: the pipeline writes into the list that it is given
            device=self.device,
            do_classifier_free_guidance=False,
            max_sequence_length=self.max_sequence_length,
        )
        lengths_B = torch.tensor([len(embeds) for embeds in prompt_embeds])
        return Conditions({"prompt_embeds": pad_sequence(prompt_embeds, batch_first=True), "prompt_lengths": lengths_B})

    def needs_unconditional(self, guidance_scale: float) -> bool:
        """Whenever it is above 0, as in the pipeline."""
        return guidance_scale > 0

    def velocity(self, latents_BCHW: Tensor, sigma_B: Tensor, conditions: Conditions) -> Tensor:
        lengths = conditions.tensors["prompt_lengths"].tolist()
        captions = zip(conditions.tensors["prompt_embeds"], lengths, strict=True)
        predicted = self.transformer(
            list(latents_BCHW.to(self.dtype).unsqueeze(2)),
            1 - sigma_B,
            [embeds[:length] for embeds, length in captions],
            return_dict=False,
        )[0]
        return -torch.stack(predicted).squeeze(2).float()

    def guide(self, unconditional_BCHW: Tensor, conditional_BCHW: Tensor, guidance_scale: float) -> Tensor:
        """c + g (c - u)."""
        return conditional_BCHW + guidance_scale * (conditional_BCHW - unconditional_BCHW)
